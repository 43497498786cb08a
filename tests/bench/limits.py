"""What this machine can do at most, measured in the same sitting as the figures that are held against it.

`limit.memory_read` (GB/s from all cores), `limit.gemm_fp32` (numpy), `limit.gemm_bf16`, `limit.gemm_int8` and
`limit.gemm_int4` (numbers of eight bits with those of eight or four, from cache; a multiplication and an addition are
two operations). All but the second come from `limits.c`, compiled here for this processor, which tries several ways for
each and says which was the quickest; where there is no compiler they are skipped with the reason.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

import psutil

SOURCE = Path(__file__).with_suffix(".c")
SECONDS = 2.0  # of each measurement
ORDER = 2048  # of the fp32 product
READ_BYTES = 1 << 30  # more than the caches hold; less where memory is short
TIMEOUT_S = 60


class Figure(TypedDict):
    """One figure of the bench; `value` is None when it was skipped, and `detail` says why."""

    name: str
    value: float | None
    unit: str
    detail: str


class Skipped(Exception):  # noqa: N818 - no defect: the figure cannot be had here
    """Why a figure cannot be measured on this machine."""


def measure(only: str = "", *, read_bytes: int = READ_BYTES) -> Iterator[Figure]:
    """Measure the limits whose names begin with `only`, about two seconds each; memory by reading so much in turn."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        measurements: dict[tuple[str, str], Callable[[], tuple[float, str]]] = {
            ("limit.memory_read", "GB/s"): lambda: run_program(program, "memory_read", read_bytes),
            ("limit.gemm_fp32", "GFLOP/s"): multiply_fp32,
            ("limit.gemm_bf16", "GFLOP/s"): lambda: run_program(program, "gemm_bf16"),
            ("limit.gemm_int8", "GOP/s"): lambda: run_program(program, "gemm_int8"),
            ("limit.gemm_int4", "GOP/s"): lambda: run_program(program, "gemm_int4"),
        }
        for (name, unit), take in measurements.items():
            if name.startswith(only):
                try:
                    value, detail = take()
                    yield Figure(name=name, value=round(value, 1), unit=unit, detail=detail)
                except Skipped as skipped:
                    yield Figure(name=name, value=None, unit=unit, detail=f"skipped: {skipped}")


def multiply_fp32() -> tuple[float, str]:
    """Best rate of a square product in numpy, with as many threads as its library takes."""
    import numpy as np  # noqa: PLC0415 - a later figure sets the environment that numpy reads when it is imported

    a = np.random.default_rng(0).random((ORDER, ORDER), dtype=np.float32)
    out = a @ a  # warms the library's threads
    best_s = float("inf")
    deadline = time.perf_counter() + SECONDS
    while (begin := time.perf_counter()) < deadline:
        np.matmul(a, a, out=out)
        best_s = min(best_s, time.perf_counter() - begin)
    return 2 * ORDER**3 / best_s / 1e9, f"numpy {np.__version__}, {ORDER} x {ORDER}, best product"


def run_program(program: Path, figure: str, read_bytes: int = READ_BYTES) -> tuple[float, str]:
    """A rate of `limits.c` in 1e9 a second, on all cores that this process may use.

    Raises:
        Skipped: It cannot be compiled, or ended in error.
    """
    if not program.exists():
        compile_program(program)
    threads = len(os.sched_getaffinity(0))
    read_bytes = min(read_bytes, psutil.virtual_memory().available // 2)
    call = [str(program), figure, str(threads), str(SECONDS), str(read_bytes)]
    result = subprocess.run(call, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if result.returncode != 0:
        raise Skipped(f"{SOURCE.name} ended with {result.returncode}: {result.stderr.strip()}")
    value, instructions = result.stdout.strip().split(maxsplit=1)
    return float(value), f"{instructions}, {threads} threads"


def compile_program(program: Path) -> None:
    """Compile `limits.c` for this processor, or for what LIMITS_CFLAGS says.

    Raises:
        Skipped: There is no compiler, or it does not take the source.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise Skipped("no C compiler (cc, gcc or clang) was found")
    for_processor = os.environ.get("LIMITS_CFLAGS", "-march=native").split()
    call = [compiler, "-O3", *for_processor, "-pthread", "-o", str(program), str(SOURCE)]
    result = subprocess.run(call, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if result.returncode != 0:
        raise Skipped(f"{compiler} cannot compile {SOURCE.name}: {result.stderr.strip().splitlines()[:1]}")


if __name__ == "__main__":
    for measured in measure():
        print(json.dumps(measured))
