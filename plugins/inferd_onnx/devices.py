"""The devices of this host, and what computes on each. The runtime is not imported here."""

import ctypes
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from inferd.plugin import DeviceInfo, LoadError
from inferd.plugin.host import count_cores, read_memory

CPU = "cpu:0"
CUDA = "cuda"
FRAMEWORK = "onnxruntime"
DISTRIBUTIONS = {  # of the same module, and what is installed for it; of several the first
    "onnxruntime-gpu": "inferd[onnx-gpu]",
    "onnxruntime-openvino": "onnxruntime-openvino",
    "onnxruntime": "inferd[onnx]",
}
CUDA_LIBRARY = "libonnxruntime_providers_cuda.so"  # a build of the runtime for CUDA has it
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
DRIVER_LIBRARY = "libcuda.so.1"
NAME_BYTES, UUID_BYTES = 256, 16


def find_devices() -> tuple[DeviceInfo, ...]:
    """CUDA devices first, where the runtime is a build for them, then the processor.

    The runtime is looked up and not imported; what the driver says of its devices comes from the driver's library.

    Raises:
        ModuleNotFoundError: The runtime is not installed.
    """
    library = find_library()
    processor = DeviceInfo(
        device_id=CPU, description="processor", memory_bytes=read_memory().total_bytes, cores=count_cores()
    )
    cuda = _find_cuda() if NVIDIA_DRIVER.exists() and (library / CUDA_LIBRARY).exists() else ()
    return (*cuda, processor)


def read_clash() -> tuple[str, str]:
    """What is wrong with what is installed, and the command that mends it; "" where nothing is."""
    found = [name for name in DISTRIBUTIONS if any(metadata.distributions(name=name))]
    if len(found) < 2:  # noqa: PLR2004 - one is right
        return "", ""
    why = f"{' and '.join(found)} are installed beside each other, and each overwrites files of the other"
    return why, f"pip uninstall -y {' '.join(found)} && pip install '{DISTRIBUTIONS[found[0]]}'"


def find_library() -> Path:
    """The folder of the runtime's libraries.

    Raises:
        ModuleNotFoundError: The runtime is not installed.
    """
    spec = find_spec(FRAMEWORK)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{FRAMEWORK} is not installed", name=FRAMEWORK)
    return Path(spec.submodule_search_locations[0]) / "capi"


def check_device(device_id: str) -> None:
    """Check that there is such a device.

    Raises:
        LoadError: There is not.
    """
    known = [device.device_id for device in find_devices()]
    if device_id in known:
        return
    why = ""
    if device_id.startswith(f"{CUDA}:"):
        if not (find_library() / CUDA_LIBRARY).exists():
            why = ": the installed onnxruntime is built for the processor; uninstall it, then install inferd[onnx-gpu]"
        elif not NVIDIA_DRIVER.exists():
            why = ": this host has no NVIDIA driver"
    raise LoadError(f"device {device_id!r} is not known; this backend has {', '.join(known)}{why}")


def _find_cuda() -> tuple[DeviceInfo, ...]:
    """What the driver's library tells (CUDA driver API, cuDeviceGet and others); nothing where it does not start."""
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_describe(driver, index) for index in range(count.value))


def _describe(driver: ctypes.CDLL, index: int) -> DeviceInfo:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name, uuid = ctypes.create_string_buffer(NAME_BYTES), ctypes.create_string_buffer(UUID_BYTES)
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, NAME_BYTES, device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or driver.cuDeviceGetUuid(uuid, device)
    )
    if failed:
        raise OSError(f"the CUDA driver gave error {failed} for device {index}")
    digits = uuid.raw.hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return DeviceInfo(
        device_id=f"{CUDA}:{index}",
        description=name.value.decode(errors="replace"),
        memory_bytes=memory.value,
        uuid=f"GPU-{'-'.join(parts)}",
    )
