"""`TaskService.RunTasks`: the tasks of a client on one call."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from inferd.core.ids import TaskId
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.errors import InferdError, InvalidFieldError, ShuttingDownError
from inferd.runtime.front.blobs import Blobs
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.open_tasks import OpenTasks
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.front.uploads import Uploads
from inferd.services.calls import Call, check_lease
from inferd.services.extents import Extents
from inferd.services.required import check_required
from inferd.services.run_requests import read_run
from inferd.services.task_updates import write_responses
from inferd.services.task_values import read_interval
from inferd.services.times import read_seconds
from inferd.services.uploads import find_named
from inferd_api.v1 import task_service_pb2 as ts

WATCH = Policy(Verb.READ, ResourceKind.TASK)  # what an order needs that watches, besides the call
MOST_ORDERS = 1024
MOST_LINGER_S = 60.0
MOST_TIMEOUT_S = 3_153_600_000  # a hundred years
MOST_REST_S = 0.005
TURN_S = 0.001  # others go on after so long: a turn of the loop costs a tenth of what a small order does


class TaskOrders:
    """One call of `RunTasks`.

    Args:
        tasks: Runs them.
        uploads: What they may name.
        blobs: The same.
        call: It.
        extents: What bounds the parts of requests.
        prompt_limit_bytes: Largest prompt.
        message_limit_bytes: Largest message.
    """

    def __init__(
        self,
        tasks: Tasks,
        uploads: Uploads,
        blobs: Blobs,
        call: Call,
        *,
        extents: Extents,
        prompt_limit_bytes: int,
        message_limit_bytes: int,
    ) -> None:
        self._tasks = tasks
        self._uploads = uploads
        self._blobs = blobs
        self._message_limit_bytes = message_limit_bytes
        self._call = call
        self._extents = extents
        self._prompt_limit_bytes = prompt_limit_bytes
        self._open = OpenTasks(tasks, call.caller, message_limit_bytes=message_limit_bytes)

    async def serve(self) -> None:
        """Take orders and tell what comes of them, until the client has no more and every tag is over.

        Raises:
            InvalidFieldError: An order has no kind, or a tag that is open.
            NotLeaderError: An order runs or watches a task, and this kernel is not sure that it leads; who ordered
                takes up all of it where one does.
            ShuttingDownError: The kernel ends; what the tasks had to tell has been told.
        """
        loop, rested = asyncio.get_running_loop(), 0.0
        reading = asyncio.create_task(self._read(), name="orders")  # ends with this block
        reading.add_done_callback(lambda _: self._open.wake())
        try:
            while not self._is_over(reading):
                await self._open.come()
                if (rest_s := rested - loop.time()) > 0:
                    await asyncio.sleep(rest_s)
                begun = loop.time()
                for response in write_responses(*self._open.collect(), self._message_limit_bytes):
                    await self._call.write(response)
                    del response  # before the wait for the next one
                # Messages take a third of the time at most: when steps come faster than that, some share a message.
                ended = loop.time()
                rested = ended + min(2 * (ended - begun), MOST_REST_S)
            reading.result()
        finally:
            reading.cancel()
            self._open.close()

    def _is_over(self, reading: asyncio.Task[None]) -> bool:
        if not reading.done():
            return False
        error = None if reading.cancelled() else reading.exception()
        return not self._open.left() or not (error is None or isinstance(error, ShuttingDownError))

    async def _read(self) -> None:
        async with self._tasks.cut_short():
            while (request := await self._call.read()) is not grpc.aio.EOF:
                await self._obey_all(request)
                del request  # before the wait for the next one: it may hold prompts
                await asyncio.sleep(0)  # however many messages have come already, others go on between them
                await self._open.room()  # a client that does not read what is refused is not read either

    async def _obey_all(self, request: ts.RunTasksRequest) -> None:
        if len(request.orders) > MOST_ORDERS:
            message = f"orders has {len(request.orders)} entries; at most {MOST_ORDERS} in one message"
            raise InvalidFieldError(message, field="orders")
        refused: dict[int, InferdError] = {}  # told behind the last order: one of them may leave the tag
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            for order in request.orders:
                await self._obey(order, refused)
                if loop.time() - begun > TURN_S:  # however much the orders hold, others go on between them, too
                    await asyncio.sleep(0)
                    begun = loop.time()
        finally:
            for tag, error in refused.items():
                self._open.refuse(tag, error)

    async def _obey(self, order: ts.TaskOrder, refused: dict[int, InferdError]) -> None:
        kind, tag = order.WhichOneof("kind"), order.tag
        if kind == "cancel":
            await self._open.cancel(tag)
        elif kind == "leave":
            refused.pop(tag, None)
            self._open.leave(tag, lingers=False)
        elif kind == "flow":
            self._open.stop(tag, stopped=order.flow.stopped)
        elif kind is None:
            raise InvalidFieldError(
                "an order has no kind; set one of run, watch, cancel, leave and flow", field="orders.kind"
            )
        elif tag in self._open or tag in refused:
            raise InvalidFieldError(f"tag {tag} is open; give each order one that is not", field="orders.tag")
        else:
            await self._tasks.check_leads()
            try:
                await (self._run(tag, order.run) if kind == "run" else self._watch(tag, order.watch))
            except InferdError as error:
                model = order.run.request.spec.model  # "" of one that watches
                refused[tag] = error.with_traceback(None).about(model)  # whose frames hold what the client has sent
                self._call.refused(refused[tag])

    async def _run(self, tag: int, order: ts.RunOrder) -> None:
        interval_s, linger_s = read_interval(_request_of(order, self._call.take).output_interval), _read_linger(order)
        caller = self._caller_of(order)
        named = await find_named(self._uploads, self._blobs, caller, order.request.spec)
        spec = read_run(
            order.request,
            caller,
            prompt_limit_bytes=self._prompt_limit_bytes,
            named=named,
            may_run=self._call.admission.may_run,
        )
        del named  # what it holds stays with the core
        await self._open.run(tag, spec, interval_s=interval_s, linger_s=linger_s)

    def _caller_of(self, order: ts.RunOrder) -> Caller:
        """Who gives an order: its lease and its deadline are its own, and not those of the call."""
        caller = self._call.caller
        return Caller(
            tenant=caller.tenant,
            principal=caller.principal,
            lease_id=check_lease(order.lease_id),
            deadline=self._read_deadline(order),
        )

    async def _watch(self, tag: int, order: ts.WatchOrder) -> None:
        self._call.admission.check(WATCH)
        request = _request_of(order, self._check)
        interval_s, linger_s = read_interval(request.output_interval), _read_linger(order)
        task_id, after = TaskId(request.task_id), request.after_sequence
        await self._open.watch(tag, task_id, after=after, interval_s=interval_s, adopt=order.adopt, linger_s=linger_s)

    def _check(self, request: ts.WatchTaskRequest) -> None:
        self._extents.check(request)
        check_required(request)

    def _read_deadline(self, order: ts.RunOrder) -> float | None:
        if not order.HasField("timeout"):
            return None
        timeout_s = read_seconds(order.timeout, "timeout")
        if not 0 < order.timeout.ToNanoseconds() <= MOST_TIMEOUT_S * 10**9:  # as a float it is not told exactly
            message = f"timeout is {timeout_s:g} s; it must be above 0 and at most {MOST_TIMEOUT_S} s"
            raise InvalidFieldError(message, field="timeout")
        return self._tasks.clock.now() + timeout_s


def _request_of(order: Any, take: Callable[[Any], object]) -> Any:
    """The request of an order.

    Raises:
        InferdError: It has none, or `take` refuses it.
    """
    if not order.HasField("request"):
        raise InvalidFieldError("request is empty; it must be given", field="request")
    take(order.request)
    return order.request


def _read_linger(order: ts.RunOrder | ts.WatchOrder) -> float:
    linger_s = read_seconds(order.linger, "linger")
    if not 0 <= linger_s <= MOST_LINGER_S:
        raise InvalidFieldError(f"linger is {linger_s:g} s; it must be from 0 to {MOST_LINGER_S:g} s", field="linger")
    return linger_s
