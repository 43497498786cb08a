"""The devices of this host."""

from importlib.util import find_spec
from pathlib import Path

from inferd.plugin import DeviceInfo, LoadError
from inferd.plugin.host import count_cores, read_memory

CPU = "cpu:0"
FRAMEWORKS = ("torch", "transformers", "safetensors", "accelerate")
# Signs of a driver of NVIDIA. Containers have the devices without the file of /proc; WSL has a device of its own.
MIG = " MIG "  # in the name of a part of a device, whose number NVML knows by another word
NVIDIA_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))


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
        memory_bytes=read_memory().total_bytes,
        cores=count_cores(),
    )
    return (*(_find_cuda() if any(sign.exists() for sign in NVIDIA_DRIVERS) else ()), processor)


def check_device(device_id: str) -> None:
    """Check that there is such a device.

    Raises:
        LoadError: There is not.
    """
    known = [device.device_id for device in find_devices()]
    if device_id not in known:
        raise LoadError(f"device {device_id!r} is not known; this backend has {', '.join(known)}")


def _find_cuda() -> tuple[DeviceInfo, ...]:
    import torch  # noqa: PLC0415 - see `find_devices`

    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(
        DeviceInfo(
            device_id=f"cuda:{index}",
            description=device.name,
            memory_bytes=device.total_memory,
            uuid=f"{'MIG' if MIG in device.name else 'GPU'}-{device.uuid}",
        )
        for index, device in enumerate(found)
    )
