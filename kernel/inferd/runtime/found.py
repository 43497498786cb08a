"""A task as it is found in the store: all that it was when it was written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferd.core.task_events import Finished, Output
from inferd.errors import InferdError, words_of
from inferd.runtime.continuation import Continuation
from inferd.runtime.event_log import MissingEventsError, Numbered, in_order
from inferd.runtime.kept import NOTHING, Left
from inferd.runtime.kept_events import InBlob, read_entries
from inferd.runtime.kept_records import read_progress, read_task
from inferd.runtime.kept_sent import DELETED
from inferd.runtime.stream import ToldBefore
from inferd.store.store import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.core.restored import RestoredTask
    from inferd.core.task_events import TaskEvent
    from inferd.runtime.clock import Clock
    from inferd.runtime.kept_events import KeptEntry
    from inferd.store.store import Record, Store

log = structlog.get_logger()

Outputs = dict[tuple[str, str], dict[str, int]]
"""The blobs in which outputs of tasks are, and their sizes, by tenant and task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A task that was kept, and what is known of what it told, which stays in the store."""

    task: RestoredTask
    told: ToldBefore
    left: Left = NOTHING


def read_found(store: Store, record: Record, progress: bytes | None, outputs: Mapping[str, int], clock: Clock) -> Found:
    """A task. Its events are read where it goes on from them only, not those of tasks that waited or have ended.

    Raises:
        DamagedError, ValueError, TypeError, KeyError, AttributeError, IndexError: It cannot be read.
    """
    if progress is None:
        raise ValueError("where it stands is not kept, or damaged")
    read = read_progress(progress)
    kept = read_task(record.value, clock, ended=read.ended)
    if read.end is not None and read.ended:
        told = ToldBefore(last=read.end.sequence, end=read.end)
    elif read.last is not None and not read.ended and not read.written["attempt"]:
        told = ToldBefore(last=read.last)
    else:
        told = _told(store, record, last=read.last, ended=read.ended)
    told.continuation.cached_tokens = None if read.ended else read.cached_tokens
    if (first_output_at := read.first_output_at(clock)) is not None:
        told = replace(told, first_output_at=first_output_at)
    left = Left(*read.sizes, outputs=blobs_of(outputs), deleted=DELETED in outputs)
    return Found(task=read.restored(kept, told.end, clock), told=told, left=left)


def blobs_of(outputs: Mapping[str, int]) -> dict[str, int]:
    """Those of the outputs of a task that are in blobs, and not that they were deleted."""
    return {digest: size_bytes for digest, size_bytes in outputs.items() if digest != DELETED}


def _told(store: Store, record: Record, *, last: int | None, ended: bool) -> ToldBefore:
    """What all events of a task say; they are read one piece after the other, and not held."""
    if ended:
        return _ended(store, record)
    continuation, until, output_tokens = Continuation(), 0, 0
    for entry in in_order(_entries(store, record), 0):
        until, event = entry.sequence, _event(entry)
        output_tokens += len(event.token_ids) if isinstance(event, Output) else 0
        continuation.take(event)
    if last is not None and until < last:
        raise MissingEventsError(until, last + 1)
    return ToldBefore(last=until, output_tokens=output_tokens, continuation=continuation)


def _ended(store: Store, record: Record) -> ToldBefore:
    """The end of a task, where only its events say it; those from before it was kept may lack."""
    entry: KeptEntry | None = None
    output_tokens = 0
    for entry in _entries(store, record):
        event = _event(entry)
        output_tokens += len(event.token_ids) if isinstance(event, Output) else 0
    if not isinstance(entry, Numbered) or not isinstance(entry.event, Finished):
        raise ValueError("how it ended is not kept, or damaged")  # noqa: TRY004 - of what was read
    return ToldBefore(last=entry.sequence, end=entry, output_tokens=output_tokens)


def _event(entry: KeptEntry) -> TaskEvent:
    if isinstance(entry, InBlob):
        return entry.outline()
    return entry.event if isinstance(entry, Numbered) else entry.whole()


def _entries(store: Store, record: Record) -> Iterator[KeptEntry]:
    for piece in store.pieces(record.tenant, Kind.TASK, record.key):
        yield from read_entries(piece)


def read_outputs(store: Store) -> Outputs:
    """Of all tasks."""
    outputs: Outputs = {}
    for record in store.records(Kind.OUTPUT, partial(leave_out, "output")):
        task_id, _, digest = record.key.partition("/")
        outputs.setdefault((record.tenant, task_id), {})[digest] = int(record.value)
    return outputs


def leave_out(what: str, tenant: str, key: str, error: Exception) -> None:
    """Say in the log that something cannot be read."""
    why = error.message if isinstance(error, InferdError) else f"{type(error).__name__}: {words_of(error)}"
    log.error(
        "what was kept cannot be read: it is left out, and stays in the store",
        what=what,
        key=key,
        tenant=tenant,
        why=why,
    )
