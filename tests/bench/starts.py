"""How long things take to start: the kernel, a worker, the client's import."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from limits import Figure
from served import kernel

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import Client

RUNS = 5


def figures(*, only: str) -> Iterator[Figure]:
    """`start.kernel`, `start.worker` and `import.client`."""
    if "start.kernel".startswith(only):
        times = [_time_kernel() for _ in range(RUNS)]
        value = round(statistics.median(times) * 1e3, 1)
        detail = f"process to serving, discovery included; median of {RUNS}"
        yield Figure(name="start.kernel", value=value, unit="ms", detail=detail)
    if "start.worker".startswith(only):
        value = round(statistics.median(_time_workers()) * 1e3, 1)
        detail = f"LoadModel of the FakeBackend; median of {RUNS}"
        yield Figure(name="start.worker", value=value, unit="ms", detail=detail)
    if "import.client".startswith(only):
        value = round(statistics.median(_time_import() for _ in range(RUNS)) * 1e3, 1)
        yield Figure(name="import.client", value=value, unit="ms", detail=f"grpc included; median of {RUNS}")


def _time_kernel() -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with kernel_process(Path(folder)):
            return time.perf_counter() - started


def _time_workers() -> list[float]:
    times = []
    with kernel() as process, Client(process.address) as client:
        client.create_model("fake", source=str(write_fake_model(process.folder)))
        for _ in range(RUNS):
            started = time.perf_counter()
            client.load_model("fake")
            times.append(time.perf_counter() - started)
            client.unload_model("fake")
    return times


def _time_import() -> float:
    code = "import time; t = time.perf_counter(); import inferd_client; print(time.perf_counter() - t)"
    asked = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(asked.stdout)
