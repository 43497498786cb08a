"""What the backend has on this host, found without numpy: each start of a kernel waits for it."""

from typing import Final

from inferd.plugin import DeviceInfo, Probe
from inferd.plugin.host import count_cores, read_memory

CPU: Final = "cpu:0"


def probe() -> Probe:
    """The processor: it is always there."""
    memory_bytes = read_memory().total_bytes
    device = DeviceInfo(device_id=CPU, description="processor", memory_bytes=memory_bytes, cores=count_cores())
    return Probe(devices=(device,))
