"""`make fuzz SECONDS=600`: damaged models through the readers, the packer, the tokenizer and a step.

They are GGUF files and shards, Hugging Face folders with all their documents, adapters of both sorts, and projectors.

Only a LoadError may come of them: no crash, no hang, no large allocation. What does come is kept in build/fuzz, and the
exit code is 1. Run again with SEED and CASE to see it: python tests/fuzz/gguf_fuzz.py SECONDS SEED CASE
"""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CHILD = Path(__file__).with_name("gguf_child.py")
KEPT = Path(__file__).parents[2] / "build" / "fuzz"
CASE_TIMEOUT_S = 20.0  # of the processor's time: others may want it, too
SILENT_S = 300.0  # by the clock: for what waits, and for a start
MAX_FINDINGS = 10


@dataclass(slots=True)
class Tally:
    """What came of the cases so far; `findings` are sentences."""

    cases: int = 0
    loaded: int = 0
    findings: list[str] = field(default_factory=list)


def fuzz(
    *, seed: int, first: int = 0, seconds: float = float("inf"), cases: float = float("inf"), model: Path | None = None
) -> Tally:
    """Try cases from `first` on, until the time is over or their number reached; with the head of `model` too."""
    tally, deadline = Tally(), time.monotonic() + seconds
    while tally.cases < cases and time.monotonic() < deadline and len(tally.findings) < MAX_FINDINGS:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [folder, str(seed), str(first + tally.cases), *([str(model)] if model else [])]
            why = _watch(arguments, tally, deadline=deadline, cases=cases)
            if why:
                _keep(Path(folder) / "case.gguf", tally, f"seed {seed}, case {first + tally.cases} {why}")
    return tally


def _watch(arguments: list[str], tally: Tally, *, deadline: float, cases: float) -> str:
    """Follow one child until it ends or hangs, and say so, or until enough is done."""
    why = ""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen([sys.executable, CHILD, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True)
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child, lines), daemon=True)
        reader.start()
        while tally.cases < cases and time.monotonic() < deadline and not why:
            line = _next_line(child.pid, lines)
            if line is None:
                why = f"took more than {CASE_TIMEOUT_S:.0f} s of the processor, or {SILENT_S:.0f} s"
                break
            if not line:
                errors.seek(0)
                said = errors.read().strip()  # a sanitizer begins with the cause, a traceback ends with it
                why = f"ended the process with {child.wait()}: {said[:1000]} … {said[1000:][-500:]}"
            elif not line.startswith("case"):
                tally.cases += 1
                tally.loaded += line == "loaded\n"
        child.kill()
        reader.join()
        child.communicate()
    return why


def _next_line(pid: int, lines: "queue.Queue[str]") -> str | None:
    """What a child says next; None where it is at it for too long."""
    begun, silent_until = _processor_s(pid), time.monotonic() + SILENT_S
    while time.monotonic() < silent_until and _processor_s(pid) - begun < CASE_TIMEOUT_S:
        try:
            return lines.get(timeout=1.0)
        except queue.Empty:
            continue
    return None


def _processor_s(pid: int) -> float:
    """What a child has had of the processor; nothing where it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _read(child: subprocess.Popen[str], lines: "queue.Queue[str]") -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    lines.put("")


def _keep(case: Path, tally: Tally, why: str) -> None:
    if not case.exists():
        raise RuntimeError(f"{CHILD.name} did not begin: {why}")
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = Path(shutil.copy(case, KEPT / f"{tally.cases}.gguf"))
    tally.findings.append(f"{why} ({kept})")
    tally.cases += 1  # the next child goes on behind it


def main() -> None:
    """The command line: seconds, and perhaps a seed and the first case."""
    seconds, seed, first = (int(n) for n in [*sys.argv[1:], *("60", "0", "0")[len(sys.argv) - 1 :]])
    pull = [sys.executable, "-m", "inferd", "pull", "smollm2", "-o", "json"]
    model = json.loads(subprocess.run(pull, check=True, stdout=subprocess.PIPE, text=True).stdout)["path"]
    tally = fuzz(seed=seed, first=first, seconds=seconds, model=Path(model))
    for finding in tally.findings:
        sys.stdout.write(f"{finding}\n")
    sys.stdout.write(f"{tally.cases} files, {tally.loaded} loaded, {len(tally.findings)} findings\n")
    sys.exit(bool(tally.findings))


if __name__ == "__main__":
    main()
