"""What a GPU is asked in its first hour: versions, limits, correctness, figures beside those limits, and a table.

    make gpu            (SECONDS=470 OUT=folder ONLY=limits,1b)
    make gpu-dry        the same with tiny networks on the processor, as a test does

It needs torch, transformers, pytest and what lies in this tree: nothing is installed, and nothing is fetched. Each
figure is a line of JSON, written as it comes, to the output and to OUT. Phases have deadlines. Those that may cost a
context have a process of their own; one that dies or is late is told, and the others go on in a new process.
"""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).parent
TREE = HERE.parents[1]
FOLDERS = ("kernel", "plugins", "protos", "clients/python", "tests/reference", "tests/gpu")
STARTING_S = 60.0  # for a process to import torch and find its device
GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the hour.

    Attributes:
        name: Of the function in `gpu_phases.py`.
        seconds: Most that it may take.
        least_s: With less than this left it is not begun.
        alone: In a process of its own.
    """

    name: str
    seconds: float
    least_s: float = 5.0
    alone: bool = False


PHASES = (
    Phase("versions", 20),
    Phase("limits", 30),
    Phase("twins", 110),
    Phase("greedy", 40),
    Phase("packed", 50),
    Phase("replay", 30),
    Phase("draws", 20),
    Phase("bad_rows", 20),
    Phase("lost_device", 60),
    Phase("shape_1b", 90, least_s=30),
    Phase("shape_8b", 120, least_s=60),
    Phase("contract", 150, least_s=40, alone=True),
    Phase("baselines_1b", 120, least_s=40, alone=True),
    Phase("baselines_8b", 100, least_s=60, alone=True),
)


class Hour:
    """Runs phases one after the other and tells what comes of them.

    Args:
        seconds: For all of them.
        out: Where lines go, beside the standard output.
        dry: With tiny networks on the processor.
        script: What has the phases.
    """

    def __init__(self, seconds: float, out: TextIO | None, *, dry: bool, script: Path = HERE / "gpu_phases.py") -> None:
        self._end = time.monotonic() + seconds
        self._out = out
        self._dry = dry
        self._script = script
        self.lines: list[dict[str, Any]] = []

    def tell(self, **line: Any) -> None:
        """Write a line, at once."""
        self.lines.append(line)
        for stream in (sys.stdout, self._out):
            if stream is not None:
                print(json.dumps(line), file=stream, flush=True)

    def run(self, phases: list[Phase]) -> None:
        """All phases, in order; those in one process as long as it lives."""
        left = list(phases)
        while left:
            together = [left[0]]
            while len(together) < len(left) and (self._dry or not (left[0].alone or left[len(together)].alone)):
                together.append(left[len(together)])
            done = self._run_together(together)
            left = left[max(done, 1) :]

    def _run_together(self, phases: list[Phase]) -> int:
        """Phases in one process; how many of them are over, whatever came of them."""
        over = 0
        child = subprocess.Popen(
            [sys.executable, self._script, *(["--dry"] if self._dry else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment() | ({"OMP_NUM_THREADS": "1"} if self._dry else {}),
            text=True,
            start_new_session=True,
        )
        try:
            for number, phase in enumerate(phases):
                left = self._end - time.monotonic()
                if left < phase.least_s:
                    self.tell(
                        phase=phase.name, event="skipped", detail=f"{left:.0f} s left, it takes {phase.least_s:.0f}"
                    )
                elif not self._run_one(child, phase, starting=number == 0):
                    return number + 1
                over = number + 1
        finally:
            self._end_child(child)
        return over

    def _run_one(self, child: "subprocess.Popen[str]", phase: Phase, *, starting: bool) -> bool:
        """Whether the process lives on behind it."""
        began = time.monotonic()
        deadline = min(began + phase.seconds + (STARTING_S if starting else 0.0), self._end)
        self.tell(phase=phase.name, event="begun")
        try:
            child.stdin.write(f"{phase.name} {deadline}\n")  # type: ignore[union-attr] # a pipe
            child.stdin.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass  # its end is read below
        for line in read_lines(child, deadline + GRACE_S):
            if line is None:
                self.tell(phase=phase.name, event="late", detail=f"ended after {time.monotonic() - began:.0f} s")
                return False
            if line.get("event") == "over":
                self.tell(phase=phase.name, event="over", seconds=round(time.monotonic() - began, 1))
                return True
            self.tell(phase=phase.name, **line)
        self.tell(phase=phase.name, event="died", detail=f"exit code {child.wait(GRACE_S)}")
        return False

    def _end_child(self, child: "subprocess.Popen[str]") -> None:
        child.stdin.close()  # type: ignore[union-attr] # its word to end
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        child.stdout.close()  # type: ignore[union-attr]


def environment() -> dict[str, str]:
    """With this tree's packages before all others, and nothing that reaches out."""
    path = os.pathsep.join([*(str(TREE / folder) for folder in FOLDERS), os.environ.get("PYTHONPATH", "")])
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    quiet["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of the tests of the processor are not everywhere
    return {**os.environ, **quiet, "PYTHONPATH": path.strip(os.pathsep)}


def read_lines(child: "subprocess.Popen[str]", deadline: float) -> Iterator[dict[str, Any] | None]:
    """What it writes, until it ends; None when it is late."""
    pipe: Any = child.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        rest = b""
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                yield None
                return
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):
                    yield json.loads(line)
                else:
                    print(line.decode(errors="replace"), file=sys.stderr)


def table(lines: list[dict[str, Any]]) -> str:
    """The figures, and how each phase ended."""
    rows = [f"{'figure':<44}{'value':>12}  unit"]
    for line in lines:
        if "value" in line:
            detail = f"  {line['detail']}" if line.get("detail") else ""
            value = line["value"] if isinstance(line["value"], str) else f"{line['value']:.4g}"
            rows.append(f"{line['name']:<44}{value:>12}  {line.get('unit', '')}{detail}")
        elif line.get("event") in {"late", "died", "skipped", "failed"}:
            rows.append(f"{line['phase']:<44}{line['event']:>12}  {line.get('detail', '')}")
    return "\n".join(rows)


def main() -> int:
    """0 where nothing died, was late or failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--seconds", type=float, default=470.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else []
    phases = [phase for phase in PHASES if not wanted or phase.name in wanted]
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    out = (given.out / "gpu.jsonl").open("a") if given.out else None
    hour = Hour(given.seconds, out, dry=given.dry)
    hour.run(phases)
    text = table(hour.lines)
    if given.out:
        (given.out / "gpu.txt").write_text(text + "\n")
    print(text)
    return any(line.get("event") in {"late", "died", "failed"} for line in hour.lines)


if __name__ == "__main__":
    sys.exit(main())
