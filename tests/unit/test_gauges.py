"""Reading the memory of the host and of NVIDIA devices, the driver of which is made up."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.runtime.gauges import GaugeError, HostGauge, NvmlGauge, open_nvml

MIB = 1 << 20


class NVMLError(Exception):
    """What the driver raises."""


def make_nvml(*processes: tuple[int, int | None], uuid: str = "GPU-1", total: int = 100, free: int = 60) -> Any:
    """A module like `pynvml` with one device and what runs on it: (process id, bytes)."""

    def find(asked: str) -> str:
        if asked != uuid:
            raise NVMLError("Not Found")
        return uuid

    running = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes]
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=find,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=total, free=free),
        nvmlDeviceGetComputeRunningProcesses=lambda _: running,
    )


def test_host_memory_of_processes() -> None:
    """The host tells what processes hold of their own; a process that is gone holds nothing."""
    size = 200 * MIB
    script = f"import sys; held = bytearray(b'x') * {size}; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        reading = HostGauge().read({holder.pid})
        assert reading.held_bytes is not None
        assert size < reading.held_bytes < size + 50 * MIB
        assert 0 < reading.held_bytes < reading.used_bytes < reading.total_bytes
        both = HostGauge().read({holder.pid, os.getpid()})
        assert both.held_bytes is not None
        assert both.held_bytes > reading.held_bytes
    assert HostGauge().read({holder.pid}).held_bytes == 0


@pytest.mark.parametrize(
    ("processes", "held_bytes"),
    [
        ([(7, 10), (8, 20), (9, 4)], 30),
        ([(9, 40)], None),
        ([(7, None), (8, 20)], None),
    ],
    ids=["known", "other ids", "not told"],
)
def test_device_memory_of_processes(processes: list[tuple[int, int | None]], held_bytes: int | None) -> None:
    """A device tells what processes hold, or None when the driver knows them by other ids or does not say."""
    reading = NvmlGauge(make_nvml(*processes), "GPU-1").read({7, 8})
    assert (reading.total_bytes, reading.used_bytes, reading.held_bytes) == (100, 40, held_bytes)


def test_a_device_that_the_driver_does_not_know() -> None:
    """An error of the driver is ours, with its words."""
    with pytest.raises(GaugeError, match="device GPU-2: Not Found"):
        NvmlGauge(make_nvml(), "GPU-2").read(())


def test_open_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the module, and without a driver, there is nothing to measure with."""
    nvml = make_nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert open_nvml() is nvml

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    nvml.nvmlInit = fail
    assert open_nvml() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml() is None
