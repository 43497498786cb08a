"""What the backend has on this host, found without what it computes with: each start of a kernel waits for it."""

from typing import Final

from inferd.plugin import DeviceInfo, Probe
from inferd.plugin.host import count_cores, read_memory
from inferd_cpu.host import read_processor
from inferd_cpu.native import NativeMissing, describe, read_lacking

DEVICE: Final = "cpu:0"


def probe() -> Probe:
    """One device: all cores and memory that this process may use; and what the native library lacks."""
    try:
        engine = describe()
        why, fix = read_lacking() or ("", "")
    except NativeMissing as missing:
        engine = "F32 with numpy"
        why, fix = f"{missing}: models run with numpy, several times slower", missing.fix
    device = DeviceInfo(
        device_id=DEVICE,
        description=f"{read_processor()}, {engine}",
        memory_bytes=read_memory().total_bytes,
        cores=count_cores(),
    )
    return Probe(devices=(device,), why=why, fix=fix)
