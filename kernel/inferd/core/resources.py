"""What there is to give: devices, and what instances need of them."""

from dataclasses import dataclass

from inferd.core.ids import DeviceId

HOST_DEVICE = DeviceId("cpu:0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCapacity:
    """A device and what may be given of it.

    Attributes:
        device_id: Its name, for example "cpu:0".
        memory_bytes: What may be given of its memory, the reserve of the configuration left out.
        cores: Processor cores; 0 where that has no meaning.
    """

    device_id: DeviceId
    memory_bytes: int
    cores: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a loaded model takes of its device's memory, in bytes: reserved before the load begins.

    Attributes:
        weights_bytes: The weights, as they are held.
        kv_bytes: The pool of KV blocks, whole.
        workspace_bytes: Everything else that its backend takes there: buffers of a step, libraries that it loads.
    """

    weights_bytes: int
    kv_bytes: int = 0
    workspace_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes


GIB, MIB = 1 << 30, 1 << 20


def size_text(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB // 10 else f"{size_bytes / MIB:.1f} MiB"
