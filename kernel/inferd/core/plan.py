"""What a load would take: the answer of `Broker.plan`, for `PlanLoad` and for the load itself."""

from dataclasses import dataclass

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
        evicted: Idle instances that would be evicted, in this order.
        busy: Busy instances that would have to end first, when it does not fit.
        leases: Leases that would have to be released first, when it does not fit.
        reason: The decision in a sentence, with its numbers.
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
    reason: str
    device_reason: str = ""
