"""Who follows the tasks of a client: all of them on one call. `Follower` has a thread, `AsyncFollower` a task.

A call that breaks is taken up again on another one, where each task goes on behind the last event that came: nothing is
lost, and nothing comes twice. So it is when the kernel was started again, for tasks that outlive it. Where that does
not succeed for as long as a task outlives its call, its reader is told. A kernel that has no such call yet is asked for
each task with a call of its own, which ends when its connection does.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from contextlib import aclosing
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from inferd_client.endings import Ending
from inferd_client.errors import (
    InferdError,
    KernelUnreachableError,
    StatusError,
    from_status,
)
from inferd_client.mailboxes import AsyncInbox, AsyncOutbox, Inbox, patience_s, requests
from inferd_client.orders import FULL, Orders
from inferd_client.patience import PASSING, PAUSE_S
from inferd_client.rpc_errors import from_rpc
from inferd_client.versions import is_lacking

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator

    from inferd_api.v1.task_pb2 import Finished, TaskEvent
    from inferd_api.v1.task_service_pb2 import RunOrder, RunTasksRequest, RunTasksResponse, TaskOrder, WatchTaskRequest
    from inferd_client.orders import Followed

    AsyncCall: TypeAlias = "grpc.aio.StreamStreamCall[RunTasksRequest, RunTasksResponse]"


class Call(Protocol):
    """A stream of what comes."""

    def __iter__(self) -> Iterator[RunTasksResponse]: ...

    def cancel(self) -> object:
        """End it."""


FAREWELL_S: Final = 1.0  # how long closing waits for the kernel to hear of it


class AsyncFollower:
    """Follows the tasks of an asynchronous client.

    Args:
        dial: Opens the call that sends such requests.
        address: Of the kernel, for errors.
        is_back: Whether a call that failed would succeed now.
        check_open: Refuses to work when the client is closed.
        singly: Follows a task on a call of its own.
        failure: What is said of a call that failed; default: by its status and `address`.
    """

    def __init__(
        self,
        dial: Callable[[AsyncIterator[RunTasksRequest]], AsyncCall],
        address: str,
        is_back: Callable[[grpc.RpcError], Awaitable[bool]],
        check_open: Callable[[], None],
        singly: Callable[[RunOrder | None, WatchTaskRequest | None], AsyncGenerator[TaskEvent]],
        *,
        failure: Callable[[grpc.RpcError], InferdError] | None = None,
    ) -> None:
        self._failure = failure or partial(from_rpc, address=address)
        self._dial = dial
        self._address = address
        self._is_back = is_back
        self._check_open = check_open
        self._singly = singly
        self._lacking = False  # the kernel has no such call
        self._orders = Orders()
        self._inboxes: dict[int, AsyncInbox] = {}
        self._outbox = AsyncOutbox(())  # of the call, each of which has its own: nothing is left to one that is dead
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def events(
        self, *, run: RunOrder | None = None, watch: WatchTaskRequest | None = None
    ) -> AsyncGenerator[TaskEvent]:
        """Order a task and give its events, up to the last one or to where the caller leaves.

        Raises:
            InferdError: The order was refused, no kernel answers, none said in time that the task has expired, or the
                task that it made did not succeed: then after its last event was given.
        """
        return self._singly(run, watch) if self._lacking else self._events(run, watch)

    async def _events(self, run: RunOrder | None, watch: WatchTaskRequest | None) -> AsyncGenerator[TaskEvent]:
        self._check_open()
        followed, inbox = self._begin(run, watch)
        finished: Finished | None = None
        try:
            while finished is None:
                if not inbox.items:
                    await inbox.come()
                event = inbox.take()
                if followed.stopped:
                    self._send(followed.flow(len(inbox.items)))
                finished = event.finished if event.HasField("finished") else None
                yield event
        except StatusError:
            if not self._lacking or followed.sequence:  # what was told once is not told again
                raise
        finally:
            inbox.close()
            del self._inboxes[followed.tag]
            self._send(self._orders.leave(followed))
        if finished is None:
            async with aclosing(self._singly(run, watch)) as events:
                async for event in events:
                    yield event
        elif run is not None and finished.HasField("error"):
            raise from_status(finished.error)

    def _begin(self, run: RunOrder | None, watch: WatchTaskRequest | None) -> tuple[Followed, AsyncInbox]:
        followed = self._orders.begin(run, watch)
        inbox = self._inboxes[followed.tag] = AsyncInbox(patience_s(run))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="follower of tasks")
        else:
            self._send(followed.order())
        return followed, inbox

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
        heard = -inf
        try:
            while True:
                spoke, failed = await self._serve()
                now = time.monotonic()
                heard = now if spoke else heard
                if not isinstance(failed, PASSING) or self._closed:
                    error = failed
                    return
                for tag, lost in self._orders.lost(failed, now - heard):
                    self._tell(lost, [tag])
                if not self._orders.followed:
                    return
                await asyncio.sleep(PAUSE_S)
        finally:
            self._tell(error, self._inboxes)

    def _tell(self, error: InferdError, tags: Iterable[int]) -> None:
        for tag in tags:
            self._orders.followed.pop(tag, None)
            self._inboxes[tag].put(error)

    async def _serve(self) -> tuple[bool, InferdError]:
        """One call, from its begin to its end; whether the kernel is there, and why it ended."""
        spoke = False
        outbox = self._outbox = AsyncOutbox(self._orders.again())
        if self._closed:
            outbox.end()
        call = self._dial(outbox.requests())
        ending = Ending(call)
        try:
            async for response in call:
                spoke = True
                self._receive(response)
        except grpc.RpcError as broken:
            error = await ending.of(broken)
            self._lacking = is_lacking(error)
            return self._orders.hears(error, spoke=spoke) or await self._is_back(error), self._failure(error)
        finally:
            outbox.end()
            call.cancel()
        return spoke, KernelUnreachableError(f"{self._address} ended the call")

    def _receive(self, response: RunTasksResponse) -> None:
        for update in response.updates:
            followed = self._orders.followed.get(update.tag)
            if followed is not None:
                inbox, event = self._inboxes[followed.tag], followed.take(update)
                if event is None:
                    continue
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
        singly: Follows a task on a call of its own.
        failure: What is said of a call that failed; default: by its status and `address`.
    """

    def __init__(
        self,
        dial: Callable[[Iterator[RunTasksRequest]], Call],
        address: str,
        is_back: Callable[[grpc.RpcError], bool],
        check_open: Callable[[], None],
        singly: Callable[[RunOrder | None, WatchTaskRequest | None], Generator[TaskEvent]],
        *,
        failure: Callable[[grpc.RpcError], InferdError] | None = None,
    ) -> None:
        self._failure = failure or partial(from_rpc, address=address)
        self._dial = dial
        self._address = address
        self._is_back = is_back
        self._check_open = check_open
        self._singly = singly
        self._lacking = False  # the kernel has no such call
        self._lock = threading.Lock()  # of all below
        self._orders = Orders()
        self._inboxes: dict[int, Inbox] = {}
        self._outbox: queue.SimpleQueue[TaskOrder | None] = queue.SimpleQueue()
        self._call: Call | None = None
        self._thread: threading.Thread | None = None  # while there is one
        self._closed = False

    def events(self, *, run: RunOrder | None = None, watch: WatchTaskRequest | None = None) -> Generator[TaskEvent]:
        """Order a task and give its events, up to the last one or to where the caller leaves.

        Raises:
            InferdError: As with `AsyncFollower`.
        """
        return self._singly(run, watch) if self._lacking else self._events(run, watch)

    def _events(self, run: RunOrder | None, watch: WatchTaskRequest | None) -> Generator[TaskEvent]:
        self._check_open()
        followed, inbox = self._begin(run, watch)
        finished: Finished | None = None
        try:
            while finished is None:
                event = inbox.take()
                if followed.stopped:  # it was before the event was put, see `_receive`
                    with self._lock:
                        self._send(followed.flow(inbox.items.qsize()))
                finished = event.finished if event.HasField("finished") else None
                yield event
        except StatusError:
            if not self._lacking or followed.sequence:  # what was told once is not told again
                raise
        finally:
            with self._lock:
                self._inboxes.pop(followed.tag, None)
                self._send(self._orders.leave(followed))
        if finished is None:
            yield from self._singly(run, watch)
        elif run is not None and finished.HasField("error"):
            raise from_status(finished.error)

    def _begin(self, run: RunOrder | None, watch: WatchTaskRequest | None) -> tuple[Followed, Inbox]:
        inbox = Inbox(patience_s(run))
        with self._lock:
            followed = self._orders.begin(run, watch)
            self._inboxes[followed.tag] = inbox
            if self._thread is not None:
                self._outbox.put(followed.order())
            else:
                self._thread = threading.Thread(target=self._run, name="follower of tasks", daemon=True)
                self._thread.start()
        return followed, inbox

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
        heard = -inf
        try:
            while not self._closed:
                spoke, failed = self._serve()
                now = time.monotonic()
                heard = now if spoke else heard
                if not isinstance(failed, PASSING):
                    error = failed
                    return
                with self._lock:
                    for tag, lost in self._orders.lost(failed, now - heard):
                        self._tell(lost, [tag])
                    if not self._orders.followed:
                        self._thread = None  # from here on another one may begin
                        return
                time.sleep(PAUSE_S)
        finally:  # whatever becomes of this thread, nobody waits for it
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None
                    self._tell(error, self._inboxes)

    def _tell(self, error: InferdError, tags: Iterable[int]) -> None:
        for tag in tags:
            self._orders.followed.pop(tag, None)
            self._inboxes[tag].items.put(error)

    def _serve(self) -> tuple[bool, InferdError]:
        """One call, from its begin to its end; whether the kernel is there, and why it ended."""
        spoke = False
        with self._lock:
            outbox = self._outbox = queue.SimpleQueue()
            for order in self._orders.again():
                outbox.put(order)
            call = self._call = self._dial(requests(outbox))
        try:
            for response in call:
                spoke = True
                self._receive(response)
        except grpc.RpcError as error:
            self._lacking = is_lacking(error)
            return self._orders.hears(error, spoke=spoke) or self._is_back(error), self._failure(error)
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
                    if event is None:
                        continue
                    if (
                        inbox.items.qsize() >= FULL - 1
                    ):  # told before the reader can have read so much that it would go on
                        self._send(followed.flow(inbox.items.qsize() + 1))
                    inbox.items.put(event)
