"""How long the ways of docs/first-answers.md take, command by command as they are written there.

    python tests/system/first_answers.py [--only clone,wheel,http] [--wheel FILE]

Each way begins with nothing: a home of its own, without models and without what pip has fetched before. Needs git,
curl, make, Python, and where packages and the model come from. A wheel is built unless one is named; that is not
counted. Prints a line of JSON for each command, and one for each way; ends with 1 where a way has more than three
commands, or no answer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
WAYS: Final = {"clone": "From a clone", "wheel": "From a wheel", "http": "By HTTP"}
MOST_COMMANDS: Final = 3
LIMIT_S: Final = 3600
BASH: Final = "/bin/bash"
SERVES: Final = "curl "
"""What `inferd serve` says once it serves HTTP begins so."""


def commands_of(way: str) -> list[str]:
    """The commands of a way, as the document has them."""
    text = (ROOT / "docs/first-answers.md").read_text(encoding="utf-8")
    section = text.partition(f"## {WAYS[way]}\n")[2].partition("\n## ")[0]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    if found is None:
        sys.exit(f"docs/first-answers.md has no commands under {WAYS[way]!r}")
    return [re.sub(r"\s+# .*", "", line) for line in found[1].splitlines() if line.strip()]


class Newcomer:
    """Types commands in a home of their own.

    Args:
        home: An empty folder, of a short path: sockets are below it.
        wheel: What `pip install inferd` installs.
    """

    def __init__(self, home: Path, wheel: Path | None) -> None:
        self._folder = home
        self._wheel = wheel
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        (home / "run").mkdir(mode=0o700)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("INFERD_", "XDG_", "VIRTUAL_"))
        }
        self._environment = kept | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "PATH": f"{home}/v/bin:{kept['PATH']}",
            "INFERD_METRICS_LISTEN": "",
            "INFERD_HTTP__LISTEN": f"127.0.0.1:{self._port}",  # another program may have the usual one
        }
        self._serving: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        """Make the environment into which the wheel is installed, as whoever reads the document has one."""
        subprocess.run([sys.executable, "-m", "venv", self._folder / "v"], check=True)

    def type(self, command: str) -> tuple[float, str]:
        """Run a command as it is written; how long it took, in seconds, and what it said.

        Raises:
            RuntimeError: It failed.
        """
        shell = command.replace("git clone … ", f"git clone -q {ROOT} ").replace(":7413/", f":{self._port}/")
        if self._wheel is not None:
            shell = shell.replace("pip install inferd", f"pip install -q '{self._wheel}[http]'")
        began = time.monotonic()
        if shell.startswith("inferd serve"):
            said = self._serve(shell)
        else:
            done = subprocess.run(
                [BASH, "-c", f"{shell} && pwd > {self._folder}/.here"],
                env=self._environment,
                cwd=self._here(),
                capture_output=True,
                text=True,
                check=False,
                timeout=LIMIT_S,
            )
            said = done.stdout
            if done.returncode:
                raise RuntimeError(f"{shell} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return time.monotonic() - began, said

    def _here(self) -> Path:
        here = self._folder / ".here"
        return Path(here.read_text().strip()) if here.exists() else self._folder

    def _serve(self, shell: str) -> str:
        self._serving = subprocess.Popen(
            [BASH, "-c", f"exec {shell}"],
            env=self._environment,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._serving.stdout is not None
        said = ""
        for line in self._serving.stdout:
            said += line
            if line.startswith(SERVES):
                return said
        raise RuntimeError(f"{shell} ended: {said}")

    def leave(self) -> None:
        """End the kernel, if one was started."""
        if self._serving is not None:
            self._serving.terminate()
            self._serving.wait(60)


def measure(way: str, wheel: Path | None) -> bool:
    """Go a way and tell how long it took; whether it has an answer and few enough commands."""
    commands = commands_of(way)
    with TemporaryDirectory(prefix="new-") as folder:
        newcomer = Newcomer(Path(folder), None if way == "clone" else wheel)
        try:
            if way != "clone":
                newcomer.prepare()
            if way == "http":  # behind the wheel, which it begins with
                newcomer.type("pip install inferd")
            whole, said = 0.0, ""
            for command in commands:
                took_s, said = newcomer.type(command)
                whole += took_s
                print(json.dumps({"way": way, "command": command, "s": round(took_s, 1)}), flush=True)
        finally:
            newcomer.leave()
    good = "Paris" in said and len(commands) <= MOST_COMMANDS
    facts = {"way": way, "commands": len(commands), "s": round(whole, 1), "answered": "Paris" in said}
    print(json.dumps(facts), flush=True)
    return good


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(WAYS), help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--wheel", type=Path, help="a wheel that is built already")
    options = parser.parse_args()
    ways = options.only.split(",")
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--only has {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    with TemporaryDirectory(prefix="wheel-") as folder:
        wheel = options.wheel
        if wheel is None and set(ways) - {"clone"}:
            build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
            subprocess.run(build, check=True)
            wheel = next(Path(folder).glob("inferd-*.whl"))
        good = [measure(way, wheel and wheel.resolve()) for way in ways]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
