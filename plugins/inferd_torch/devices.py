"""The devices of this host and their free memory."""

import os
from importlib.util import find_spec
from pathlib import Path

import psutil

from inferd.plugin import DeviceInfo, LoadError

CPU = "cpu:0"
FRAMEWORKS = ("torch", "transformers", "safetensors", "accelerate", "gguf")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# (limit, use) of the control group that a container sees as its root, version 2 and 1.
GROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def find_devices() -> tuple[DeviceInfo, ...]:
    """CUDA devices first, then the processor.

    The frameworks are looked up and not imported, which takes seconds; only where a driver is loaded does torch count
    the devices.

    Raises:
        ModuleNotFoundError: A framework is not installed.
    """
    for name in FRAMEWORKS:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
    processor = DeviceInfo(
        device_id=CPU,
        description="processor",
        memory_bytes=min(psutil.virtual_memory().total, *(limit for limit, _ in _group_limits()), 1 << 62),
        cores=len(os.sched_getaffinity(0)),
    )
    return (*(_find_cuda() if NVIDIA_DRIVER.exists() else ()), processor)


def free_bytes(device_id: str) -> int:
    """Memory of a device that can be taken now, in bytes.

    Raises:
        LoadError: There is no such device.
    """
    known = [device.device_id for device in find_devices()]
    if device_id not in known:
        raise LoadError(f"device {device_id!r} is not known; this backend has {', '.join(known)}")
    if device_id == CPU:
        rooms = [max(limit - used, 0) for limit, used in _group_limits()]
        return min(psutil.virtual_memory().available, *rooms, 1 << 62)
    import torch  # noqa: PLC0415 - see `find_devices`

    free, _ = torch.cuda.mem_get_info(device_id)
    return free


def _find_cuda() -> tuple[DeviceInfo, ...]:
    import torch  # noqa: PLC0415 - see `find_devices`

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(
        DeviceInfo(device_id=f"cuda:{index}", description=device.name, memory_bytes=device.total_memory)
        for index, device in enumerate(found)
    )


def _group_limits() -> list[tuple[int, int]]:
    """(limit, use) in bytes of the control groups that bound this process."""
    texts = [(_read(limit), _read(use)) for limit, use in GROUP_FILES]
    return [(int(limit), int(use)) for limit, use in texts if limit.isdigit() and use.isdigit()]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
