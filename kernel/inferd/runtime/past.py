"""What a task has told and its stream holds no more, read back from the store in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.errors import EventsDroppedError, InferdError
from inferd.runtime.event_log import Run, joined
from inferd.runtime.kept_events import read_entries
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.core.ids import TaskId, Tenant
    from inferd.runtime.event_log import Entry, Numbered
    from inferd.store.store import Store

PAGE_BYTES = 128 << 10  # of a page as it is written; more where one piece has more


def read_page(store: Store, tenant: Tenant, task_id: TaskId, *, after: int, until: int) -> list[Numbered]:
    """Events of a kept task behind number `after`, about a page of them; none that begins behind number `until`.

    What was written together was shown together: of outputs that reach beyond that number all are there to be read.

    Raises:
        EventsDroppedError: The next one is not in the store, or cannot be read.
        StoreUnavailableError: The store cannot be read now.
    """
    entries: list[Entry] = []
    try:
        for entry in _entries(store, tenant, task_id, after):
            if _first(entry) > until:
                break
            entries.append(entry)
    except UNREADABLE as error:
        if not entries:
            raise _unreadable(after, until, error) from None
    first = _first(entries[0]) if entries else until + 1
    if first > after + 1:
        raise EventsDroppedError(
            f"events {after + 1} to {first - 1} were dropped before the task was kept, or are kept no longer; the first"
            f" one is {first}",
            metadata={"first_sequence": str(first)},
            field="after_sequence",
        )
    return joined(entries, after)


def _entries(store: Store, tenant: Tenant, task_id: TaskId, after: int) -> Iterator[Entry]:
    size_bytes = 0
    for piece in store.pieces(tenant, Kind.TASK, task_id, after=after):
        yield from read_entries(piece)
        size_bytes += len(piece)
        if size_bytes >= PAGE_BYTES:
            return


def _first(entry: Entry) -> int:
    return entry.first if isinstance(entry, Run) else entry.sequence


def _unreadable(after: int, until: int, error: Exception) -> EventsDroppedError:
    why = error.message if isinstance(error, InferdError) else f"{type(error).__name__}: {error}"
    return EventsDroppedError(
        f"events {after + 1} to {until} cannot be read: {why}; the first one behind them is {until + 1}",
        metadata={"first_sequence": str(until + 1), "cause": why},
        field="after_sequence",
    )
