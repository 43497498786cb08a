"""Who follows the tasks of a client: all of them on one call. `Follower` has a thread, `AsyncFollower` a task.

A call that breaks is taken up again on another one, where each task goes on behind the last event that came: nothing is
lost, and nothing comes twice. When that does not succeed for as long as tasks outlive their call, every reader is told.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from inferd_api.v1.task_service_pb2 import RunTasksRequest, RunTasksResponse
from inferd_client.errors import InferdError, KernelUnreachableError, TaskExpiredError, from_rpc, from_status
from inferd_client.orders import FULL, LINGER, Orders

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator

    from inferd_api.v1.task_pb2 import Finished, TaskEvent
    from inferd_api.v1.task_service_pb2 import RunOrder, TaskOrder, WatchTaskRequest

    AsyncCall: TypeAlias = "grpc.aio.StreamStreamCall[RunTasksRequest, RunTasksResponse]"


class Call(Protocol):
    """A stream of what comes."""

    def __iter__(self) -> Iterator[RunTasksResponse]: ...

    def cancel(self) -> object:
        """End it."""


MESSAGE_BYTES: Final = 1 << 20  # orders of more than so much are sent in several messages
MESSAGE_ORDERS: Final = 1000  # and no more of them in one; a kernel takes a few more
LATE_S: Final = 5.0  # so much later than its deadline the end of a task is waited for
FAREWELL_S: Final = 1.0  # how long closing waits for the kernel to hear of it
PAUSE_S: Final = 0.1  # between two tries to take a broken call up


def messages(orders: Iterable[TaskOrder]) -> Iterator[RunTasksRequest]:
    """The orders in as few messages as their size and number allow."""
    request, size_bytes = RunTasksRequest(), 0
    for order in orders:
        size_bytes += order.ByteSize()
        if request.orders and (size_bytes > MESSAGE_BYTES or len(request.orders) == MESSAGE_ORDERS):
            yield request
            request, size_bytes = RunTasksRequest(), order.ByteSize()
        request.orders.append(order)
    if request.orders:
        yield request


class _Outbox:
    """The orders that one call has still to send. One writer: the event loop."""

    def __init__(self, orders: Iterable[TaskOrder]) -> None:
        self._orders = list(orders)
        self._changed = asyncio.Event()
        self._changed.set()
        self._ended = False

    def put(self, order: TaskOrder) -> None:
        """Send it with those that wait."""
        self._orders.append(order)
        self._changed.set()

    def end(self) -> None:
        """Send what waits, and nothing after it."""
        self._ended = True
        self._changed.set()

    async def requests(self) -> AsyncIterator[RunTasksRequest]:
        """The orders, as many at once as there are, until the end."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            orders, self._orders = self._orders, []
            for message in messages(orders):
                yield message
            if self._ended and not self._orders:
                return


class _Inbox:
    """What came for one reader, in its order. One writer: the follower.

    An `asyncio.Queue` with a timeout costs several times as much, and this is for each task of each step.
    """

    __slots__ = ("_waiting", "items")

    def __init__(self) -> None:
        self.items: deque[TaskEvent | InferdError] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: TaskEvent | InferdError) -> None:
        """Let the reader have it."""
        self.items.append(item)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def come(self) -> None:
        """Wait until there is something."""
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting


class AsyncFollower:
    """Follows the tasks of an asynchronous client.

    Args:
        dial: Opens the call that sends such requests.
        address: Of the kernel, for errors.
        is_back: Whether a call that failed would succeed now.
        check_open: Refuses to work when the client is closed.
    """

    def __init__(
        self,
        dial: Callable[[AsyncIterator[RunTasksRequest]], AsyncCall],
        address: str,
        is_back: Callable[[grpc.RpcError], Awaitable[bool]],
        check_open: Callable[[], None],
    ) -> None:
        self._dial = dial
        self._address = address
        self._is_back = is_back
        self._check_open = check_open
        self._orders = Orders()
        self._inboxes: dict[int, _Inbox] = {}
        self._outbox = _Outbox(())  # of the call, each of which has its own: nothing is left to one that is dead
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def events(
        self, *, run: RunOrder | None = None, watch: WatchTaskRequest | None = None
    ) -> AsyncGenerator[TaskEvent]:
        """Order a task and give its events, up to the last one or to where the caller leaves.

        Raises:
            InferdError: The order was refused, no kernel answers, none said in time that the task has expired, or the
                task that it made did not succeed: then after its last event was given.
        """
        self._check_open()
        followed, inbox = self._orders.begin(run, watch), _Inbox()
        self._inboxes[followed.tag] = inbox
        patience_s, alarm = _patience_s(run), None
        if patience_s is not None:
            alarm = asyncio.get_running_loop().call_later(patience_s, inbox.put, _late())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="follower of tasks")
        else:
            self._send(followed.order())
        finished: Finished | None = None
        try:
            while finished is None:
                if not inbox.items:
                    await inbox.come()
                item = inbox.items.popleft()
                if isinstance(item, InferdError):
                    try:
                        raise item
                    finally:
                        del item  # it holds this frame, and with it the prompt
                if followed.stopped:
                    self._send(followed.flow(len(inbox.items)))
                finished = item.finished if item.HasField("finished") else None
                yield item
        finally:
            if alarm is not None:
                alarm.cancel()
            del self._inboxes[followed.tag]
            self._send(self._orders.leave(followed))
        if run is not None and finished.HasField("error"):
            raise from_status(finished.error)

    async def close(self) -> None:
        """Follow nothing any more: tasks that hang on the call end."""
        if self._task is None:
            return
        for order in self._orders.leave_all():
            self._outbox.put(order)
        self._closed = True
        self._outbox.end()
        await asyncio.wait([self._task], timeout=FAREWELL_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _send(self, order: TaskOrder | None) -> None:
        if order is not None:
            self._outbox.put(order)

    async def _run(self) -> None:
        """Serve calls until one cannot be taken up again."""
        error: InferdError = KernelUnreachableError(f"the connection to {self._address} was closed")
        give_up = 0.0
        try:
            while True:
                spoke, failed = await self._serve()
                now = time.monotonic()
                give_up = now + LINGER.seconds if spoke else give_up
                if not isinstance(failed, KernelUnreachableError) or now >= give_up or self._closed:
                    error = failed
                    return
                await asyncio.sleep(PAUSE_S)
        finally:
            for tag, inbox in self._inboxes.items():
                self._orders.followed.pop(tag, None)
                inbox.put(error)

    async def _serve(self) -> tuple[bool, InferdError]:
        """One call, from its begin to its end; whether the kernel is there, and why it ended."""
        spoke = False
        outbox = self._outbox = _Outbox(followed.order() for followed in self._orders.followed.values())
        if self._closed:
            outbox.end()
        call = self._dial(outbox.requests())
        try:
            async for response in call:
                spoke = True
                self._receive(response)
        except grpc.RpcError as error:
            return spoke or await self._is_back(error), from_rpc(error, self._address)
        finally:
            outbox.end()
            call.cancel()
        return spoke, KernelUnreachableError(f"{self._address} ended the call")

    def _receive(self, response: RunTasksResponse) -> None:
        for update in response.updates:
            followed = self._orders.followed.get(update.tag)
            if followed is not None:
                inbox, event = self._inboxes[followed.tag], followed.take(update)
                if len(inbox.items) >= FULL - 1:
                    self._send(followed.flow(len(inbox.items) + 1))
                inbox.put(event)


class Follower:
    """Follows the tasks of a synchronous client; safe to use from several threads.

    Args:
        dial: Opens the call that sends such requests.
        address: Of the kernel, for errors.
        is_back: Whether a call that failed would succeed now.
        check_open: Refuses to work when the client is closed.
    """

    def __init__(
        self,
        dial: Callable[[Iterator[RunTasksRequest]], Call],
        address: str,
        is_back: Callable[[grpc.RpcError], bool],
        check_open: Callable[[], None],
    ) -> None:
        self._dial = dial
        self._address = address
        self._is_back = is_back
        self._check_open = check_open
        self._lock = threading.Lock()  # of all below
        self._orders = Orders()
        self._inboxes: dict[int, queue.SimpleQueue[TaskEvent | InferdError]] = {}
        self._outbox: queue.SimpleQueue[TaskOrder | None] = queue.SimpleQueue()
        self._call: Call | None = None
        self._thread: threading.Thread | None = None  # while there is one
        self._closed = False

    def events(self, *, run: RunOrder | None = None, watch: WatchTaskRequest | None = None) -> Generator[TaskEvent]:
        """Order a task and give its events, up to the last one or to where the caller leaves.

        Raises:
            InferdError: As with `AsyncFollower`.
        """
        self._check_open()
        patience_s = _patience_s(run)
        give_up = None if patience_s is None else time.monotonic() + patience_s
        inbox: queue.SimpleQueue[TaskEvent | InferdError] = queue.SimpleQueue()
        with self._lock:
            followed = self._orders.begin(run, watch)
            self._inboxes[followed.tag] = inbox
            if self._thread is not None:
                self._outbox.put(followed.order())
            else:
                self._thread = threading.Thread(target=self._run, name="follower of tasks", daemon=True)
                self._thread.start()
        finished: Finished | None = None
        try:
            while finished is None:
                try:
                    item = inbox.get() if give_up is None else inbox.get(timeout=max(0.0, give_up - time.monotonic()))
                except queue.Empty:
                    raise _late() from None
                if isinstance(item, InferdError):
                    try:
                        raise item
                    finally:
                        del item  # it holds this frame, and with it the prompt
                if followed.stopped:  # it was before the item was put, see `_receive`
                    with self._lock:
                        self._send(followed.flow(inbox.qsize()))
                finished = item.finished if item.HasField("finished") else None
                yield item
        finally:
            with self._lock:
                self._inboxes.pop(followed.tag, None)
                self._send(self._orders.leave(followed))
        if run is not None and finished.HasField("error"):
            raise from_status(finished.error)

    def close(self) -> None:
        """Follow nothing any more: tasks that hang on the call end."""
        with self._lock:
            self._closed = True
            for order in self._orders.leave_all():
                self._outbox.put(order)
            self._outbox.put(None)
            thread = self._thread
        if thread is not None:
            thread.join(FAREWELL_S)
        if self._call is not None:
            self._call.cancel()

    def _send(self, order: TaskOrder | None) -> None:
        if order is not None:
            self._outbox.put(order)

    def _run(self) -> None:
        """Serve calls until one cannot be taken up again."""
        error: InferdError = KernelUnreachableError(f"the connection to {self._address} was closed")
        give_up = 0.0
        try:
            while not self._closed:
                spoke, failed = self._serve()
                now = time.monotonic()
                give_up = now + LINGER.seconds if spoke else give_up
                if not isinstance(failed, KernelUnreachableError) or now >= give_up:
                    error = failed
                    break
                time.sleep(PAUSE_S)
        finally:  # whatever becomes of this thread, nobody waits for it
            with self._lock:
                self._thread = None
                for tag, inbox in self._inboxes.items():
                    self._orders.followed.pop(tag, None)
                    inbox.put(error)

    def _serve(self) -> tuple[bool, InferdError]:
        """One call, from its begin to its end; whether the kernel is there, and why it ended."""
        spoke = False
        with self._lock:
            outbox = self._outbox = queue.SimpleQueue()
            for followed in self._orders.followed.values():
                outbox.put(followed.order())
            call = self._call = self._dial(_requests(outbox))
        try:
            for response in call:
                spoke = True
                self._receive(response)
        except grpc.RpcError as error:
            return spoke or self._is_back(error), from_rpc(error, self._address)
        finally:
            outbox.put(None)
            call.cancel()
        return spoke, KernelUnreachableError(f"{self._address} ended the call")

    def _receive(self, response: RunTasksResponse) -> None:
        with self._lock:
            for update in response.updates:
                followed = self._orders.followed.get(update.tag)
                if followed is not None:
                    inbox, event = self._inboxes[followed.tag], followed.take(update)
                    if inbox.qsize() >= FULL - 1:  # told before the reader can have read so much that it would go on
                        self._send(followed.flow(inbox.qsize() + 1))
                    inbox.put(event)


def _patience_s(run: RunOrder | None) -> float | None:
    """How long to wait for the end of a task that has a deadline: the kernel tells of it, unless it hangs."""
    if run is None or not run.HasField("timeout"):
        return None
    return run.timeout.seconds + run.timeout.nanos / 1e9 + LATE_S


def _late() -> TaskExpiredError:
    return TaskExpiredError("the task's deadline passed, and the kernel did not say so in time")


def _requests(outbox: queue.SimpleQueue[TaskOrder | None]) -> Iterator[RunTasksRequest]:
    """The orders of a queue, as many at once as there are, until None."""
    while True:
        orders: deque[TaskOrder] = deque()
        item = outbox.get()
        while item is not None:
            orders.append(item)
            if outbox.empty():
                break
            item = outbox.get()
        yield from messages(orders)
        if item is None:
            return
