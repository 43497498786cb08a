"""Damaged ONNX files: many in a child that is used again, some through a kernel.

    python tests/fuzz/onnx_fuzz.py FILES [LOADS] [SEED]

FILES go through one child after the other, each of which ends only where a file kills or hangs it; LOADS of them are
loaded by a kernel, too. Only typed errors that name the file may come of them, and what is sound loads and computes
afterwards. What else comes of one is kept in build/fuzz, and the exit code is 1.
"""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_child
import onnx_seeds

from inferd.testing.kernel import kernel_process
from inferd_client import Client
from inferd_client.errors import InferdError

CHILD = Path(__file__).with_name("onnx_child.py")
KEPT = Path(__file__).parents[2] / "build" / "fuzz"
CASE_TIMEOUT_S = 60.0
MOST_FINDINGS = 20
PLUGIN = {"INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
FINE = frozenset({"MODEL_LOAD_FAILED", "BACKEND_UNAVAILABLE", "INVALID_FIELD", "NO_MEMORY", "LIMIT_EXCEEDED"})


@dataclass(slots=True)
class Tally:
    """What came of the cases so far; `findings` are sentences."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many were tried."""
        return self.outcomes.total()


def through_children(*, seed: int, cases: int, first: int = 0) -> Tally:
    """Load so many files in a child, and in another one from behind a file that killed it."""
    tally = Tally()
    while tally.cases < cases and len(tally.findings) < MOST_FINDINGS:
        at = first + tally.cases
        with tempfile.TemporaryDirectory() as folder:
            why = _follow([folder, str(seed), str(at), str(first + cases - at)], tally)
            if why:
                case = first + tally.cases
                tally.findings.append(f"seed {seed}, case {case} {why} ({_keep(seed, case)})")
                tally.outcomes["killed"] += 1
    return tally


def _follow(arguments: list[str], tally: Tally) -> str:
    """Follow one child until it ends; why that was wrong, or ""."""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen([sys.executable, CHILD, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True)
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child, lines), daemon=True)
        reader.start()
        try:
            while line := lines.get(timeout=CASE_TIMEOUT_S):
                tally.outcomes[line.split()[0]] += 1
        except queue.Empty:
            return f"took longer than {CASE_TIMEOUT_S:.0f} s"
        finally:
            child.kill()
            reader.join()
            child.communicate()
        errors.seek(0)
        return f"ended the process with {child.returncode}: {errors.read()[-1500:]}" if child.returncode else ""


def _read(child: subprocess.Popen[str], lines: "queue.Queue[str]") -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    child.wait()
    lines.put("")


def _keep(seed: int, case: int) -> Path:
    KEPT.mkdir(parents=True, exist_ok=True)
    _, ending, data = next(onnx_child.cases(seed, case, 1))
    path = KEPT / f"onnx-{seed}-{case}{ending}"
    path.write_bytes(data)
    return path


def through_a_kernel(folder: Path, *, seed: int, cases: int, first: int = 0) -> Tally:
    """Have a kernel load so many files, each as a model of its own; a sound one computes before and afterwards."""
    tally = Tally()
    with kernel_process(folder / "kernel", environment=PLUGIN) as kernel, Client(kernel.address) as client:
        sound = folder / "sound.onnx"
        sound.write_bytes(onnx_seeds.contents()[0][1])
        client.create_model("sound", source=str(sound))
        before = _compute(client)
        for case, ending, data in onnx_child.cases(seed, first, cases):
            path = folder / f"case-{case}{ending}"
            path.write_bytes(data)
            outcome = _load(client, path)
            tally.outcomes[outcome.split(":")[0]] += 1
            if outcome not in FINE and outcome != "loaded":
                kept = KEPT / f"onnx-{seed}-{case}{ending}"
                KEPT.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, kept)
                tally.findings.append(f"seed {seed}, case {case}: {outcome} ({kept})")
            path.unlink()
        if (after := _compute(client)) != before:
            tally.findings.append(f"the sound model gives {after} and gave {before}")
    return tally


def _compute(client: Client) -> list[float]:
    found = client.infer("sound", {"x": np.arange(4, dtype=np.float32)[None]})
    return [float(each) for each in found["y"].ravel()]


def _load(client: Client, path: Path) -> str:
    """The word "loaded", or the reason of a typed error, with its words where they do not name the file."""
    try:
        client.create_model(path.name, source=str(path), settings={"intra_threads": 1})
        client.load_model(path.name)
    except InferdError as error:
        return error.reason if path.name in str(error) else f"{error.reason}: {error}"
    finally:
        _forget(client, path.name)
    return "loaded"


def _forget(client: Client, name: str) -> None:
    try:
        client.unload_model(name)  # the worker of a load that failed may not have ended
        client.delete_model(name)
    except InferdError as error:
        if error.reason != "MODEL_NOT_FOUND":
            raise


def main() -> None:
    """The command line: files, those that a kernel loads, and perhaps a seed."""
    files, loads, seed = (int(n) for n in [*sys.argv[1:], *("10000", "300", "0")[len(sys.argv) - 1 :]])
    children = through_children(seed=seed, cases=files)
    sys.stdout.write(f"in children: {children.cases} files, {dict(children.outcomes)}\n")
    with tempfile.TemporaryDirectory() as folder:
        kernel = through_a_kernel(Path(folder), seed=seed, cases=loads)
    sys.stdout.write(f"through a kernel: {kernel.cases} files, {dict(kernel.outcomes)}\n")
    for finding in (*children.findings, *kernel.findings):
        sys.stdout.write(f"{finding}\n")
    sys.exit(bool(children.findings or kernel.findings))


if __name__ == "__main__":
    main()
