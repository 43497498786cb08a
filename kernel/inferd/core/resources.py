"""What there is to give: devices, and what instances need of them."""

from dataclasses import dataclass

from inferd.core.ids import DeviceId

HOST_DEVICE = DeviceId("cpu:0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCapacity:
    """A device and what may be given of it.

    Attributes:
        device_id: Its name, for example "cpu:0"; in the core with its host, see `core.host`.
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
        kv_saved_bytes: What the pool would take besides if layers that need the last tokens only kept all, as the
            others do. It is told, not taken.
        paged_bytes: The weights in a file that the operating system pages. They are told, not taken, but for those in
            `weights_bytes` that one step needs.
        offloaded_bytes: What all would be with the setting `expert_offload`; 0 where that changes nothing. It is told.
    """

    weights_bytes: int
    kv_bytes: int = 0
    workspace_bytes: int = 0
    kv_saved_bytes: int = 0
    paged_bytes: int = 0
    offloaded_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All that is taken."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes


GIB, MIB = 1 << 30, 1 << 20


UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(size_bytes: float) -> str:
    """Bytes for people, in decimal units everywhere: "0.9 GB", "98 MB"."""
    amount, unit = size_bytes, 0
    while round(amount, 1) >= 900 and unit < len(UNITS) - 1:  # noqa: PLR2004 - from 900 on the next unit reads better
        amount, unit = amount / 1000, unit + 1
    digits = 0 if unit == 0 or amount >= 10 else 1  # noqa: PLR2004 - two digits are enough
    return f"{amount:.{digits}f} {UNITS[unit]}"
