"""What a device has and who holds it: the records of the memory broker."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.core.ids import DeviceId, InstanceId, LeaseId
    from inferd.core.resources import MemoryNeed


@dataclass(slots=True, kw_only=True)
class Account:
    """What one device has and who holds it. One writer: the broker.

    Attributes:
        device_id: The device.
        capacity_bytes: What may be given of its memory.
        open: Whether anything is given of it: its host is READY. What is held of it stays held.
        cores: Cores that leases may hold.
        instance_bytes: Held for instances, those under leases left out.
        lease_bytes: Held by leases, whether instances draw on it or not.
        drawn_bytes: The part of `lease_bytes` that instances draw.
        foreign_bytes: Held by programs that the kernel does not know.
        stopping_bytes: The part of `instance_bytes` whose workers are being stopped.
        idle_bytes: The part of `instance_bytes` that could be evicted.
        expected_bytes: What instances that start there will ask for, as far as that is known.
        leased_cores: Cores that leases hold.
        idle: Instances that could be evicted, the least recently used first.
        held_by: Instances that hold something of it, those under leases left out.
    """

    device_id: DeviceId
    capacity_bytes: int
    cores: int
    open: bool = True
    instance_bytes: int = 0
    lease_bytes: int = 0
    drawn_bytes: int = 0
    foreign_bytes: int = 0
    stopping_bytes: int = 0
    idle_bytes: int = 0
    expected_bytes: int = 0
    leased_cores: int = 0
    idle: OrderedDict[InstanceId, None] = field(default_factory=OrderedDict)
    held_by: dict[InstanceId, None] = field(default_factory=dict)

    @property
    def free_bytes(self) -> int:
        """What can be given now."""
        return self.spare_bytes if self.open else 0

    @property
    def spare_bytes(self) -> int:
        """What nobody holds; foreign programs may have taken more than there is."""
        return max(0, self.capacity_bytes - self.instance_bytes - self.lease_bytes - self.foreign_bytes)

    @property
    def leased(self) -> bool:
        """Whether a lease holds something of it."""
        return bool(self.lease_bytes or self.leased_cores)

    @property
    def free_cores(self) -> int:
        """Cores that can be given now."""
        return self.cores - self.leased_cores if self.open else 0


@dataclass(slots=True)
class Reservation:
    """What an instance holds: of each of its devices, or of a lease's shares of them."""

    device_ids: tuple[DeviceId, ...]
    need: MemoryNeed
    size_bytes: int
    lease_id: LeaseId
    stopping: bool = False


@dataclass(slots=True)
class Part:
    """What a lease holds of one device, and how much of that its instances have drawn."""

    size_bytes: int = 0
    drawn_bytes: int = 0
    cores: int = 0
