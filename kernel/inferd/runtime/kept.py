"""A task on its way into the store, and what is told when it does not come there."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import structlog

from inferd.errors import InferdError, StoreUnavailableError, words_of
from inferd.runtime.shared_work import SharedWork

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from inferd.core.ids import TaskId, Tenant
    from inferd.core.task import Task, TaskState
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.event_log import Entry
    from inferd.runtime.kept_events import InBlob
    from inferd.runtime.stream import TaskStream
    from inferd.store.store import Write

RETRY_AFTER_S = 1.0  # what clients are told while nothing can be written

log = structlog.get_logger()


@dataclass(slots=True)
class Sizes:
    """What a task takes of the store, in bytes; a write has its own, and is made on another thread.

    Attributes:
        record: The record.
        pieces: What it has told, but for blobs.
    """

    record: int = 0
    pieces: int = 0

    @property
    def all(self) -> int:
        """Together."""
        return self.record + self.pieces


@dataclass(frozen=True, slots=True)
class Left:
    """What the kernel before this one has stored of a task.

    Attributes:
        record_bytes, pieces_bytes: As in `Sizes`, as that one said.
        outputs: Blobs of its outputs, and their sizes.
        deleted: Whether what it has told was deleted.
    """

    record_bytes: int = 0
    pieces_bytes: int = 0
    outputs: Mapping[str, int] = field(default_factory=dict)
    deleted: bool = False


NOTHING = Left()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the store was given of a task. Until it is known to have it, it is given the same again and nothing else.

    A write that counts as failed may be there all the same: pieces with the numbers that they had take their own place.

    Attributes:
        version: The task's, then.
        count: How many of its `pending` entries are in it.
        gone: Whether it drops the task.
        state: The task's, then.
        deletes: Whether it deletes what the task has told.
        sizes: What it makes the task take of the store; known once `writes` has made it.
        writes: Makes it, where it is written: with large tensors that takes long.
    """

    version: int
    count: int
    gone: bool
    state: TaskState
    deletes: bool
    sizes: Sizes
    writes: Callable[[], Sequence[Write]]


@dataclass(slots=True, eq=False)
class Kept:
    """A task that is kept. One writer: the keeper.

    Attributes:
        task: The core's record; to be read.
        stream: Its events.
        made: Whether the store has it.
        large: Whether its record is, so that it is written without the work when the task has ended.
        gone: Whether it is to be dropped.
        deleting: Whether what it has told is to be deleted.
        sizes: What it takes of the store.
        before: What it told before it was to be kept, until the store has it.
        pending: What it has told that the store does not have.
        pending_bytes: What those cost.
        held_bytes: What it costs that is not shown yet; see `Backlog`.
        stopped: Whether it was stopped because of that.
        sent: What the store was given and is not known to have.
        version: Rises with each change.
        written: The version that the store has.
        waiting: Who waits for which version.
        held: The blobs that it holds, in which its inputs are.
        outputs: Those in which its outputs are, and their sizes.
        in_blobs: Which of what the store does not have is in which, by number.
        inline: Whether no more of its outputs become blobs.
        away: Whether some are becoming blobs: it is not written meanwhile.
        stalled: Whether that cannot be done now.
    """

    task: Task
    stream: TaskStream
    made: bool = False
    large: bool = False
    gone: bool = False
    deleting: bool = False
    sizes: Sizes = field(default_factory=Sizes)
    before: Sequence[Entry] = ()
    pending: list[Entry] = field(default_factory=list)
    pending_bytes: int = 0
    held_bytes: int = 0
    stopped: bool = False
    sent: Sent | None = None
    version: int = 0
    written: int = 0
    waiting: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)
    held: tuple[str, ...] = ()
    outputs: dict[str, int] = field(default_factory=dict)
    in_blobs: dict[int, InBlob] = field(default_factory=dict)
    inline: bool = False
    away: bool = False
    stalled: bool = False

    def take(self) -> None:
        """What its stream holds back is among what the store does not have."""
        self.pending_bytes += self.stream.ahead_bytes
        self.pending += self.stream.take()

    def unwritten(self) -> Iterator[Entry]:
        """What it has told that the store does not have."""
        self.take()
        return chain(self.before, self.pending)

    @property
    def unwritten_bytes(self) -> int:
        """What that costs, at most."""
        return self.pending_bytes + self.stream.ahead_bytes + (self.stream.size_bytes if self.before else 0)

    @property
    def stored_bytes(self) -> int:
        """What it takes of the store and of blobs for its outputs."""
        return self.sizes.all + sum(self.outputs.values())

    def wrote(self, count: int) -> list[Entry]:
        """The store has so many of those that were pending; they are given back."""
        shown, self.pending = self.pending[:count], self.pending[count:]
        if not self.pending:
            self.pending_bytes = 0
            self.in_blobs = {}
        return shown

    def hold(self, blobs: Blobs | None) -> None:
        """Hold the blobs in which its inputs are, if all are there: else its record has the bytes themselves."""
        spec = self.task.spec
        if blobs is None or not isinstance(spec.work, SharedWork):
            return
        for part in spec.work.blobs.values():
            try:
                blobs.hold(spec.tenant, part.digest, f"task {spec.task_id}")
            except InferdError:
                for digest in self.held:
                    blobs.let_go(spec.tenant, digest, f"task {spec.task_id}")
                self.held = ()
                return
            self.held += (part.digest,)

    def hold_outputs(self, blobs: Blobs | None, outputs: Mapping[str, int]) -> None:
        """Hold the blobs in which its outputs are."""
        spec = self.task.spec
        self.outputs |= hold_outputs(blobs, spec.tenant, spec.task_id, outputs)

    def let_go(self, blobs: Blobs | None) -> None:
        """Hold none any more."""
        self.let_go_outputs(blobs)
        held, self.held = self.held, ()
        if blobs is not None:
            for digest in held:
                blobs.let_go(self.task.spec.tenant, digest, f"task {self.task.spec.task_id}")

    def let_go_outputs(self, blobs: Blobs | None) -> None:
        """Hold none of those in which its outputs are."""
        outputs, self.outputs = self.outputs, {}
        let_go_outputs(blobs, self.task.spec.tenant, self.task.spec.task_id, outputs)


def hold_outputs(blobs: Blobs | None, tenant: Tenant, task_id: TaskId, outputs: Mapping[str, int]) -> dict[str, int]:
    """Have a task hold the blobs in which its outputs are; which it holds. Of one that is not there, reading tells."""
    held: dict[str, int] = {}
    if blobs is None:
        return held
    for digest, size_bytes in outputs.items():
        try:
            blobs.hold(tenant, digest, f"task {task_id}")
        except InferdError as error:
            log.warning("outputs of a task are lost", task=task_id, tenant=tenant, why=error.message)
        else:
            held[digest] = size_bytes
    return held


def let_go_outputs(blobs: Blobs | None, tenant: Tenant, task_id: TaskId, outputs: Iterable[str]) -> None:
    """A task holds these no more."""
    if blobs is not None:
        for digest in outputs:
            blobs.let_go(tenant, digest, f"task {task_id}")


def show(stream: TaskStream, state: TaskState) -> bool:
    """A task is written in this state; whether that is news."""
    news, stream.shown, stream.hidden = stream.hidden or state is not stream.shown, state, False
    return news


def refuse(future: asyncio.Future[None], error: InferdError) -> None:
    """Tell one who waits that it is not kept."""
    if not future.done():
        future.set_exception(type(error)(error.message, metadata=error.metadata, retry_after_s=RETRY_AFTER_S))
        future.exception()  # whoever waited may have gone


def typed(error: BaseException) -> InferdError:
    """What clients are told of a write that failed."""
    if isinstance(error, InferdError):
        return error
    cause = f"{type(error).__name__}: {words_of(error)}"
    return StoreUnavailableError(f"the store cannot be written: {cause}", metadata={"cause": cause})
