"""What a task has told and its stream holds no more, read back from the store in pages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from inferd.errors import (
    BlobDamagedError,
    BlobNotFoundError,
    EventsDroppedError,
    InferdError,
    InvalidFieldError,
    StoreUnavailableError,
    UnreadableEventsError,
    words_of,
)
from inferd.runtime.blob_entry import not_found
from inferd.runtime.blob_memories import BlobPart
from inferd.runtime.event_log import MissingEventsError, Run, in_order, joined
from inferd.runtime.kept_events import InBlob, read_entries, read_json
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import DamagedError, Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from inferd.core.ids import TaskId, Tenant
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.event_log import Entry, Numbered
    from inferd.runtime.kept_events import KeptEntry
    from inferd.runtime.stream import Past
    from inferd.store.store import Store

PAGE_BYTES = 128 << 10  # of a page as it is written; more where one piece has more


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what a task has told.

    Attributes:
        events: In their order.
        in_blob: The one behind them, where that is in a blob; None where it is not, or is no part of the page.
    """

    events: list[Numbered]
    in_blob: InBlob | None


def past_of(
    read: Callable[[Callable[[Store], Any]], Awaitable[Any]],
    blobs: Callable[[], Blobs | None],
    tenant: Tenant,
    task_id: TaskId,
) -> Past:
    """Reads back what a task has told, with `read`, which does so where the store is used, and of `blobs`."""

    async def read_back(after: int, until: int) -> list[Numbered]:
        page: Page = await read(lambda store: read_page(store, tenant, task_id, after=after, until=until))
        if (found := page.in_blob) is None:
            return page.events
        if page.events:
            return page.events  # by itself next, lest much is held for who is slow
        return [await _of_blob(blobs(), tenant, found)]

    return read_back


def past_deleted(limit_bytes: int) -> Past:
    """Says of a task whose events were deleted that they were."""

    async def read_back(after: int, until: int) -> list[Numbered]:
        raise EventsDroppedError(
            f"events {after + 1} to {until} were deleted, as more was stored of ended tasks than store.bytes,"
            f" {limit_bytes} now; the first one is {until + 1}",
            metadata={"first_sequence": str(until + 1), "bound": "store.bytes", "limit": str(limit_bytes)},
            field="after_sequence",
        )

    return read_back


async def _of_blob(blobs: Blobs | None, tenant: Tenant, found: InBlob) -> Numbered:
    """An event that is in a blob, which goes on into a memory outside of this process's own.

    Raises:
        EventsDroppedError: The blob is not there, or damaged.
        StoreUnavailableError: It cannot be read now.
    """
    try:
        if blobs is None:
            raise not_found(found.digest, "is not there")
        part = await blobs.memories.read(tenant, BlobPart(found.digest, 0, found.size_bytes))
        return found.whole(part)
    except (BlobNotFoundError, BlobDamagedError, InvalidFieldError, *UNREADABLE) as error:
        if isinstance(error, StoreUnavailableError) and not isinstance(error, DamagedError):
            raise
        raise _unreadable(found.sequence - 1, found.sequence, error) from None


def read_page(store: Store, tenant: Tenant, task_id: TaskId, *, after: int, until: int) -> Page:
    """Events of a kept task behind number `after`, about a page of them; none that begins behind number `until`.

    What was written together was shown together: of outputs that reach beyond that number all are there to be read.

    Raises:
        EventsDroppedError: The next one is not in the store, or cannot be read.
        StoreUnavailableError: The store cannot be read now.
    """
    entries: list[Entry] = []
    try:
        for entry in in_order(_entries(store, tenant, task_id, after), after):
            if _first(entry) > until:
                break
            if isinstance(entry, InBlob):
                return Page(joined(entries, after), entry)
            entries.append(entry)
    except MissingEventsError as error:
        if not entries:
            raise _missing(after, error.first) from None
    except UNREADABLE as error:
        if not entries:
            raise _unreadable(after, until, error) from None
    if not entries:
        raise _missing(after, until + 1)
    return Page(joined(entries, after), None)


def _entries(store: Store, tenant: Tenant, task_id: TaskId, after: int) -> Iterator[KeptEntry]:
    size_bytes = 0
    for piece in store.pieces(tenant, Kind.TASK, task_id, after=after):
        yield from read_entries(piece)
        size_bytes += len(piece)
        if size_bytes >= PAGE_BYTES:
            return


def _first(entry: KeptEntry) -> int:
    return entry.first if isinstance(entry, Run) else entry.sequence


def check_events(store: Store, tenant: str, key: str, progress: bytes) -> str | None:
    """What is missing of the events of a task behind the first one that is kept; None where nothing is.

    Raises:
        DamagedError, ValueError, TypeError: One of them cannot be read.
    """
    entries = chain.from_iterable(map(read_entries, store.pieces(tenant, Kind.TASK, key)))
    first = next(entries, None)
    until = last = read_json(progress).get("last") or 0
    if first is None:
        return None
    try:
        for entry in in_order(chain([first], entries), _first(first) - 1):
            until = entry.sequence
    except MissingEventsError as error:
        return str(error)
    return None if until >= last else str(MissingEventsError(until, last + 1))


def _missing(after: int, first: int) -> EventsDroppedError:
    return EventsDroppedError(
        f"events {after + 1} to {first - 1} were dropped before the task was kept, or are missing in the store; the"
        f" first one is {first}",
        metadata={"first_sequence": str(first)},
        field="after_sequence",
    )


def _unreadable(after: int, until: int, error: Exception) -> UnreadableEventsError:
    why = error.message if isinstance(error, InferdError) else f"{type(error).__name__}: {words_of(error)}"
    return UnreadableEventsError(
        f"events {after + 1} to {until} cannot be read: {why}; the first one behind them is {until + 1}",
        metadata={"first_sequence": str(until + 1), "cause": why},
        field="after_sequence",
    )
