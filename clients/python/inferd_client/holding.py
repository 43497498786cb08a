"""Leases as their holder sees them: how long they certainly hold, and when they are to be kept alive.

The kernel counts a lease's time from when it takes a keep-alive, its holder from when it sent it, which is earlier. So
the holder never believes in a lease that the kernel has given to another. Both use monotonic clocks, and no clock of
one machine is compared with that of another.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

import grpc

from inferd_api.v1.lease_pb2 import Lease, LeaseState
from inferd_client.errors import InferdError, LeaseLostError, from_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferd_api.v1.lease_service_pb2 import LeaseRenewal

RENEWALS = 3  # keep-alives in a TTL: two may be lost
MERGED = 0.1  # what is due within this part of its interval goes along with what is due now
MOST_KEPT_ALIVE = 1000  # in one message
TROUBLE_CHARACTERS = 200  # that are kept of what went wrong
PAUSE_S = 0.2  # between two attempts to reach the kernel


class HeldLease:
    """A lease that this client keeps alive. One writer: its keeper.

    Attributes:
        lease_id: Its id.
        ttl_s: How long it holds from each time that it is kept alive.
        fencing_token: Rises with every grant of the kernel.
        confirmed: When the last keep-alive that the kernel confirmed was sent, on `time.monotonic`.
        ended: Why it does not hold any more, by the kernel's own words; None while it has not said so.
        trouble: What went wrong at the last attempt to keep it alive; "" when that was confirmed.
    """

    def __init__(self, lease: Lease, sent: float) -> None:
        self.lease_id = lease.lease_id
        self.ttl_s = lease.spec.ttl.ToNanoseconds() / 1e9
        self.fencing_token = lease.fencing_token
        self.confirmed = sent
        self.ended: InferdError | None = None
        self.trouble = ""

    @property
    def remaining_s(self) -> float:
        """How long it certainly holds; 0 when that is over."""
        if self.ended is not None:
            return 0.0
        return max(0.0, self.confirmed + self.ttl_s - time.monotonic())

    @property
    def due(self) -> float:
        """When it is to be kept alive, on `time.monotonic`."""
        return self.confirmed + self.ttl_s / RENEWALS

    def check(self) -> None:
        """Make sure that it still holds.

        Raises:
            LeaseLostError: It does not, or nobody can tell: the kernel has not confirmed it for its TTL.
        """
        if self.remaining_s <= 0:
            raise self.lost()

    def lost(self) -> LeaseLostError:
        """The error of a lease that does not hold any more."""
        if self.ended is not None:
            why, facts = self.ended.message, self.ended.metadata
        else:
            why, facts = f"the kernel has not confirmed it for its TTL of {self.ttl_s:g} s", {}
            why += f" ({self.trouble})" if self.trouble else ""
        return LeaseLostError(
            f"lease {self.lease_id} is lost: {why}", metadata={"lease_id": self.lease_id, **facts}, field="lease_id"
        )


LeaseRef: TypeAlias = HeldLease | Lease | str
"""A lease that a call is to run under: held by this client, as it was read, or its id."""


def lease_id_of(lease: LeaseRef) -> str:
    """The id of a lease; of one that this client holds, only while it holds.

    Raises:
        LeaseLostError: It does not hold any more.
    """
    if isinstance(lease, HeldLease):
        lease.check()
    return lease if isinstance(lease, str) else lease.lease_id


def check_granted(lease: Lease) -> None:
    """Refuse a lease that has ended before it was granted.

    Raises:
        InferdError: Why it was refused; LeaseLostError when its time was over or someone released it.
    """
    if lease.state == LeaseState.LEASE_STATE_REFUSED:
        raise from_status(lease.error)
    if lease.state not in (LeaseState.LEASE_STATE_PENDING, LeaseState.LEASE_STATE_ACTIVE):
        state = LeaseState.Name(lease.state).removeprefix("LEASE_STATE_")
        raise LeaseLostError(
            f"lease {lease.lease_id} is {state} before it was granted", metadata={"lease_id": lease.lease_id}
        )


class Holdings:
    """The leases that a client holds, and which of them are to be kept alive when; those that are lost stay lost."""

    def __init__(self) -> None:
        self._held: dict[str, HeldLease] = {}

    def __bool__(self) -> bool:
        return any(self._living())

    def add(self, held: HeldLease) -> None:
        """Keep a lease alive from now on."""
        self._held[held.lease_id] = held

    def remove(self, held: HeldLease) -> None:
        """Keep a lease alive no longer."""
        self._held.pop(held.lease_id, None)

    def wait_s(self) -> float:
        """How long until one of them is due; 0 when there is none."""
        return max(0.0, min((held.due for held in self._living()), default=0.0) - time.monotonic())

    def due(self) -> list[HeldLease]:
        """Those to be kept alive now, and those that will be soon; the most urgent ones where they are many."""
        now = time.monotonic()
        chosen = [held for held in self._living() if held.due - now <= MERGED * held.ttl_s / RENEWALS]
        return sorted(chosen, key=lambda held: held.due)[:MOST_KEPT_ALIVE]

    def note(self, error: Exception) -> None:
        """Keep what went wrong, for the error of those that are lost by it."""
        told = error.details() if isinstance(error, grpc.Call) else str(error)
        for held in self._living():
            held.trouble = f"{type(error).__name__}: {(told or '').partition(chr(10))[0][:TROUBLE_CHARACTERS]}"

    def _living(self) -> Iterable[HeldLease]:
        return (held for held in list(self._held.values()) if held.remaining_s > 0)


def patience_s(batch: Sequence[HeldLease]) -> float:
    """How long to wait for the answer about these leases before the stream is given up and another one tried."""
    return min(held.ttl_s for held in batch) / RENEWALS


def confirm(batch: Sequence[HeldLease], renewals: Sequence[LeaseRenewal], sent: float) -> None:
    """Take the kernel's answer about these leases, which were named in a message sent at `sent`."""
    for held, renewal in zip(batch, renewals, strict=True):
        if renewal.HasField("error"):
            held.ended = from_status(renewal.error)
        elif held.remaining_s > 0:  # else its holder has given it up already
            held.confirmed, held.trouble = sent, ""
            held.fencing_token = renewal.fencing_token
