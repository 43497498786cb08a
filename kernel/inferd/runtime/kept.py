"""A task on its way into the store, and what is told when it does not come there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.errors import InferdError, StoreUnavailableError
from inferd.runtime.shared_work import SharedWork

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from inferd.core.task import Task, TaskState
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.event_log import Entry
    from inferd.runtime.streams import TaskStream
    from inferd.store.store import Write

RETRY_AFTER_S = 1.0  # what clients are told while nothing can be written


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the store was given of a task. Until it is known to have it, it is given the same again and nothing else.

    A write that counts as failed may be there all the same: pieces with the numbers that they had take their own place.

    Attributes:
        version: The task's, then.
        count: How many of its `pending` entries are in it.
        gone: Whether it drops the task.
        state: The task's, then.
        writes: Makes it, where it is written: with large tensors that takes long.
    """

    version: int
    count: int
    gone: bool
    state: TaskState
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
    """

    task: Task
    stream: TaskStream
    made: bool = False
    large: bool = False
    gone: bool = False
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

    def hold(self, blobs: Blobs | None) -> None:
        """Hold the blobs in which its inputs are, if all are there: else its record has the bytes themselves."""
        spec = self.task.spec
        if blobs is None or not isinstance(spec.work, SharedWork):
            return
        for part in spec.work.blobs.values():
            try:
                blobs.hold(spec.tenant, part.digest, f"task {spec.task_id}")
            except InferdError:
                self.let_go(blobs)
                return
            self.held += (part.digest,)

    def let_go(self, blobs: Blobs | None) -> None:
        """Hold none any more."""
        held, self.held = self.held, ()
        if blobs is not None:
            for digest in held:
                blobs.let_go(self.task.spec.tenant, digest, f"task {self.task.spec.task_id}")


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
    cause = f"{type(error).__name__}: {error}"
    return StoreUnavailableError(f"the store cannot be written: {cause}", metadata={"cause": cause})
