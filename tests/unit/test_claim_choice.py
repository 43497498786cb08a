"""Claims of leases that name labels of hosts: which devices they are on."""

from typing import Any

import pytest

from inferd.core import events
from inferd.core.host import HostFacts
from inferd.core.ids import DeviceId, HostId, LeaseId, Tenant
from inferd.core.lease import CoresClaim, Lease, LeaseSpec, LeaseState, MemoryClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.resources import DeviceCapacity
from inferd.errors import InvalidFieldError, LeaseUnavailableError

TENANT = Tenant("a")
A, B, FAST = {"zone": "a"}, {"zone": "b"}, {"gpu": "h100"}


def machine_with(hosts: int = 0) -> KernelMachine:
    """The kernel's own host, two in zone a with two GPUs each, the second with less room; and some in zone b."""
    machine = KernelMachine(CoreLimits())
    machine.handle(events.HostJoined((device("cpu:0", 100, cores=2),)), 0.0)
    join(machine, "x", A, device("cpu:0", 1000, cores=4), device("cuda:0", 800), device("cuda:1", 600))
    join(machine, "y", A | FAST, device("cpu:0", 500, cores=16), device("cuda:0", 700), device("cuda:1", 700))
    for number in range(hosts):
        join(machine, f"z{number}", B, device("cpu:0", 100 + number, cores=1))
    return machine


def device(name: str, size_bytes: int, *, cores: int = 0) -> DeviceCapacity:
    return DeviceCapacity(device_id=DeviceId(name), memory_bytes=size_bytes, cores=cores)


def join(machine: KernelMachine, name: str, labels: dict[str, str], *devices: DeviceCapacity) -> None:
    machine.handle(events.HostJoined(devices, HostId(name), HostFacts(labels=labels)), 0.0)


def memory(size_bytes: int, device_id: str = "cpu:0", **selector: str) -> MemoryClaim:
    return MemoryClaim(device_id=DeviceId(device_id), memory_bytes=size_bytes, selector=selector)


def claim(machine: KernelMachine, *claims: Any, **more: Any) -> Lease:
    lease_id = LeaseId(f"l{len(machine.leases.known)}")
    spec = LeaseSpec(lease_id=lease_id, tenant=TENANT, claims=claims, ttl_s=10.0, **more)
    machine.handle(events.CreateLease(spec), 0.0)
    return machine.views.lease(lease_id, TENANT)


def places(lease: Lease) -> list[str]:
    return [each.device_id for each in lease.spec.claims if isinstance(each, MemoryClaim | CoresClaim)]


def test_a_claim_with_labels_is_where_most_is_left() -> None:
    """The host has the labels, the device is what it calls so or of the kind; what is held already is counted."""
    machine = machine_with()
    assert places(claim(machine, memory(100, zone="a"))) == ["x/cpu:0"]
    assert places(claim(machine, memory(700, "cuda", zone="a"))) == ["x/cuda:0"]
    assert places(claim(machine, memory(650, "cuda", zone="a")))[0].startswith("y/cuda:")
    assert places(claim(machine, memory(10, gpu="h100"))) == ["y/cpu:0"]
    assert places(claim(machine, memory(10, host="local"))) == ["cpu:0"]


def test_claims_with_the_same_labels_are_on_one_host() -> None:
    """All of them are, though another host has more of one kind; and two GPUs are two where one has not got as much."""
    machine = machine_with()
    lease = claim(machine, memory(400, zone="a"), CoresClaim(cores=8, selector=A), memory(600, "cuda", zone="a"),
                  memory(600, "cuda", zone="a"))  # fmt: skip
    assert lease.state is LeaseState.ACTIVE
    assert places(lease)[:2] == ["y/cpu:0", "y/cpu:0"]
    assert {*places(lease)[2:]} == {"y/cuda:0", "y/cuda:1"}


def test_a_host_that_takes_nothing_new_is_not_chosen() -> None:
    """A drained host is left out as long as another one can serve the claim."""
    machine = machine_with()
    machine.handle(events.DrainHost(HostId("x")), 0.0)
    assert places(claim(machine, memory(100, zone="a"))) == ["y/cpu:0"]


def test_of_very_many_hosts_one_of_those_with_most_is_chosen() -> None:
    """More than a decision looks at one by one: it takes one of those where most is free."""
    machine = machine_with(hosts=400)
    (place,) = places(claim(machine, memory(400, zone="b")))
    assert machine.views.devices[DeviceId(place)].capacity_bytes >= 400


def test_what_does_not_fit_now_waits_or_is_refused_with_words() -> None:
    """It waits for the device where it could be, and is refused where no host has the labels or as much."""
    machine = machine_with()
    first = claim(machine, memory(900, zone="a"))
    with pytest.raises(LeaseUnavailableError, match="of x/cpu:0"):
        claim(machine, memory(900, zone="a"))
    waiting = claim(machine, memory(900, zone="a"), wait=True)
    assert (waiting.state, places(waiting)) == (LeaseState.PENDING, ["x/cpu:0"])
    machine.handle(events.ReleaseLease(first.spec.lease_id, TENANT), 0.0)
    assert waiting.state is LeaseState.ACTIVE
    with pytest.raises(InvalidFieldError, match="label zone=c") as refused:
        claim(machine, memory(1, zone="c"))
    assert refused.value.field == "spec.claims[0].memory.selector"
    with pytest.raises(InvalidFieldError, match="has zone=b and cuda; or wait"):
        claim(machine_with(hosts=1), memory(1, "cuda", zone="b"))
    with pytest.raises(
        InvalidFieldError,
        match=r"5\.0 kB of cpu:0, beside what else the lease claims; the most that one device there has is 1\.0 kB",
    ):
        claim(machine, memory(5000, zone="a"))


@pytest.mark.parametrize(("sizes", "room"), [((12, 20), (24, 16)), ((5, 3, 5, 3), (10, 6))])
def test_claims_find_devices_in_whatever_order_they_are_told(sizes: tuple[int, ...], room: tuple[int, ...]) -> None:
    """One that fits on many devices does not take the only one where another has room."""
    machine = machine_with()
    join(machine, "g", B, *(device(f"cuda:{number}", size) for number, size in enumerate(room)))
    lease = claim(machine, *(memory(size, "cuda", zone="b") for size in sizes))
    assert lease.state is LeaseState.ACTIVE
    assert len(places(lease)) == len(sizes)


def test_groups_and_named_devices_leave_each_other_room() -> None:
    """What one group of labels, or a claim that names its device, takes is not there for another."""
    for one, other in ((memory(700, "y/cuda:0"), memory(700, "cuda", gpu="h100")),
                       (memory(500, zone="a"), memory(500, gpu="h100"))):  # fmt: skip
        for claims in ((one, other), (other, one)):
            assert claim(machine_with(), *claims).state is LeaseState.ACTIVE


def test_no_host_is_overlooked_where_others_have_more_room() -> None:
    """A lease is not refused for what the only host has that could hold it, be it held, drained, or poor in memory."""
    machine = machine_with(hosts=40)
    join(machine, "cores", B, device("cpu:0", 50, cores=64))
    join(machine, "large", B, device("cpu:0", 8000, cores=1))
    assert places(claim(machine, CoresClaim(cores=64, selector=B))) == ["cores/cpu:0"]
    for number in range(40):
        claim(machine, CoresClaim(device_id=DeviceId(f"z{number}/cpu:0"), cores=1))
    assert places(claim(machine, CoresClaim(cores=1, selector=B))) == ["large/cpu:0"]
    claim(machine, memory(7950, "large/cpu:0"))
    waiting = claim(machine, memory(5000, zone="b"), wait=True)
    assert (waiting.state, places(waiting)) == (LeaseState.PENDING, ["large/cpu:0"])
    machine.handle(events.DrainHost(HostId("x")), 0.0)
    assert places(claim(machine, memory(900, zone="a"), wait=True)) == ["x/cpu:0"]


def test_claims_with_selectors_are_bounded() -> None:
    """More than a search looks at are refused with both numbers."""
    with pytest.raises(InvalidFieldError, match="33 claims have a selector; 32 may"):
        claim(machine_with(), *[memory(1, zone="a")] * 33)
    assert claim(machine_with(), *[memory(1, zone="a")] * 32).state is LeaseState.ACTIVE
