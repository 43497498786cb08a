"""What tenants were served and have used, on its way into the store: with whatever is written, else not before a while.

So who waits for what is as new as the tasks that are kept, and tasks that are not kept cost a write now and then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inferd.core.changes import QuotaUsed, ShareChanged
from inferd.core.ids import ModelName, Tenant
from inferd.core.restored import RestoredShare, RestoredUse
from inferd.runtime.kept_times import instant_of, read_shift, write_stamp
from inferd.store.store import Drop, Kind, Put

if TYPE_CHECKING:
    from inferd.runtime.clock import Clock
    from inferd.store.store import Record, Write

Of = tuple[Kind, str, Tenant]
Counted = ShareChanged | QuotaUsed

AFTER_S = 1.0  # the most that a change waits for others to be written with


class KeptShares:
    """What is to be written of shares and uses. One writer: the keeper.

    Args:
        clock: On which instants are.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._urgent = False  # it has waited for long enough
        self._timed = False  # `hurry` will be called
        self._due: dict[Of, Counted] = {}
        self._writing: dict[Of, Counted] = {}
        self._known: set[Of] = set()  # the store has them

    def __bool__(self) -> bool:
        """Whether it is to be written, though nothing else is."""
        return self._urgent and bool(self._due)

    def adopt(self, kept: RestoredShare | RestoredUse) -> None:
        """The store has this one."""
        key = kept.model if isinstance(kept, RestoredShare) else kept.key
        self._known.add((Kind.SHARE if isinstance(kept, RestoredShare) else Kind.USE, key, kept.tenant))

    def note(self, change: Counted) -> bool:
        """Something has changed; whether `hurry` is to be called in `AFTER_S`."""
        self._due[_of(change)] = change
        timed, self._timed = self._timed, True
        return not timed

    def hurry(self) -> None:
        """Write what is due, though nothing else is."""
        self._urgent, self._timed = True, False

    def take(self) -> list[Write]:
        """All that is to be written now."""
        self._writing, self._due, self._urgent = self._due, {}, False
        writes: list[Write] = []
        for of, change in self._writing.items():
            kind, key, tenant = of
            if not _is_gone(change):
                writes.append(Put(tenant, kind, key, self._write(change)))
                self._known.add(of)
            elif of in self._known:
                writes.append(Drop(tenant, kind, key))
        return writes

    def _write(self, change: Counted) -> bytes:
        if isinstance(change, ShareChanged):
            return json.dumps({"counter": change.counter, "level": change.level}).encode()
        slots = [[self._clock.wall(began), round(used, 6)] for began, used in change.slots]
        return json.dumps({"slots": slots, "stamp": write_stamp(self._clock)}).encode()

    def wrote(self) -> None:
        """The store has what was taken."""
        self._known -= {of for of, change in self._writing.items() if _is_gone(change) and of not in self._due}
        self._writing = {}

    def failed(self) -> None:
        """The store has nothing of what was taken: it is due again."""
        self._due = {**self._writing, **self._due}
        self._writing = {}


def _of(change: Counted) -> Of:
    if isinstance(change, ShareChanged):
        return Kind.SHARE, change.model, change.tenant
    return Kind.USE, change.key, change.tenant


def _is_gone(change: Counted) -> bool:
    return change.counter is None if isinstance(change, ShareChanged) else not change.slots


def read_share(record: Record) -> RestoredShare:
    """What a tenant was served by a kernel before this one."""
    written = json.loads(record.value)
    counter, level = float(written["counter"]), float(written["level"])
    return RestoredShare(ModelName(record.key), Tenant(record.tenant), counter, level)


def read_use(record: Record, clock: Clock) -> RestoredUse:
    """What a tenant had used of a quota when a kernel before this one ended."""
    written = json.loads(record.value)
    shift_s = read_shift(written, clock)
    slots = tuple((instant_of(float(began), clock, shift_s) or 0.0, float(used)) for began, used in written["slots"])
    return RestoredUse(record.key, Tenant(record.tenant), slots)
