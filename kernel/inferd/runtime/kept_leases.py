"""Leases on their way into the store: those that are held, each as it stands when it is written.

A grant is written before anyone is told of it, and what a lease held is dropped with the same write as what another one
is granted of that, or earlier: so no kernel finds two leases that hold the same thing.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core.changes import LeaseChanged, LeaseRestored
from inferd.core.lease import LeaseState
from inferd.runtime.lease_records import write_lease
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.core.changes import Change
    from inferd.core.ids import LeaseId, Tenant
    from inferd.core.lease import Lease
    from inferd.core.views import Views
    from inferd.runtime.clock import Clock
    from inferd.store.store import Write

FENCING = "fencing"  # the key of the highest fencing token

Waiting = list[asyncio.Future[None]]


@dataclass(slots=True, eq=False)
class DueLease:
    """A lease of which something is to be written.

    Attributes:
        tenant: Whose it is.
        waiting: Who waits for that, and hears should it fail.
        wanting: Who waits until it can be told of; where the store had it before, they hear of a failure, too.
    """

    tenant: Tenant
    waiting: Waiting = field(default_factory=list)
    wanting: Waiting = field(default_factory=list)


class KeptLeases:
    """What is to be written of leases. One writer: the keeper."""

    def __init__(self, views: Views, clock: Clock) -> None:
        self._views = views
        self._clock = clock
        self._due: dict[LeaseId, DueLease] = {}
        self._writing: dict[LeaseId, DueLease] = {}
        self._known: set[LeaseId] = set()  # the store has them
        self._token = 0  # the highest that the store has

    def __bool__(self) -> bool:
        return bool(self._due)

    def note(self, change: Change) -> bool:
        """A lease has changed; whether something is to be written of that."""
        if isinstance(change, LeaseRestored):
            self._known.add(change.lease_id)  # it is written anew: it may be of another boot
        elif not isinstance(change, LeaseChanged) or (
            change.state is not LeaseState.ACTIVE
            and not any(change.lease_id in each for each in (self._known, self._due, self._writing))
        ):
            return False
        if change.lease_id not in self._due:
            self._due[change.lease_id] = DueLease(change.tenant)
        return True

    def wait(self, lease_id: LeaseId) -> asyncio.Future[None] | None:
        """Ends when what is to be written of a lease is, and fails when it is not; None where nothing is to be."""
        due = self._due.get(lease_id) or self._writing.get(lease_id)
        return None if due is None else _future(due.waiting)

    def wait_for_grant(self, lease_id: LeaseId) -> asyncio.Future[None] | None:
        """Ends when the store has a lease as it is, or is not to have it; None where nothing hinders telling of it.

        It fails where the store does not take what a lease that it has became: by its time alone one ends untold.
        """
        due = self._due.get(lease_id) or self._writing.get(lease_id)
        lease = None if due is None else self._views.find_lease(lease_id, due.tenant)
        if due is None or lease is None:
            return None
        shown_later = (LeaseState.ACTIVE, LeaseState.RELEASED) if lease_id in self._known else (LeaseState.ACTIVE,)
        return _future(due.wanting) if lease.state in shown_later else None

    def _held(self, lease_id: LeaseId, due: DueLease) -> Lease | None:
        """A lease as it is to be kept; None when it has ended."""
        lease = self._views.find_lease(lease_id, due.tenant)
        return lease if lease is not None and lease.state is LeaseState.ACTIVE else None

    def take(self) -> list[Write]:
        """All that is to be written now."""
        self._writing, self._due = self._due, {}
        writes: list[Write] = []
        for lease_id, due in self._writing.items():
            if (lease := self._held(lease_id, due)) is None:
                writes.append(Drop(due.tenant, Kind.LEASE, lease_id))
                continue
            found = [self._views.find_instance(instance_id) for instance_id in lease.instances]
            models = dict.fromkeys(instance.model for instance in found if instance is not None) | lease.models
            writes.append(Put(due.tenant, Kind.LEASE, lease_id, write_lease(lease, models, self._clock)))
        if (token := self._views.fencing_token) > self._token:
            writes.append(write_token(token))
            self._token = token  # should this fail it is written with the next grant, which has a higher one
        return writes

    def wrote(self) -> None:
        """The store has what was taken."""
        written, self._writing = self._writing, {}
        for lease_id, due in written.items():
            if self._held(lease_id, due) is not None:
                self._known.add(lease_id)
            elif lease_id not in self._due:
                self._known.discard(lease_id)
            _end(due.waiting)
            _end(due.wanting)

    def failed(self) -> tuple[dict[LeaseId, Tenant], Waiting]:
        """The store has nothing of what was taken: leases that it never had and that are to be given up; who waits."""
        failed, self._writing = self._writing, {}
        waiting = [future for due in failed.values() for future in due.waiting]
        fresh = {lease_id: due.tenant for lease_id, due in failed.items() if lease_id not in self._known}
        for lease_id, due in failed.items():
            if lease_id in fresh:
                _end(due.wanting)  # they look when it has been given up
            else:
                waiting += due.wanting
            due.waiting, due.wanting = [], []
        self._due = {**{name: due for name, due in failed.items() if name not in self._due}, **self._due}
        return fresh, waiting

    def abandon(self) -> Iterator[asyncio.Future[None]]:
        """Nothing of it is written any more: who waits."""
        for due in (*self._due.values(), *self._writing.values()):
            yield from (*due.waiting, *due.wanting)
        self._due = {}


def read_token(counts: Mapping[str, bytes]) -> int:
    """The highest fencing token that was given; 0 where none was."""
    return int(json.loads(counts.get(FENCING, b"0")))


def write_token(token: int) -> Put:
    """The highest fencing token that was given, as it is kept."""
    return Put(NO_TENANT, Kind.COUNT, FENCING, json.dumps(token).encode())


def token_after(*tokens: int, wall_s: float) -> int:
    """No kernel that knew one of these has given a fencing token above; for a store that goes back to a backup.

    What was given since is not known where the store is lost: it is below the microseconds of Unix time, above which a
    kernel begins, too (`inferd.runtime.restoring`). Should the clock have been set back, the highest one is above that.
    """
    return max(int(wall_s * 1_000_000), *tokens, 0)


def _future(among: Waiting) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    among.append(future)
    return future


def _end(waiting: Waiting) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
