"""What a load would take: the answer of `Broker.plan`, for `PlanLoad` and for the load itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inferd.core.resources import size_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import DeviceId, InstanceId, LeaseId
    from inferd.core.resources import MemoryNeed


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What a load would take, as things stand.

    Attributes:
        fits: Whether it could be done at once.
        device_id: The device.
        need: What the instance needs.
        free_bytes: Free on the device now.
        capacity_bytes: What may be given of the device.
        evicted: Idle instances that would be evicted, in this order; none where it needs more than the whole device.
        busy: Busy instances that would have to end first, when it does not fit.
        leases: Leases that would have to be released first, when it does not fit.
        figures: What it needs and what is free, for people.
        open: Whether its host takes anything new.
        hidden: Instances and leases that are in the way, too, and are not told.
        beside: Other devices of its host on which the instance needs as much; the figures are of the one that hinders.
        device_reason: Why this device, of those that the model may use; "" where it was not chosen.
    """

    fits: bool
    device_id: DeviceId
    need: MemoryNeed
    free_bytes: int
    capacity_bytes: int
    evicted: tuple[InstanceId, ...] = ()
    busy: tuple[InstanceId, ...] = ()
    leases: tuple[LeaseId, ...] = ()
    figures: str
    open: bool = True
    hidden: int = 0
    device_reason: str = ""
    beside: tuple[DeviceId, ...] = ()

    @property
    def reason(self) -> str:
        """The decision in a sentence, with its numbers."""
        where = " and ".join((self.device_id, *self.beside))
        others = [f"{self.hidden} that are not told here"] if self.hidden else []
        if self.fits:
            going = [*self.evicted, *others]
            when = f" when {', '.join(going)} are evicted" if going else ""
            paged = (
                f"; {size_text(self.need.paged_bytes)} of experts are paged from a file"
                if self.need.paged_bytes
                else ""
            )
            return f"fits {where}{when}: {self.figures}{paged}"
        less = ""
        if 0 < self.need.offloaded_bytes < self.need.total_bytes:
            less = f"; with expert_offload=true it needs {size_text(self.need.offloaded_bytes)}"
        if self.need.total_bytes > self.capacity_bytes:
            needed, capacity = size_text(self.need.total_bytes), size_text(self.capacity_bytes)
            larger = f"it is larger than the device: it needs {needed}, and {capacity} is all that may be given of it"
            return f"does not fit {where}: {larger}{less}"
        held = [f"instance {name}" for name in self.busy[:3]] + [f"lease {name}" for name in self.leases[:3]]
        holders = ", ".join([*held, *others]) or "other programs"
        why = f"it is held by {holders}" if self.open else "its host takes nothing new"
        return f"does not fit {where}: {self.figures}; {why}{less}"

    def shown(self, *, sees: Callable[[InstanceId], bool], has: Callable[[LeaseId], bool]) -> LoadPlan:
        """It for one who may be told of some instances and leases only; of the others it says how many there are."""
        evicted, busy = tuple(filter(sees, self.evicted)), tuple(filter(sees, self.busy))
        leases = tuple(filter(has, self.leases))
        going = len(self.evicted) - len(evicted)
        held = len(self.busy) + len(self.leases) - len(busy) - len(leases)
        return replace(self, evicted=evicted, busy=busy, leases=leases, hidden=going if self.fits else held)
