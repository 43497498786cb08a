"""What a follower of tasks and its readers put down for each other: events for readers, orders for the kernel."""

from __future__ import annotations

import asyncio
import queue
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from inferd_api.v1.task_service_pb2 import RunTasksRequest
from inferd_client.errors import InferdError, TaskExpiredError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from inferd_api.v1.task_pb2 import TaskEvent
    from inferd_api.v1.task_service_pb2 import RunOrder, TaskOrder

    Item: TypeAlias = TaskEvent | InferdError

MESSAGE_BYTES: Final = 1 << 20  # orders of more than so much are sent in several messages
MESSAGE_ORDERS: Final = 1000  # and no more of them in one; a kernel takes a few more
LATE_S: Final = 5.0  # so much later than its deadline the end of a task is waited for


def patience_s(run: RunOrder | None) -> float | None:
    """How long to wait for the end of a task that has a deadline: the kernel tells of it, unless it hangs."""
    if run is None or not run.HasField("timeout"):
        return None
    return run.timeout.seconds + run.timeout.nanos / 1e9 + LATE_S


def _late() -> TaskExpiredError:
    return TaskExpiredError("the task's deadline passed, and the kernel did not say so in time")


def _opened(item: Item) -> TaskEvent:
    if isinstance(item, InferdError):
        try:
            raise item
        finally:
            del item  # it holds this frame
    return item


class AsyncInbox:
    """What came for one reader, in its order. One writer: the follower.

    An `asyncio.Queue` with a timeout costs several times as much, and this is for each task of each step.

    Args:
        patience_s: After so long the reader is told that there was no end.

    Attributes:
        items: What was not taken yet.
    """

    def __init__(self, patience_s: float | None) -> None:
        self.items: deque[Item] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        if patience_s is not None:
            self._alarm = asyncio.get_running_loop().call_later(patience_s, lambda: self.put(_late()))

    def put(self, item: Item) -> None:
        """Let the reader have it."""
        self.items.append(item)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def come(self) -> None:
        """Wait until there is something."""
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def take(self) -> TaskEvent:
        """What came first; there must be something.

        Raises:
            InferdError: It is one.
        """
        return _opened(self.items.popleft())

    def close(self) -> None:
        """Nobody reads any more."""
        if self._alarm is not None:
            self._alarm.cancel()


class Inbox:
    """What came for one reader with a thread, in its order. One writer: the follower.

    Args:
        patience_s: After so long the reader is told that there was no end.

    Attributes:
        items: What was not taken yet.
    """

    def __init__(self, patience_s: float | None) -> None:
        self.items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._give_up = None if patience_s is None else time.monotonic() + patience_s

    def take(self) -> TaskEvent:
        """What came first, once there is something.

        Raises:
            InferdError: It is one, or nothing came in time.
        """
        if self._give_up is None:
            return _opened(self.items.get())
        try:
            return _opened(self.items.get(timeout=max(0.0, self._give_up - time.monotonic())))
        except queue.Empty:
            raise _late() from None


class AsyncOutbox:
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


def requests(outbox: queue.SimpleQueue[TaskOrder | None]) -> Iterator[RunTasksRequest]:
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
