"""Runs what Triton's client examples call against a kernel, and writes what came of it to docs/compat.md.

`make compat` runs it; the client is installed into an environment of its own outside the tree. No code of the examples
is here: each is written anew by what it calls.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from triton_models import write_repository

from inferd import __version__
from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import Client

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/compat.md"
BEGIN, END = "<!-- what was run -->", "<!-- to here -->"
PROGRAM = HERE / "triton_examples.py"
CLIENT = "tritonclient[grpc]"
TIMEOUT_S = 180
SHOWN = 160  # characters of what failed
SETTINGS = {
    "INFERD_REPOSITORY__MODE": "explicit",
    "INFERD_REPOSITORY__LOAD": '["*"]',
    "INFERD_AUTH__REQUIRED": "false",
    "INFERD_BACKENDS": "onnx",
    "INFERD_INFERENCE__SHARED_MEMORY": '["input*", "output*"]',
}
LEFT_OUT = {
    "simple_grpc_cudashm_client, simple_grpc_aio_cudashm_client": "they need a GPU; CUDA shared memory is not offered",
    "image_client, grpc_image_client, ensemble_image_client": "they need weights that are downloaded",
    "simple_http_…, simple_http_aio_…": "they speak the protocol's HTTP, which is not offered",
}
CHANGED = {
    "simple_grpc_custom_repeat": "with the tensors of inferd's own test model: one of ONNX gives one set of outputs",
    "vllm_client": "with the tensors of Triton's vLLM backend of today, and inferd's own test model",
}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a kernel with the models of the examples."""
    settings = {**SETTINGS, "INFERD_REPOSITORY__FOLDER": str(write_repository(folder / "models"))}
    with kernel_process(folder, environment=settings, listen="127.0.0.1:0") as kernel, Client(kernel.address) as client:
        client.create_model("repeat_int32", source=str(write_fake_model(folder, "repeat_int32", tensor="repeat")))
        client.create_model("text", source=str(write_fake_model(folder, "text")))
        for name in [each.name for each in client.list_models()]:
            client.load_model(name)
        yield kernel.address


def environment(folder: Path) -> Path:
    """The interpreter of an environment with the client, made where it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "-q", "install", CLIENT], check=True)
    return python


def asked(python: Path, *arguments: str) -> tuple[str, str]:
    """What a program said, and how it failed; "" where it did not."""
    command = [str(python), str(PROGRAM), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "", f"not ended after {TIMEOUT_S} s"
    if done.returncode == 0:
        return done.stdout, ""
    return "", (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:SHOWN].replace("|", "\\|")


def version_of(python: Path) -> str:
    """The version of the client."""
    code = "from importlib.metadata import version; print(version('tritonclient'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def run(python: Path, folder: Path, only: list[str] | None) -> list[tuple[str, str, str]]:
    """The name of each example, what it calls, and what came of it."""
    told, failed = asked(python, "list")
    if failed:
        raise SystemExit(f"the examples cannot be run: {failed}")
    rows = []
    with served(folder) as address:
        for name, words in json.loads(told).items():
            if only and name not in only:
                continue
            begun = time.monotonic()
            _, failed = asked(python, name, address)
            outcome = f"failed: {failed}" if failed else "passed"
            print(f"{name}: {outcome} ({time.monotonic() - begun:.1f} s)", flush=True)
            rows.append((name, words, outcome))
    return rows


def page(rows: list[tuple[str, str, str]], version: str) -> str:
    """What stands between the marks of the page."""
    passed = sum(outcome == "passed" for _, _, outcome in rows)
    lines = [
        f"With inferd {__version__} and `tritonclient` {version}: {passed} of {len(rows)} passed.",
        "",
        "| example | what it calls | outcome |",
        "|---|---|---|",
    ]
    for name, words, outcome in rows:
        how = f" ({CHANGED[name]})" if name in CHANGED else ""
        lines.append(f"| `{name}` | {words}{how} | {outcome} |")
    lines += [
        f"| {', '.join(f'`{each}`' for each in names.split(', '))} | | left out: {why} |"
        for names, why in LEFT_OUT.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="the environment of the client, made if need be")
    parser.add_argument("--only", action="append", help="these examples; default: all, and the page is written")
    chosen = parser.parse_args()
    python = environment(chosen.venv)
    with TemporaryDirectory(prefix="compat-") as folder:
        rows = run(python, Path(folder), chosen.only)
    if not chosen.only:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, behind = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{page(rows, version_of(python))}\n\n{END}{behind}", encoding="utf-8")
    sys.exit(any(outcome != "passed" for _, _, outcome in rows))


if __name__ == "__main__":
    main()
