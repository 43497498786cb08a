import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any as Anything

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1 import task_service_pb2 as ts
from inferd_client.errors import KernelUnreachableError, ShuttingDownError, StatusError, TaskExpiredError
from inferd_client.followers import AsyncFollower, Follower
from inferd_client.kernels import MOVED, MovedError
from inferd_client.orders import EMPTY, FULL, Orders
from inferd_client.rpc_errors import LOCAL, from_rpc
from inferd_client.tasks import run_order

OUTPUTS = 2 * FULL


def response(*events: pb.TaskEvent) -> ts.RunTasksResponse:
    return ts.RunTasksResponse(updates=[ts.TaskUpdate(tag=1, event=event) for event in events])


def output(number: int) -> pb.TaskEvent:
    return pb.TaskEvent(task_id="t" if number == 1 else "", sequence=number, output=pb.Output(token_ids=[number]))


def finished(number: int) -> pb.TaskEvent:
    return pb.TaskEvent(sequence=number, finished=pb.Finished(state=pb.TaskState.TASK_STATE_SUCCEEDED))


class Wire:
    """A call of a client with a thread, whose kernel is the test."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[ts.TaskOrder] = queue.SimpleQueue()
        self.responses: queue.SimpleQueue[ts.RunTasksResponse | None] = queue.SimpleQueue()

    def dial(self, requests: Iterator[ts.RunTasksRequest]) -> "Wire":
        threading.Thread(target=self._take, args=[requests], daemon=True).start()
        return self

    def _take(self, requests: Iterator[ts.RunTasksRequest]) -> None:
        for request in requests:
            for order in request.orders:
                self.orders.put(order)

    def __iter__(self) -> Iterator[ts.RunTasksResponse]:
        yield from iter(self.responses.get, None)

    def cancel(self) -> None:
        self.responses.put(None)

    def order(self) -> ts.TaskOrder:
        return self.orders.get(timeout=60)


class AsyncWire:
    """A call of an asynchronous client, whose kernel is the test."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[ts.TaskOrder] = asyncio.Queue()
        self.responses: asyncio.Queue[ts.RunTasksResponse] = asyncio.Queue()
        self._taking: asyncio.Task[None] | None = None

    def dial(self, requests: AsyncIterator[ts.RunTasksRequest]) -> Anything:
        self._taking = asyncio.create_task(self._take(requests))
        return self

    async def _take(self, requests: AsyncIterator[ts.RunTasksRequest]) -> None:
        async for request in requests:
            for order in request.orders:
                self.orders.put_nowait(order)

    async def __aiter__(self) -> AsyncIterator[ts.RunTasksResponse]:
        while True:
            yield await self.responses.get()

    def cancel(self) -> None:
        """Nobody waits for it."""

    def add_done_callback(self, _: object) -> None:
        """Nor for its end."""

    async def order(self) -> ts.TaskOrder:
        return await asyncio.wait_for(self.orders.get(), 60)


def threaded(wire: Wire) -> Follower:
    def singly(*_: object) -> Anything:
        raise AssertionError("the kernel has the call")

    return Follower(wire.dial, "here", lambda _: False, lambda: None, singly)


def asynchronous(wire: AsyncWire) -> AsyncFollower:
    async def is_back(_: object) -> bool:
        return False

    def singly(*_: object) -> Anything:
        raise AssertionError("the kernel has the call")

    return AsyncFollower(wire.dial, "here", is_back, lambda: None, singly)


def test_a_reader_that_is_behind_holds_its_task_back_and_lets_it_go_on() -> None:
    """A thread that does not read stops its task's events at so many, reads all of them, and asks for more in time."""
    wire = Wire()
    follower = threaded(wire)
    events = follower.events(run=run_order("m", "x", {}))
    wire.responses.put(response(output(1)))
    assert next(events).task_id == "t"
    assert wire.order().HasField("run")
    wire.responses.put(response(*(output(number) for number in range(2, OUTPUTS))))
    assert wire.order().flow.stopped
    read = [next(events) for _ in range(2, OUTPUTS - EMPTY)]
    assert [event.sequence for event in read] == list(range(2, OUTPUTS - EMPTY))
    order = wire.order()
    assert order.HasField("flow")
    assert not order.flow.stopped
    wire.responses.put(response(finished(OUTPUTS)))
    assert [event.sequence for event in events] == list(range(OUTPUTS - EMPTY, OUTPUTS + 1))
    follower.close()


async def test_an_asynchronous_reader_that_is_behind_holds_its_task_back() -> None:
    """The same without threads: stopped once at so many events, let go on once when few are left, and none is lost."""
    wire = AsyncWire()
    follower = asynchronous(wire)
    events = follower.events(run=run_order("m", "x", {}))
    wire.responses.put_nowait(response(output(1)))
    assert (await anext(events)).task_id == "t"
    assert (await wire.order()).HasField("run")
    wire.responses.put_nowait(response(*(output(number) for number in range(2, OUTPUTS))))
    assert (await wire.order()).flow.stopped
    wire.responses.put_nowait(response(finished(OUTPUTS)))
    assert [event.sequence async for event in events] == list(range(2, OUTPUTS + 1))
    await follower.close()


async def test_a_kernel_that_says_nothing_at_the_deadline() -> None:
    """Behind the deadline of a task its reader is told, what came before it first, though the kernel never said so."""
    wire = AsyncWire()
    follower = asynchronous(wire)
    order = run_order("m", "x", {"timeout_s": 1.0})
    order.timeout.FromNanoseconds(-4_990_000_000)  # as long before now as the follower would wait, but for a moment
    events = follower.events(run=order)
    wire.responses.put_nowait(response(output(1)))
    assert (await anext(events)).sequence == 1
    with pytest.raises(TaskExpiredError, match="the kernel did not say so in time"):
        await asyncio.wait_for(anext(events), 60)
    await follower.close()


def shutting_down() -> ts.RunTasksResponse:
    info = Any()
    info.Pack(ErrorInfo(reason="SHUTTING_DOWN", domain="inferd"))
    status = Status(code=code_pb2.UNAVAILABLE, message="the kernel is shutting down", details=[info])
    return ts.RunTasksResponse(updates=[ts.TaskUpdate(tag=1, error=status)])


def follower_of(wires: list[Wire]) -> Follower:
    """Of a kernel that is started again with each call."""
    left = iter(wires)
    return Follower(
        lambda requests: next(left).dial(requests), "nowhere", lambda _: True, lambda: None, lambda *_: iter(())
    )


def test_a_watched_task_goes_on_with_the_kernel_after_this_one() -> None:
    """SHUTTING_DOWN is not told to who follows what is kept: the next call begins behind the last event that came."""
    wires = [Wire(), Wire()]
    follower = follower_of(wires)
    events = follower.events(watch=ts.WatchTaskRequest(task_id="t", after_sequence=3))
    for answer in (response(output(4)), shutting_down(), None):
        wires[0].responses.put(answer)
    wires[1].responses.put(response(output(5), finished(6)))
    assert [event.sequence for event in events] == [4, 5, 6]
    assert wires[0].order().watch.request.after_sequence == 3
    assert wires[1].order().watch.request.after_sequence == 4
    follower.close()


def test_a_run_that_ends_with_its_kernel_is_told_so() -> None:
    """A task that is not kept has nothing to wait for."""
    wire = Wire()
    follower = follower_of([wire])
    wire.responses.put(shutting_down())
    with pytest.raises(ShuttingDownError, match="is shutting down"):
        next(follower.events(run=run_order("model", "la", {})))
    follower.close()


def test_what_has_ended_is_not_asked_for_again() -> None:
    """A reader that is behind reads its last events though the call broke; only the other task is taken up."""
    wires = [Wire(), Wire()]
    follower = follower_of(wires)
    ended, other = (follower.events(watch=ts.WatchTaskRequest(task_id=task_id)) for task_id in "tu")
    wires[0].responses.put(response(output(1), finished(2)))
    assert next(ended).sequence == 1
    wires[0].responses.put(ts.RunTasksResponse(updates=[ts.TaskUpdate(tag=2, event=output(1))]))
    assert next(other).sequence == 1
    wires[0].responses.put(None)
    last = pb.TaskEvent(sequence=2, finished=pb.Finished(state=pb.TaskState.TASK_STATE_SUCCEEDED))
    wires[1].responses.put(ts.RunTasksResponse(updates=[ts.TaskUpdate(tag=2, event=last)]))
    assert [event.sequence for event in other] == [2]
    assert [event.sequence for event in ended] == [2]
    assert wires[1].order().tag == 2
    assert wires[1].orders.empty()
    follower.close()


class MovedWire(Wire):
    """A call that is given up before anything came, as another kernel leads; then one to that."""

    moves = True

    def __iter__(self) -> Iterator[ts.RunTasksResponse]:
        self.order()
        if self.moves:
            self.moves = False
            raise MovedError(unsent=False)
        yield response(output(1), finished(2))


class AsyncMovedWire(AsyncWire):
    """The same without threads."""

    moves = True

    async def __aiter__(self) -> AsyncIterator[ts.RunTasksResponse]:
        await self.order()
        if self.moves:
            self.moves = False
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details=MOVED)
        yield response(output(1), finished(2))


def test_a_task_whose_kernel_leads_no_more_before_it_says_a_word_is_run_by_the_next_one() -> None:
    """A call that is given up since another kernel leads is made there, though nothing has come by it yet."""
    follower = threaded(MovedWire())
    assert [event.sequence for event in follower.events(run=run_order("m", "x", {}))] == [1, 2]
    follower.close()


async def test_an_asynchronous_task_whose_kernel_leads_no_more_is_run_by_the_next_one() -> None:
    """The same without threads."""
    follower = asynchronous(AsyncMovedWire())
    async with asyncio.timeout(60):
        assert [event.sequence async for event in follower.events(run=run_order("m", "x", {}))] == [1, 2]


CUT = grpc.StatusCode.CANCELLED, "CANCELLED"


class CutOff(grpc.RpcError):
    """A call that its kernel ended without a word."""

    def code(self) -> grpc.StatusCode:
        return CUT[0]

    def details(self) -> str:
        return CUT[1]

    def trailing_metadata(self) -> tuple[()]:
        return ()


class CutWire(Wire):
    """A call that is cut off behind its first event; then one that goes on behind that."""

    def __iter__(self) -> Iterator[ts.RunTasksResponse]:
        if self.order().HasField("run"):
            yield response(output(1))
            raise CutOff
        yield response(finished(2))


class AsyncCutWire(AsyncWire):
    """The same without threads."""

    async def __aiter__(self) -> AsyncIterator[ts.RunTasksResponse]:
        if (await self.order()).HasField("run"):
            yield response(output(1))
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(CUT[0], nothing, nothing, details=CUT[1])
        yield response(finished(2))


def test_a_call_that_is_cut_off_without_a_word_is_taken_up_again() -> None:
    """CANCELLED that nobody here asked for is a connection that broke: the task is followed on by the next call."""
    follower = threaded(CutWire())
    assert [event.sequence for event in follower.events(run=run_order("m", "x", {}))] == [1, 2]
    follower.close()


async def test_an_asynchronous_call_that_is_cut_off_is_taken_up_again() -> None:
    """The same without threads."""
    follower = asynchronous(AsyncCutWire())
    async with asyncio.timeout(60):
        assert [event.sequence async for event in follower.events(run=run_order("m", "x", {}))] == [1, 2]
    await follower.close()


def test_a_kernel_that_cuts_off_one_call_after_the_other_is_waited_for_no_longer_than_one_that_is_away() -> None:
    """The first cut shows that somebody is there, as one who starts or ends; the next ones in a row do not."""
    orders = Orders()
    assert orders.hears(CutOff(), spoke=False)
    assert not orders.hears(CutOff(), spoke=False)
    assert orders.hears(CutOff(), spoke=True)
    assert orders.hears(CutOff(), spoke=False)


def test_what_this_client_has_ended_is_no_connection_that_broke() -> None:
    """The words of gRPC for calls that were cancelled here are told as they are."""
    nothing = grpc.aio.Metadata()
    for words in LOCAL:
        error = grpc.aio.AioRpcError(CUT[0], nothing, nothing, details=words)
        assert isinstance(from_rpc(error, "here"), StatusError)
    assert isinstance(from_rpc(CutOff(), "here"), KernelUnreachableError)
