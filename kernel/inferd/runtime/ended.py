"""What a start reads of tasks: those that go on, and of those that have ended a line each; their records on demand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from inferd.core.ids import TaskId
from inferd.core.past_tasks import PastTask
from inferd.runtime.found import Found, blobs_of, leave_out, read_found, read_outputs
from inferd.runtime.kept_records import UNREADABLE, read_past, with_bytes, write_past
from inferd.runtime.kept_sent import DELETED
from inferd.store.store import Kind, Put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inferd.runtime.clock import Clock
    from inferd.runtime.found import Outputs
    from inferd.store.store import Name, Record, Store

TELL_S = 1.0  # between two lines of the log while what was kept is read
NOT_STANDING = ValueError("where it stands is not kept, or damaged")
NOT_MADE = ValueError("what it is to do is not kept, or damaged")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An ended task of a kernel before this one.

    Attributes:
        entry: What is always known of it.
        size_bytes: What it takes of the store, but for blobs.
        outputs: The blobs in which its outputs are, and their sizes.
        deleted: Whether what it has told was deleted.
    """

    entry: PastTask
    size_bytes: int
    outputs: Mapping[str, int]
    deleted: bool


class _Reading:
    """All tasks of a store, each in one of three ways. One writer: `read_tasks`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._outputs: Outputs = read_outputs(store)
        self.tasks: list[Found] = []
        self.ended: list[Ended] = []
        self.anew: list[Put] = []

    def read(self) -> None:
        """Read what there is."""
        damaged: list[Name] = []
        for record in self._store.records(Kind.PAST, lambda tenant, key, _: damaged.append((tenant, key))):
            try:
                self._take_line(record)
            except UNREADABLE:
                damaged.append((record.tenant, record.key))
        lost = partial(leave_out, "task")
        standing = [*self._store.records(Kind.PROGRESS, lost, unless=Kind.PAST)]
        standing += self._store.some(Kind.PROGRESS, damaged, lost)
        made = chain(  # in the order of the store, not one by one: most of it is read
            self._store.records(Kind.TASK, lost, unless=Kind.PAST), self._store.some(Kind.TASK, damaged, lost)
        )
        self._read_whole(made, {(each.tenant, each.key): each.value for each in standing})

    def _take_line(self, record: Record) -> None:
        entry, sizes, estimated = read_past(record, self._clock)
        self._end(entry, sizes)
        if estimated:  # what was estimated once is kept, not estimated again
            self._write(entry, sizes)

    def _end(self, entry: PastTask, sizes: tuple[int, int]) -> None:
        outputs = self._outputs.get((entry.tenant, entry.task_id), {})
        ended = Ended(entry=entry, size_bytes=sum(sizes), outputs=blobs_of(outputs), deleted=DELETED in outputs)
        self.ended.append(ended)

    def _write(self, entry: PastTask, sizes: tuple[int, int]) -> None:
        value = with_bytes(write_past(entry, self._clock), *sizes)
        self.anew.append(Put(entry.tenant, Kind.PAST, entry.task_id, value))

    def _read_whole(self, made: Iterable[Record], standing: dict[Name, bytes]) -> None:
        """Those that go on, and ended ones of which there is no line, as an older kernel has written them."""
        of, tell_at = len(standing), time.monotonic() + TELL_S
        for record in made:
            if time.monotonic() >= tell_at:
                log.info("what was kept is being read", tasks=of - len(standing), of=of)
                tell_at += TELL_S
            name = record.tenant, record.key
            progress, outputs = standing.pop(name, None), self._outputs.get(name, {})
            try:
                found = read_found(self._store, record, progress, outputs, self._clock)
            except UNREADABLE as error:
                leave_out("task", record.tenant, record.key, error)
                continue
            if found.task.finished is None:
                self.tasks.append(found)
            else:
                entry, sizes = _entry_of(found), (found.left.record_bytes, found.left.pieces_bytes)
                self._end(entry, sizes)
                self._write(entry, sizes)
        for tenant, key in standing:
            leave_out("task", tenant, key, NOT_MADE)


def read_tasks(store: Store, clock: Clock) -> tuple[list[Found], list[Ended], list[Put]]:
    """Those that go on, those that have ended, and what is to be written of these so that the next start finds it."""
    reading = _Reading(store, clock)
    reading.read()
    return reading.tasks, reading.ended, reading.anew


def _entry_of(found: Found) -> PastTask:
    task = found.task
    return PastTask(
        task_id=task.spec.task_id,
        tenant=task.spec.tenant,
        model=task.spec.model,
        number=task.number,
        state=task.state,
        retained=task.retained_from,
        request_id=task.spec.request_id,
    )


def read_ended(store: Store, names: Sequence[Name], clock: Clock) -> tuple[list[Found], list[TaskId]]:
    """The records of ended tasks with these names, and those that cannot be read, or are not there any more.

    Raises:
        StoreUnavailableError: The store cannot be read now.
    """
    found, lost = [], partial(leave_out, "task")
    standing = {(each.tenant, each.key): each.value for each in store.some(Kind.PROGRESS, names, lost)}
    for record in store.some(Kind.TASK, names, lost):
        progress = standing.get((record.tenant, record.key))
        try:
            if progress is None:
                raise NOT_STANDING
            found.append(read_found(store, record, progress, {}, clock))
        except UNREADABLE as error:
            lost(record.tenant, record.key, error)
    known = {each.task.spec.task_id for each in found}
    return found, [TaskId(key) for _, key in names if key not in known]
