"""What tenants were served, on its way into the store: with whatever is written, else not before a while.

So who waits for what is as new as the tasks that are kept, and tasks that are not kept cost a write now and then.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inferd.core.ids import ModelName, Tenant
from inferd.core.restored import RestoredShare
from inferd.store.store import Drop, Kind, Put

if TYPE_CHECKING:
    from inferd.core.changes import ShareChanged
    from inferd.store.store import Record, Write

Of = tuple[ModelName, Tenant]

AFTER_S = 1.0  # the most that a change waits for others to be written with


class KeptShares:
    """What is to be written of shares. One writer: the keeper."""

    def __init__(self) -> None:
        self._urgent = False  # it has waited for long enough
        self._timed = False  # `hurry` will be called
        self._due: dict[Of, ShareChanged] = {}
        self._writing: dict[Of, ShareChanged] = {}
        self._known: set[Of] = set()  # the store has them

    def __bool__(self) -> bool:
        """Whether it is to be written, though nothing else is."""
        return self._urgent and bool(self._due)

    def adopt(self, share: RestoredShare) -> None:
        """The store has this one."""
        self._known.add((share.model, share.tenant))

    def note(self, change: ShareChanged) -> bool:
        """A share has changed; whether `hurry` is to be called in `AFTER_S`."""
        self._due[change.model, change.tenant] = change
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
            if change.counter is not None:
                value = json.dumps({"counter": change.counter, "level": change.level}).encode()
                writes.append(Put(change.tenant, Kind.SHARE, change.model, value))
                self._known.add(of)
            elif of in self._known:
                writes.append(Drop(change.tenant, Kind.SHARE, change.model))
        return writes

    def wrote(self) -> None:
        """The store has what was taken."""
        self._known -= {of for of, change in self._writing.items() if change.counter is None and of not in self._due}
        self._writing = {}

    def failed(self) -> None:
        """The store has nothing of what was taken: it is due again."""
        self._due = {**self._writing, **self._due}
        self._writing = {}


def read_share(record: Record) -> RestoredShare:
    """What a tenant was served by a kernel before this one."""
    written = json.loads(record.value)
    counter, level = float(written["counter"]), float(written["level"])
    return RestoredShare(ModelName(record.key), Tenant(record.tenant), counter, level)
