"""What may be done with tasks."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
)
from dataclasses import replace

from inferd.core.ids import TaskId, Tenant
from inferd.core.index import Page
from inferd.core.task import Task, TaskSpec, TaskState
from inferd.errors import EventsDroppedError
from inferd.runtime.adapters import settle_adapter
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.blobs import Blobs
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import Bound, ByteBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.shown import page_of
from inferd.runtime.front.task_list import Part, TaskList
from inferd.runtime.shared_work import SharedWork, allow_output
from inferd.runtime.shelf import Shelf
from inferd.runtime.stream import TaskStream
from inferd.runtime.training_work import is_training

MAKING = "a task that is being made"  # as the holder of a blob


class Tasks:
    """Runs tasks and tells of them.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        streams: Bounds the streams of tasks that a tenant has open.
        requests: Bounds what those who run a task hold of what they were sent.

    Attributes:
        clock: The time of all tasks.
        streams: Its argument.
    """

    def __init__(self, driver: Driver, shelf: Shelf, *, streams: Bound, requests: ByteBound) -> None:
        self.clock = driver.clock
        self.streams = streams
        self._driver = driver
        self._shelf = shelf
        self._requests = requests

    @asynccontextmanager
    async def run(self, spec: TaskSpec, *, size_bytes: int) -> AsyncIterator[TaskStream]:
        """Make a task, or find the one that the same `request_id` made; the block follows its events.

        The life of a task that is not detached hangs on the blocks that run it: the last one that ends before the task
        does cancels it. A block that comes to the end of the task ends as the task did.

        Args:
            spec: The task.
            size_bytes: What is held of the request as long as the block.

        Raises:
            InferdError: The task is refused, or failed.
        """
        tenant = spec.tenant
        with self.streams.place(tenant), self._requests.place(tenant, size_bytes):
            stream = await self.begin(spec)
            del spec  # it stays with the core, for as long as that needs it
            try:
                yield stream
                finished = stream.finished
            finally:
                self.leave(stream, tenant)  # the client has gone, or was too slow
        if finished is not None and finished.outcome.error is not None:
            raise finished.outcome.error

    async def begin(self, spec: TaskSpec, *, linger_s: float = 0.0) -> TaskStream:
        """Make a task, or find the one that the same `request_id` made; its life hangs on the caller until `leave`.

        Args:
            spec: The task.
            linger_s: For how long it goes on without anyone on whom its life hangs.

        Raises:
            InferdError: It is refused.
        """
        spec = await self._shelf.functions.placed(spec)
        if not is_training(spec):  # what the kernel has in the place of a model is none to clients
            await self._shelf.look_for(spec.model)
        keeper = self._driver.keeper if spec.detached else None
        repeated = self._driver.views.knows_request(spec.tenant, spec.request_id)
        if not repeated:
            settle_adapter(spec.work, self._driver.views.find_model(spec.model))
        if keeper is not None and not repeated:
            self._driver.views.check_quotas(spec, self.clock.now())  # before anything is written for it
            keeper.check_new(spec)
            allow_output(spec.work, keeper.most_output_tokens)
        if (blobs := blobs_of(keeper)) is not None and isinstance(spec.work, SharedWork):
            async with _named(blobs, spec, spec.work) as named:
                stream = await self._submit(named)
        else:
            stream = await self._submit(spec)
        if keeper is not None:
            if repeated and not stream.detached:
                keeper.check()
            _check_whole(stream)
        self._driver.attendance.attend(stream, spec.tenant, detached=spec.detached, linger_s=linger_s)
        if keeper is not None:
            try:
                await keeper.settled(stream.task_id)
            except BaseException:
                self.leave(stream, spec.tenant)
                raise
        return stream

    async def _submit(self, spec: TaskSpec) -> TaskStream:
        if (past := self._driver.views.past_of(spec.tenant, spec.request_id)) is not None:
            await self._driver.archive.recall(spec.tenant, (past.task_id,))
        return self._driver.submit(spec)

    async def create(self, spec: TaskSpec) -> Task:
        """Make a detached task, or find the one that the same `request_id` made; it is kept when this returns.

        Raises:
            InferdError: It is refused, or cannot be kept.
        """
        tenant = spec.tenant
        stream = await self.begin(spec)
        self.leave(stream, tenant)
        return await self._get(stream.task_id, tenant)

    def knows(self, caller: Caller, request_id: str) -> bool:
        """Whether a request of this id has made a task of the tenant: the same again finds it, whatever has passed."""
        return self._driver.views.knows_request(caller.tenant, request_id)

    def model_made(self, caller: Caller, request_id: str) -> str | None:
        """The model of the task that a request of this id has made; None where it has made none."""
        return self._driver.views.model_requested(caller.tenant, request_id)

    def holding(self, tenant: Tenant, size_bytes: int) -> AbstractContextManager[None]:
        """As long as the block, so much is held of a request.

        Raises:
            LimitExceededError: Too much is.
        """
        return self._requests.place(tenant, size_bytes)

    async def settled(self, task_id: TaskId, caller: Caller) -> Task:
        """The task of this id, once all that has become of it is kept, if it is one that is.

        Raises:
            StoreUnavailableError: It cannot be kept now; it is tried again.
        """
        if self._driver.keeper is not None:
            await self._driver.keeper.settled(task_id)
        return await self.get(task_id, caller)

    def adopt(self, stream: TaskStream, tenant: Tenant, *, linger_s: float) -> None:
        """Let the life of a task hang on the caller, too, until `leave`."""
        self._driver.attendance.attend(stream, tenant, detached=False, linger_s=linger_s)

    def leave(self, stream: TaskStream, tenant: Tenant, *, lingers: bool = True) -> None:
        """Let the life of a task hang on the caller no longer; the last one ends it with that, or when it lingered."""
        self._driver.attendance.leave(stream, tenant, lingers=lingers)

    @asynccontextmanager
    async def watch(self, task_id: TaskId, caller: Caller, *, after: int) -> AsyncIterator[TaskStream]:
        """The events of a task, which the block follows from behind number `after`.

        Raises:
            TaskNotFoundError: The tenant has no such task.
            InvalidFieldError: There is no such event yet.
            LimitExceededError: The tenant has as many streams as it may have.
        """
        stream = await self.find(task_id, caller, after=after)
        with self.streams.place(caller.tenant):
            yield stream

    async def watch_list(
        self, caller: Caller, states: Collection[TaskState], *, trials: bool = False
    ) -> AsyncGenerator[Part, None]:
        """The tenant's tasks in one of these states, none for all: those that there are, then each change.

        Those by which trials are measured where `trials` asks for them; so for the next.

        Raises:
            LimitExceededError: The tenant has as many streams as it may have.
            ShuttingDownError: The kernel is shutting down.
        """
        with self.streams.place(caller.tenant):
            async with aclosing(TaskList(self._driver, caller.tenant, states, trials=trials).follow()) as parts:
                async for part in parts:
                    yield part

    async def find(self, task_id: TaskId, caller: Caller, *, after: int) -> TaskStream:
        """The events of a task, to be read from behind number `after`.

        Raises:
            TaskNotFoundError, InvalidFieldError: As `watch`.
        """
        await self._driver.archive.recall(caller.tenant, (task_id,))
        return self._driver.watch(task_id, caller.tenant, after=after)

    async def check_leads(self) -> None:
        """Refuse what new calls are refused for, on one that is open; a kernel that was held up finds out first.

        Raises:
            NotLeaderError: Another kernel leads, or this one is not sure that it does.
        """
        leadership = None if self._driver.keeper is None else self._driver.keeper.leadership
        if leadership is None or leadership.refusal() is None:
            return
        await leadership.settled()
        if (refused := leadership.refusal()) is not None:
            raise refused

    def cut_short(self) -> AbstractAsyncContextManager[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        return self._driver.closing.cut_short()

    def stream(self, task: Task) -> TaskStream:
        """The events of a task that was just read, to be looked at."""
        return self._driver.streams.get(task.spec.task_id)

    async def get(self, task_id: TaskId, caller: Caller) -> Task:
        """The task of this id.

        Raises:
            TaskNotFoundError: The tenant has no such task; so for all that follow.
            StoreUnavailableError: It had ended before the kernel began, and cannot be read now; so, too.
        """
        return await self._get(task_id, caller.tenant)

    async def _get(self, task_id: TaskId, tenant: Tenant) -> Task:
        await self._driver.archive.recall(tenant, (task_id,))
        return self._driver.views.task(task_id, tenant)

    async def list(
        self, caller: Caller, states: Collection[TaskState], *, after: int | None, size: int, trials: bool = False
    ) -> Page[Task]:
        """The tenant's tasks in one of these states, none for all, newest first, behind the one of number `after`."""
        return await page_of(self._driver, caller.tenant, states, after=after, size=size, trials=trials)

    async def cancel(self, task_id: TaskId, caller: Caller) -> Task:
        """End a task; one that has ended stays as it is.

        Raises:
            StoreUnavailableError: It is kept, and nothing can be written now: it goes on.
        """
        await self._check_kept(task_id, caller)
        self._driver.cancel(task_id, caller.tenant)
        return self._driver.views.task(task_id, caller.tenant)

    async def suspend(self, task_id: TaskId, caller: Caller) -> Task:
        """Stop a task and give its place back; one that is suspended stays as it is.

        Raises:
            TaskStateError: It has ended.
            StoreUnavailableError: As `cancel`.
        """
        await self._check_kept(task_id, caller)
        self._driver.suspend(task_id, caller.tenant)
        return self._driver.views.task(task_id, caller.tenant)

    async def resume(self, task_id: TaskId, caller: Caller) -> Task:
        """Let a suspended task go on; one that waits or runs stays as it is.

        Raises:
            TaskStateError: It has ended.
            StoreUnavailableError: As `cancel`, though it stays suspended.
        """
        await self._check_kept(task_id, caller)
        self._driver.resume(task_id, caller.tenant)
        return self._driver.views.task(task_id, caller.tenant)

    async def _check_kept(self, task_id: TaskId, caller: Caller) -> None:
        """Refuse to change what cannot be kept as it would be then, before it is changed."""
        if (await self.get(task_id, caller)).finished is None and self._driver.keeper is not None:
            self._driver.keeper.check_task(task_id)


def _check_whole(stream: TaskStream) -> None:
    """Refuse to keep from now on what could not go on: the kernel after this one computes behind what it finds.

    Raises:
        EventsDroppedError: The task is not kept yet, runs, and its first events are not held any more.
    """
    if stream.dropped and not stream.detached and stream.finished is None:
        raise EventsDroppedError(
            f"events 1 to {stream.dropped} of task {stream.task_id} are no longer held, so that it cannot be kept from "
            "now on; ask for that when it is made, or when it has ended",
            metadata={"first_sequence": str(stream.dropped + 1)},
        )


@asynccontextmanager
async def _named(blobs: Blobs, spec: TaskSpec, work: SharedWork) -> AsyncIterator[TaskSpec]:
    """A task that is to be kept, what is large of its inputs in blobs.

    These stay as long as the block, in which the task comes to hold them itself.

    Raises:
        BlobNotFoundError: One that it names has been deleted.
        LimitExceededError: The tenant may have no more blobs.
        StoreUnavailableError: They cannot be kept now.
    """
    with ExitStack() as holds:
        for part in work.blobs.values():
            blobs.hold(spec.tenant, part.digest, MAKING)
            holds.callback(blobs.let_go, spec.tenant, part.digest, MAKING)
        made, kept = await blobs.memories.keep(spec.tenant, work, MAKING)
        for part in made:
            holds.callback(blobs.let_go, spec.tenant, part.digest, MAKING)
        yield replace(spec, work=kept) if made else spec
