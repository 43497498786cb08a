"""Reading the memory of devices: the host's from /proc, that of NVIDIA devices from NVML."""

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inferd.plugin.host import read_memory

STATM_SHARED = 2  # the column of resident pages that are those of files; see proc(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The memory of a device at one instant, in bytes.

    Attributes:
        total_bytes: All of it.
        free_bytes: What can be taken.
        held_bytes: What the asked-for processes hold; None where the device does not tell.
    """

    total_bytes: int
    free_bytes: int
    held_bytes: int | None

    @property
    def used_bytes(self) -> int:
        """What everybody holds."""
        return self.total_bytes - self.free_bytes


class GaugeError(Exception):
    """The device cannot be read now."""


class Gauge(Protocol):
    """Reads the memory of one device."""

    def read(self, pids: Collection[int]) -> Reading:
        """The memory of the device, and what of it these processes hold.

        Raises:
            GaugeError: It cannot be read.
        """
        ...


class HostGauge:
    """Reads the memory of the host, or of the control group that bounds this process."""

    def read(self, pids: Collection[int]) -> Reading:
        """Pages of files are left out on both sides: they are given back when memory is short."""
        memory = read_memory()
        held_bytes = sum(map(_own_bytes, pids))
        return Reading(total_bytes=memory.total_bytes, free_bytes=memory.free_bytes, held_bytes=held_bytes)


class NvmlGauge:
    """Reads the memory of one NVIDIA device.

    Args:
        nvml: The module `pynvml`, initialised.
        uuid: Of the device, "GPU-…".
    """

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        self._uuid = uuid

    def read(self, pids: Collection[int]) -> Reading:
        """Inside a container the driver may know processes by other ids; then what they hold is None.

        Raises:
            GaugeError: The driver refuses.
        """
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError as error:
            raise GaugeError(f"device {self._uuid}: {error}") from error
        held = [process.usedGpuMemory for process in processes if process.pid in pids]
        known = bool(held) and None not in held
        return Reading(total_bytes=memory.total, free_bytes=memory.free, held_bytes=sum(held) if known else None)


def open_nvml() -> Any | None:
    """The module `pynvml`, initialised; None where it or the driver is not there."""
    try:
        import pynvml  # noqa: PLC0415 - comes with the extra of a backend for such devices
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - an edge to the library of a driver
        return None
    return pynvml


def _own_bytes(pid: int) -> int:
    """Resident memory of a process without pages of files; 0 when it is gone."""
    with suppress(OSError):
        columns = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return (int(columns[1]) - int(columns[STATM_SHARED])) * os.sysconf("SC_PAGE_SIZE")
    return 0
