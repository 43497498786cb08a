"""The tasks that are kept, and what is to be written of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from inferd.core.changes import PastForgotten, TaskChanged, TaskDetached, TaskForgotten, TaskRestored
from inferd.errors import InferdError
from inferd.runtime.backlog import Backlog
from inferd.runtime.kept import NOTHING, Kept, Sizes, refuse, show
from inferd.runtime.kept_outputs import KeptOutputs
from inferd.runtime.kept_past import KeptPast, log_deleted
from inferd.runtime.kept_sent import LARGE_BYTES, send
from inferd.runtime.past import past_deleted, past_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from inferd.core.changes import Change
    from inferd.core.ids import TaskId, Tenant
    from inferd.core.room import Room
    from inferd.core.task import Task
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.driver import Driver
    from inferd.runtime.ended import Ended
    from inferd.runtime.found import Found
    from inferd.runtime.kept import Left, Sent
    from inferd.runtime.records import Records
    from inferd.runtime.stream import Past, TaskStream
    from inferd.store.store import Put

    Batch = Sequence[tuple[Kept, Sent]]

log = structlog.get_logger()
CHANGES = frozenset({TaskDetached, TaskRestored, TaskChanged, TaskForgotten, PastForgotten})
"""What changes a task that is kept, or makes it one."""


class KeptTasks:
    """Tasks from when they are detached until they are forgotten. One writer: the keeper.

    Args:
        driver: Of the tasks; one that cannot be kept is withdrawn.
        records: What is in the store.
        room: How much that may be.
        changed: Called when one has changed, and is to be written soon.
        told: Called when one has told something, which is written with what others tell.

    Attributes:
        room: As given.
        backlog: What they have told that the store does not have.
        past: Ended ones of kernels before this one, whose records are not held.
        blobs: What is large of their inputs and outputs is in; None for nothing.
    """

    def __init__(
        self,
        driver: Driver,
        records: Records,
        room: Room,
        *,
        changed: Callable[[], None],
        told: Callable[[Kept], None],
    ) -> None:
        self._driver = driver
        self._records = records
        self._changed = changed
        self._told = told
        self._known: dict[TaskId, Kept] = {}
        self._dirty: dict[Kept, None] = {}
        self._away: dict[Kept, None] = {}  # outputs of these become blobs; they are dirty after that
        self._left: Mapping[TaskId, Left] = {}  # see `expect`
        self._outputs: KeptOutputs | None = None
        self._stopped = False
        self.room = room
        self.blobs: Blobs | None = None
        self.backlog = Backlog(driver)
        self.past = KeptPast(room, lambda: self.blobs, changed)

    def __bool__(self) -> bool:
        """Whether something is to be written, and can be."""
        return bool(self._dirty or self.past)

    def open(self, blobs: Blobs, retry_s: float) -> None:
        """What is large goes into these from now on; what cannot is tried again after so long."""
        self.blobs, self._outputs = blobs, KeptOutputs(blobs, self._back, retry_s)

    # What becomes of them.

    def note(self, change: Change) -> None:
        """A task has changed; most are not kept."""
        kind = type(change)
        if kind is PastForgotten:
            self.past.forget(change.task_id, change.tenant)  # type: ignore[attr-defined] # of this kind
        elif kind is TaskDetached:
            self._begin(change.task_id, change.tenant)  # type: ignore[attr-defined] # of this kind
        elif kind is TaskRestored:
            self._adopt(change)  # type: ignore[arg-type] # of this kind
        elif (kept := self._known.get(change.task_id)) is not None:  # type: ignore[attr-defined] # all have it
            (self._change if kind is TaskChanged else self._forget)(kept)

    def _begin(self, task_id: TaskId, tenant: Tenant) -> None:
        kept = self._take_up(task_id, tenant)
        kept.before = kept.stream.told()
        kept.stream.shown, kept.stream.hidden = kept.task.state, kept.task.spec.detached
        self._change(kept)

    def expect(self, left: Mapping[TaskId, Left]) -> None:
        """Tasks that are about to be restored have so much in the store."""
        self._left = left

    def expect_past(self, ended: Collection[Ended], puts: Sequence[Put]) -> None:
        """These had ended, and are known; what is to be said of some of them anew."""
        self.past.expect(ended, puts)
        self._make_room()

    def recall(self, found: Found, stream: TaskStream) -> None:
        """An ended task of a kernel before this one is known again, with its record."""
        spec = found.task.spec
        task = self._driver.views.task(spec.task_id, spec.tenant)
        kept = self._known[spec.task_id] = Kept(task, stream, made=True)
        kept.sizes = Sizes(found.left.record_bytes, found.left.pieces_bytes)
        kept.outputs, deleted = self.past.recall(spec.task_id)
        stream.past, stream.shown = self._past_of(kept), task.state
        if deleted:
            self._tell_deleted(kept)

    def release(self, task_id: TaskId) -> bool:
        """Its record is held no more, unless something is to be done with it; whether it is not."""
        kept = self._known[task_id]
        if kept in self._dirty or kept.away or kept.sent is not None or kept.stream.awaited:
            return False
        del self._known[task_id]
        self.past.release(task_id, kept.outputs, deleted=kept.stream.deleted)
        return True

    def _adopt(self, change: TaskRestored) -> None:
        kept = self._take_up(change.task_id, change.tenant)
        left = self._left.get(change.task_id, NOTHING)
        kept.hold_outputs(self.blobs, left.outputs)
        kept.sizes = Sizes(left.record_bytes, left.pieces_bytes)
        kept.made, kept.large = True, kept.task.spec.demand.memory_bytes > LARGE_BYTES
        kept.stream.past, kept.stream.shown = self._past_of(kept), kept.task.state
        if left.deleted:
            self._tell_deleted(kept)
        self._count(kept)
        if change.estimated:
            self._change(kept)

    def _take_up(self, task_id: TaskId, tenant: Tenant) -> Kept:
        stream = self._driver.streams.get(task_id)
        kept = self._known[task_id] = Kept(self._driver.views.task(task_id, tenant), stream)
        kept.hold(self.blobs)
        if stream.finished is None:  # else nothing comes
            stream.hold_back(partial(self._tell, kept))
        return kept

    def _forget(self, kept: Kept) -> None:
        """A task is not known any more: what it has told goes when nobody who follows it waits for some of that."""
        if kept.stream.awaited:
            kept.stream.when_read(partial(self._forget, kept))
            return
        kept.gone = True
        self._change(kept)

    def _change(self, kept: Kept) -> None:
        kept.version += 1
        if not kept.away:
            self._dirty[kept] = None
            self._changed()

    def _tell(self, kept: Kept) -> None:
        """A task has told something, which may be seen once it is written."""
        if self._stopped:
            return  # its end, with that of the kernel, is none for the next one
        if not kept.away:
            self._dirty[kept] = None
        self.backlog.count(kept)
        self._told(kept)

    def _count(self, kept: Kept) -> None:
        """So much is stored of a task; where that is too much, outputs of others go that have ended, or its own."""
        spec, room = kept.task.spec, self.room
        if kept.gone or (kept.stream.deleted and kept.task.finished is not None):
            room.drop(spec.task_id, spec.tenant)
        elif kept.task.finished is None or kept.stream.finished is None:
            room.live(spec.task_id, spec.tenant, kept.stored_bytes)
        else:
            room.end(spec.task_id, spec.tenant, kept.stored_bytes)
        self._make_room()

    def _make_room(self) -> None:
        while (first := self.room.excess()) is not None:
            if (kept := self._known.get(first[0])) is not None:
                self._delete(kept)
            else:
                self.past.delete(*first)
                self._driver.watchers.tasks.note(first[1], first[0])

    def _delete(self, kept: Kept) -> None:
        """What an ended task has told goes, but its end."""
        spec = kept.task.spec
        self.room.drop(spec.task_id, spec.tenant)
        log_deleted(spec.task_id, spec.tenant, kept.stored_bytes, self.room.limit_bytes)
        kept.deleting = True
        self._tell_deleted(kept)
        self._change(kept)

    def _tell_deleted(self, kept: Kept) -> None:
        kept.stream.deleted = True
        kept.stream.drop_events()
        kept.stream.past = past_deleted(self.room.limit_bytes)
        self._driver.watchers.tasks.note(kept.task.spec.tenant, kept.task.spec.task_id)

    def _past_of(self, kept: Kept) -> Past:
        """Reads back what a task has told that the store has."""
        spec = kept.task.spec
        return past_of(self._records.read, lambda: self.blobs, spec.tenant, spec.task_id)

    def find(self, task_id: TaskId) -> Kept | None:
        """The one of this id; None where it is not kept."""
        return self._known.get(task_id)

    def unwritten(self, tenant: Tenant) -> Iterator[Task]:
        """The tenant's tasks that have changed since they were written."""
        changed = {**self._dirty, **self._away, **self.backlog.underway}
        known = (kept.task for kept in changed if self._driver.views.find_task(kept.task.spec.task_id) is kept.task)
        return (task for task in known if task.spec.tenant == tenant)

    def wait(self, task_id: TaskId) -> asyncio.Future[None] | None:
        """What is done when all that has become of a task is written; None where that is so, or it is not kept."""
        kept = self._known.get(task_id)
        if kept is None or kept.written >= kept.version:
            return None
        future = asyncio.get_running_loop().create_future()
        kept.waiting.append((kept.version, future))
        return future

    # Writing.

    def take(self, most: int) -> Batch:
        """What is to be written now, of so many tasks."""
        batch = []
        for kept in list(islice(self._dirty, most)):
            if self._outputs is not None and kept.sent is None and self._outputs.takes(kept):
                del self._dirty[kept]
                self._away[kept], kept.away = None, True
            else:
                batch.append((kept, self._send(kept)))
        self.backlog.begin(kept for kept, _ in batch)
        return batch

    def _send(self, kept: Kept) -> Sent:
        """What is to be written of a task: first what was sent and may be there, again as it was."""
        if (sent := kept.sent) is not None and sent.gone == kept.gone:
            return sent  # it stays dirty: what came since goes with the next write
        del self._dirty[kept]
        kept.sent = sent = send(kept, self._driver.clock)
        return sent

    def _back(self, kept: Kept, why: InferdError | None) -> None:
        """Outputs of a task are in blobs, or cannot be now."""
        del self._away[kept]
        kept.away, kept.stalled = False, why is not None
        self._dirty[kept] = None
        self.backlog.check(kept, failing=kept.stalled)
        if why is not None:
            self._refuse(kept, why)
        self._changed()

    def wrote(self, kept: Kept, sent: Sent) -> None:
        """The store has so much of a task."""
        kept.sent = None
        if not kept.made:
            kept.made, kept.before, kept.stream.past = True, (), self._past_of(kept)
        kept.written, kept.sizes = sent.version, sent.sizes
        if sent.deletes:
            kept.deleting = False
            kept.let_go_outputs(self.blobs)
        shown = kept.wrote(sent.count)
        self.backlog.count(kept)
        kept.stream.release(shown)
        ended = kept.stream.finished is not None and bool(shown)
        if ended:
            self._driver.streams.ended(kept.stream)
        if show(kept.stream, sent.state) or ended:
            self._driver.watchers.tasks.note(kept.task.spec.tenant, kept.task.spec.task_id)
        if kept.gone and self._known.get(kept.task.spec.task_id) is kept:
            del self._known[kept.task.spec.task_id]
            kept.let_go(self.blobs)
        self._count(kept)
        waiting, kept.waiting = kept.waiting, []
        for wanted, future in waiting:
            if wanted > sent.version:
                kept.waiting.append((wanted, future))
            elif not future.done():
                future.set_result(None)

    def failed(self, failed: Sequence[tuple[Kept, InferdError]]) -> None:
        """These are not written, or nobody knows: new ones are given up, and dropped should they be there.

        The rest is due, as it was sent.
        """
        self._dirty = {**{kept: None for kept, _ in failed}, **self._dirty}  # in the order in which they came
        for kept, why in failed:
            self._refuse(kept, why)
            if not kept.made and not kept.gone:
                self._give_up(kept)

    @staticmethod
    def _refuse(kept: Kept, why: InferdError) -> None:
        waiting, kept.waiting = kept.waiting, []
        for _, waiter in waiting:
            refuse(waiter, why)

    def _give_up(self, kept: Kept) -> None:
        """Withdraw a task that was made to be kept; one that was detached later goes on as before that."""
        spec = kept.task.spec
        del self._known[spec.task_id]
        kept.let_go(self.blobs)
        kept.gone = True
        self._count(kept)
        held_back = kept.stream.finished is None
        kept.stream.release(kept.wrote(len(kept.pending)))
        kept.stream.let_go()
        kept.stream.shown, kept.stream.hidden = None, False
        self.backlog.count(kept)
        self.backlog.let_go(kept)
        if held_back and kept.stream.finished is not None:
            self._driver.streams.ended(kept.stream)
        with suppress(InferdError):
            self._driver.withdraw(spec.task_id, spec.tenant)
        if not spec.detached:
            self._driver.attendance.attach(kept.stream, spec.tenant)
            self._driver.watchers.tasks.note(spec.tenant, spec.task_id)

    # The end.

    @property
    def underway(self) -> set[asyncio.Task[None]]:
        """What puts outputs into blobs."""
        return set() if self._outputs is None else self._outputs.underway

    def stop(self, error: InferdError) -> None:
        """Keep nothing of what follows; who waits is told."""
        for kept in self._known.values():
            self._refuse(kept, error)
            if kept.stream.finished is None:
                kept.stream.fail(error)
        self._stopped = True
        self._dirty.clear()
        if self._outputs is not None:
            self._outputs.stop()
