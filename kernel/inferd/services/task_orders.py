"""`TaskService.RunTasks`: the tasks of a client on one call."""

import asyncio
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc

from inferd.core.ids import TaskId, Tenant
from inferd.errors import InferdError, InvalidFieldError, ShuttingDownError
from inferd.runtime.bundle import Bundle, Followed
from inferd.runtime.driver import Driver
from inferd.runtime.shelf import Shelf
from inferd.runtime.streams import Numbered, TaskStream
from inferd.services.bounds import Bound
from inferd.services.calls import check_lease, check_request_id
from inferd.services.extents import Extents
from inferd.services.required import check_required
from inferd.services.status import status_of
from inferd.services.task_values import read_interval, read_spec, write_event
from inferd.services.times import read_seconds
from inferd_api.v1 import task_service_pb2 as ts

MOST_ORDERS = 1024
MOST_LINGER_S = 60.0
MOST_TIMEOUT_S = 3_153_600_000  # a hundred years

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True, kw_only=True)
class Open:
    """A tag that is open.

    Attributes:
        place: What it takes of the tenant's bound.
        runs: Whether the life of the task hangs on it.
        named: Whether the client has been told the task's id.
    """

    place: ExitStack
    runs: bool
    named: bool = False


class TaskOrders:
    """One call of `RunTasks`.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        tenant: Whose call it is.
        extents: What bounds the parts of requests.
        places: What bounds the streams of tenants.
        prompt_limit_bytes: Largest prompt.
    """

    def __init__(
        self,
        driver: Driver,
        shelf: Shelf,
        tenant: Tenant,
        *,
        extents: Extents,
        places: Bound,
        prompt_limit_bytes: int,
    ) -> None:
        self._driver = driver
        self._shelf = shelf
        self._tenant = tenant
        self._extents = extents
        self._places = places
        self._prompt_limit_bytes = prompt_limit_bytes
        self._bundle = Bundle()
        self._open: dict[int, Open] = {}

    async def serve(self, context: Context) -> None:
        """Take orders and tell what comes of them, until the client has no more and every tag is over.

        Raises:
            InvalidFieldError: An order has no kind, or a tag that is open.
            ShuttingDownError: The kernel ends; what the tasks had to tell has been told.
        """
        reading = asyncio.create_task(self._read(context), name="orders")  # ends with this block
        reading.add_done_callback(lambda _: self._bundle.wake())
        try:
            while not self._is_over(reading):
                await self._bundle.come()
                response = self._collect()
                if response.updates:
                    await context.write(response)
                del response  # before the wait for the next one
            reading.result()
        finally:
            reading.cancel()
            for tag in tuple(self._open):
                self._leave(tag)

    def _collect(self) -> ts.RunTasksResponse:
        given, refused = self._bundle.collect()
        response = ts.RunTasksResponse()
        for followed, batch in given:
            self._write(response, followed, batch)
        for tag, error in refused:
            self._close(tag)
            response.updates.add(tag=tag, error=status_of(error))
        return response

    def _is_over(self, reading: asyncio.Task[None]) -> bool:
        if not reading.done():
            return False
        error = None if reading.cancelled() else reading.exception()
        return not len(self._bundle) or not (error is None or isinstance(error, ShuttingDownError))

    async def _read(self, context: Context) -> None:
        async with self._driver.closing.cut_short():
            while (request := await context.read()) is not grpc.aio.EOF:
                await self._take_all(request)
                del request  # before the wait for the next one: it may hold prompts

    async def _take_all(self, request: ts.RunTasksRequest) -> None:
        if len(request.orders) > MOST_ORDERS:
            message = f"orders has {len(request.orders)} entries; at most {MOST_ORDERS} in one message"
            raise InvalidFieldError(message, field="orders")
        for order in request.orders:
            await self._take(order)
            await asyncio.sleep(0)  # however much the orders of a message hold, others go on between them

    async def _take(self, order: ts.TaskOrder) -> None:
        kind, tag = order.WhichOneof("kind"), order.tag
        if kind == "cancel":
            if tag in self._bundle:
                self._driver.cancel(self._bundle.stream(tag).task_id, self._tenant)
        elif kind == "leave":
            self._leave(tag, lingers=False)
        elif kind == "flow":
            self._bundle.stop(tag, stopped=order.flow.stopped)
        elif kind is None:
            raise InvalidFieldError(
                "an order has no kind; set one of run, watch, cancel, leave and flow", field="orders.kind"
            )
        elif tag in self._open:
            raise InvalidFieldError(f"tag {tag} is open; give each order one that is not", field="orders.tag")
        else:
            try:
                await self._begin(order)
            except InferdError as error:
                self._bundle.refuse(tag, error.with_traceback(None))  # whose frames hold what the client has sent

    async def _begin(self, order: ts.TaskOrder) -> None:
        """Open a tag.

        Raises:
            InferdError: The order is refused.
        """
        with ExitStack() as place:
            place.enter_context(self._places.place(self._tenant))
            stream, opened, after, interval_s = (
                await self._run(order.run) if order.HasField("run") else self._watch(order.watch)
            )
            opened.place = place.pop_all()
        self._open[order.tag] = opened
        self._bundle.follow(Followed(tag=order.tag, stream=stream, after=after, interval_s=interval_s))

    async def _run(self, order: ts.RunOrder) -> tuple[TaskStream, Open, int, float]:
        request = self._request_of(order)
        check_request_id(request.request_id)
        interval_s, linger_s = read_interval(request.output_interval), _read_linger(order)
        spec = read_spec(
            request.spec,
            task_id=uuid.uuid4().hex,
            tenant=self._tenant,
            deadline=self._deadline(order),
            request_id=request.request_id,
            lease_id=check_lease(order.lease_id),
            prompt_limit_bytes=self._prompt_limit_bytes,
            detached=request.detach_on_disconnect,
        )
        await self._shelf.look_for(request.spec.model)
        stream = self._driver.submit(spec)
        attend = self._driver.attendance.attend
        attend(stream, self._tenant, detached=request.detach_on_disconnect, linger_s=linger_s)
        return stream, Open(place=ExitStack(), runs=True), 0, interval_s

    def _watch(self, order: ts.WatchOrder) -> tuple[TaskStream, Open, int, float]:
        request, linger_s = self._request_of(order), _read_linger(order)
        interval_s = read_interval(request.output_interval)
        stream = self._driver.watch(TaskId(request.task_id), self._tenant, after=request.after_sequence)
        if order.adopt:
            self._driver.attendance.attend(stream, self._tenant, detached=False, linger_s=linger_s)
        return stream, Open(place=ExitStack(), runs=order.adopt), request.after_sequence, interval_s

    def _request_of(self, order: Any) -> Any:
        """The request of an order.

        Raises:
            InferdError: It has none, one that lacks what it must have, or one of which a part is too long.
        """
        if not order.HasField("request"):
            raise InvalidFieldError("request is empty; it must be given", field="request")
        self._extents.check(order.request)
        check_required(order.request)
        return order.request

    def _deadline(self, order: ts.RunOrder) -> float | None:
        if not order.HasField("timeout"):
            return None
        timeout_s = read_seconds(order.timeout, "timeout")
        if not 0 < order.timeout.ToNanoseconds() <= MOST_TIMEOUT_S * 10**9:  # as a float it is not told exactly
            message = f"timeout is {timeout_s:g} s; it must be above 0 and at most {MOST_TIMEOUT_S} s"
            raise InvalidFieldError(message, field="timeout")
        return self._driver.clock.now() + timeout_s

    def _write(self, response: ts.RunTasksResponse, followed: Followed, batch: list[Numbered]) -> None:
        tag = followed.tag
        for numbered in batch:
            event = write_event("" if self._open[tag].named else followed.stream.task_id, numbered)
            self._open[tag].named = True
            response.updates.add(tag=tag, event=event)
        if tag not in self._bundle:  # that was the last event
            self._close(tag)

    def _leave(self, tag: int, *, lingers: bool = True) -> None:
        """Follow a tag no longer; the task under it may end with that."""
        followed = self._bundle.leave(tag)
        opened = self._open.get(tag)
        self._close(tag)
        if followed is not None and opened is not None and opened.runs:
            self._driver.attendance.leave(followed.stream, self._tenant, lingers=lingers)

    def _close(self, tag: int) -> None:
        opened = self._open.pop(tag, None)
        if opened is not None:
            opened.place.close()


def _read_linger(order: ts.RunOrder | ts.WatchOrder) -> float:
    linger_s = read_seconds(order.linger, "linger")
    if not 0 <= linger_s <= MOST_LINGER_S:
        raise InvalidFieldError(f"linger is {linger_s:g} s; it must be from 0 to {MOST_LINGER_S:g} s", field="linger")
    return linger_s
