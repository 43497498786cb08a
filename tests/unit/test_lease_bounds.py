import pytest

from inferd.core import events
from inferd.core.ids import DeviceId, LeaseId, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.leases import LeaseLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.resources import DeviceCapacity
from inferd.errors import LimitExceededError

CPU = DeviceId("cpu:0")


class Bench:
    """A machine that may have 10 leases, and a device of 1000 bytes."""

    def __init__(self) -> None:
        self.machine = KernelMachine(CoreLimits(leases=LeaseLimits(leases=10)))
        self.machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)

    def claim(self, name: str, tenant: str) -> None:
        claims = (MemoryClaim(device_id=CPU, memory_bytes=1),)
        spec = LeaseSpec(lease_id=LeaseId(name), tenant=Tenant(tenant), claims=claims)
        self.machine.handle(events.CreateLease(spec), 0.0)

    def refusal(self, tenant: str) -> LimitExceededError:
        with pytest.raises(LimitExceededError) as caught:
            self.claim("more", tenant)
        return caught.value


def test_a_tenant_has_a_share_of_the_leases_that_are_left() -> None:
    """One tenant leaves leases to others, is told both numbers and the settings, and has what it gives back again."""
    bench = Bench()
    for number in range(8):
        bench.claim(f"a{number}", "a")
    error = bench.refusal("a")
    assert error.metadata == {"bound": "scheduler.tenant_share", "value": "8", "free": "2"}
    assert "4 times the 2 that are left of 10 (scheduler.tenant_share, leases.leases)" in error.message
    for tenant in ("b", "c"):
        bench.claim(tenant, tenant)
    assert bench.refusal("d").metadata == {"bound": "leases.leases", "value": "10", "limit": "10"}
    for number in range(3):
        bench.machine.handle(events.ReleaseLease(LeaseId(f"a{number}"), Tenant("a")), 0.0)
    bench.claim("again", "a")
