"""How a holder reckons with its leases; the clock is the test's."""

from collections.abc import Callable

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1.lease_service_pb2 import LeaseRenewal
from inferd_client import HeldLease, LeaseLostError
from inferd_client.claims import lease_request, memory
from inferd_client.errors import LeaseUnavailableError
from inferd_client.holding import Holdings, check_granted, confirm, lease_id_of, patience_s

Advance = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """A clock that stands at 100 s until it is advanced."""
    now = [100.0]

    def forward(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return forward


def held(lease_id: str = "a", *, ttl_s: int = 30, sent: float = 100.0) -> HeldLease:
    return HeldLease(lp.Lease(lease_id=lease_id, spec=lp.LeaseSpec(ttl=Duration(seconds=ttl_s))), sent)


def failure(reason: str, message: str) -> status_pb2.Status:
    packed = Packed()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="inferd", metadata={"state": "EXPIRED"}))
    return status_pb2.Status(code=9, message=message, details=[packed])


def test_a_lease_holds_from_when_it_was_asked_for(advance: Advance) -> None:
    """Its time is counted from the sending of what the kernel confirmed, not from the answer."""
    lease = held(sent=100.0)
    advance(29.5)
    assert lease.remaining_s == 0.5
    assert lease_id_of(lease) == "a"
    confirm([lease], [LeaseRenewal(lease_id="a", fencing_token=7)], sent=110.0)
    assert (lease.remaining_s, lease.fencing_token) == (10.5, 7)


def test_a_lease_that_was_not_confirmed_in_time_is_lost_for_good(advance: Advance) -> None:
    """Behind its TTL it is lost, and an answer that comes too late does not bring it back."""
    lease = held()
    advance(30.0)
    assert lease.remaining_s == 0
    with pytest.raises(LeaseLostError, match="TTL of 30 s"):
        lease_id_of(lease)
    confirm([lease], [LeaseRenewal(lease_id="a")], sent=129.0)
    assert lease.remaining_s == 0


def test_a_lease_that_the_kernel_ended_is_lost_at_once(advance: Advance) -> None:
    """The kernel's words are the error's."""
    lease = held()
    advance(1)
    confirm([lease], [LeaseRenewal(error=failure("LEASE_ENDED", "lease a is EXPIRED"))], sent=101.0)
    with pytest.raises(LeaseLostError, match="is EXPIRED") as caught:
        lease.check()
    assert caught.value.metadata == {"lease_id": "a", "state": "EXPIRED"}
    assert (caught.value.reason, caught.value.code) == ("LEASE_LOST", "FAILED_PRECONDITION")


def test_leases_that_fall_due_together_go_together(advance: Advance) -> None:
    """A third of its TTL behind the last confirmation a lease is due; those that nearly are go along."""
    holdings = Holdings()
    first, second, later = held("a"), held("b", sent=100.9), held("c", sent=105.0)
    for lease in (later, second, first):
        holdings.add(lease)
    assert holdings.wait_s() == 10.0
    assert holdings.due() == []
    advance(10.0)
    assert holdings.wait_s() == 0
    assert holdings.due() == [first, second]
    assert patience_s([first, held("d", ttl_s=3)]) == 1.0
    holdings.remove(first)
    assert holdings.due() == [second]
    assert holdings


def test_lost_leases_are_not_kept_alive(advance: Advance) -> None:
    """When none that holds is left there is nothing to do any more."""
    holdings = Holdings()
    holdings.add(held())
    advance(30.0)
    assert holdings.due() == []
    assert not holdings


def test_a_message_names_at_most_as_many_leases_as_the_kernel_takes(advance: Advance) -> None:
    """Of more than a thousand that are due, the most urgent thousand go first."""
    holdings = Holdings()
    for number in range(1500):
        holdings.add(held(str(number), sent=100.0 + number / 1e4))
    advance(11)
    batch = holdings.due()
    assert [lease.lease_id for lease in batch] == [str(number) for number in range(1000)]


def test_a_lease_that_was_refused_tells_why() -> None:
    """Waiting in vain is the kernel's error; an end before the grant is a loss; one that holds is neither."""
    check_granted(lp.Lease(state=lp.LEASE_STATE_ACTIVE))
    with pytest.raises(LeaseUnavailableError, match="no room"):
        check_granted(lp.Lease(state=lp.LEASE_STATE_REFUSED, error=failure("LEASE_UNAVAILABLE", "no room")))
    with pytest.raises(LeaseLostError, match="RELEASED before it was granted"):
        check_granted(lp.Lease(state=lp.LEASE_STATE_RELEASED))


def test_what_is_not_said_is_the_kernel_s_to_choose() -> None:
    """Options that are None or absent are not sent; times and the class reach their fields."""
    spec = lease_request([memory(1)], {"ttl_s": None, "priority": None}).spec
    assert not spec.HasField("ttl")
    assert not spec.HasField("wait_timeout")
    assert spec.priority == 0
    spec = lease_request([memory(1)], {"ttl_s": 0.25, "priority": "high", "wait": True, "request_id": "r"}).spec
    assert (spec.ttl.nanos, spec.priority, spec.wait) == (250_000_000, 3, True)
    with pytest.raises(ValueError, match='"low", "normal" or "high"'):
        lease_request([memory(1)], {"priority": "urgent"})  # type: ignore[typeddict-item]
