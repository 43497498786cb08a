"""The door of a kernel that starts, or stands by: health is NOT_SERVING, and other calls wait or are refused.

What was kept may take long to be opened and read. Meanwhile the port is not dead, and calls wait until the kernel
serves. While another kernel leads they are refused at once, with where that one is. While it ends they are refused,
too: gRPC drops without a status what has come to a server that stops and was not looked at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2 as hp
from grpc_status import rpc_status

from inferd.errors import InferdError, LimitExceededError, ShuttingDownError
from inferd.services.status import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Handler = grpc.RpcMethodHandler[Any, Any]
    Next = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]

HEALTH = "/grpc.health.v1.Health/"
NOT_SERVING = hp.HealthCheckResponse(status=hp.HealthCheckResponse.NOT_SERVING)
CODEC = {
    "request_deserializer": hp.HealthCheckRequest.FromString,
    "response_serializer": hp.HealthCheckResponse.SerializeToString,
}
RETRY_AFTER_S = 1.0
LOOK_S = 1.0
QUIET_S, QUIETS = 0.04, 3  # a look, and so many in a row without a call
LATE_S = 0.02  # a look that comes later than so is one of a busy machine: it says nothing of what waits
CALM_S, FEW = 1.0, 8  # a kernel to which no more calls than these have come for so long is quiet
LEAVE_S = 1.5  # most that is waited for quiet


class Doorway(grpc.aio.ServerInterceptor, grpc.GenericRpcHandler):
    """Stands before the entrance, and has the services once it is open. One writer: the start of the kernel.

    Args:
        calls_limit: Most calls that wait.
    """

    def __init__(self, calls_limit: int) -> None:
        self._calls_limit = calls_limit
        self._waiting = 0
        self._entrance: grpc.aio.ServerInterceptor | None = None
        self._services: list[grpc.GenericRpcHandler] = []
        self._ended = self._leaves = False
        self._came: deque[float] = deque([-CALM_S], maxlen=FEW + 1)  # the last calls, on the clock of the loop
        self._moved = asyncio.Event()
        self._refusal: Callable[[], InferdError | None] = lambda: None
        self._settled: Callable[[], Awaitable[None]] | None = None

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Offer services; as those of a server, but at any time."""
        self._services += handlers

    def empty(self) -> None:
        """Offer nothing any more: what was offered for a start that failed belongs to a kernel that is closed."""
        self._services.clear()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The method of a call; None where it is not offered."""
        found = (service.service(handler_call_details) for service in self._services)
        return next((handler for handler in found if handler is not None), None)

    def open(self, entrance: grpc.aio.ServerInterceptor) -> None:
        """The kernel serves: calls come through the entrance, those that wait, too."""
        self._entrance = entrance
        self._move()

    def guard(
        self, refusal: Callable[[], InferdError | None], settled: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Refuse calls from now on as long as this says why; those that wait, too.

        Args:
            refusal: Why; None where they are taken.
            settled: Waits until that may be another; None where nobody waits for it.
        """
        self._refusal, self._settled = refusal, settled
        self._move()

    def close(self) -> None:
        """No call waits any more; where the kernel does not serve, they are refused."""
        self._ended = True
        self._move()

    async def leave(self) -> None:
        """Refuse what comes from now on, until nothing comes for a while, or for `LEAVE_S`; again changes nothing.

        To be done before the server stops: it ends calls without a status that have come and were not looked at.
        """
        if self._leaves:
            return
        self._leaves = True
        now = asyncio.get_running_loop().time
        is_calm = len(self._came) <= FEW or now() - self._came[0] > CALM_S
        begun, quiets = now(), QUIETS if is_calm else 0
        while quiets < QUIETS and now() - begun < LEAVE_S:
            looked_at = now()
            await asyncio.sleep(QUIET_S)
            is_late = now() - looked_at > QUIET_S + LATE_S
            quiets = quiets + 1 if self._came[-1] < looked_at and not is_late else 0

    def _move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def intercept_service(
        self, continuation: Next, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """The method of a call, behind the entrance."""
        self._came.append(asyncio.get_running_loop().time())
        if self._leaves:
            return _refusing(ShuttingDownError("the kernel is shutting down", retry_after_s=RETRY_AFTER_S))
        refused = self._refusal()
        if self._entrance is not None and refused is None:
            return await self._entrance.intercept_service(continuation, handler_call_details)
        name = handler_call_details.method.removeprefix(HEALTH)
        if name == "Check":
            return grpc.unary_unary_rpc_method_handler(_check, **CODEC)
        if self._waiting >= self._calls_limit:
            return _refusing(
                LimitExceededError(
                    f"{self._waiting} calls wait for the kernel, which starts, and limits.calls is {self._calls_limit}",
                    metadata={"bound": "limits.calls", "value": str(self._waiting), "limit": str(self._calls_limit)},
                    retry_after_s=RETRY_AFTER_S,
                )
            )
        if name == "Watch":
            return grpc.unary_stream_rpc_method_handler(self._watching(continuation, handler_call_details), **CODEC)
        return await self._behind(continuation, handler_call_details)

    async def _behind(
        self, continuation: Next, details: grpc.HandlerCallDetails, *, stays: bool = False
    ) -> Handler | None:
        """The method of a call once the kernel serves; one that `stays` waits while another kernel leads, too."""
        self._waiting += 1
        try:
            refused = await self._decided(stays=stays)
        finally:
            self._waiting -= 1
        if refused is not None:
            return _refusing(refused)
        if self._entrance is None:
            return _refusing(ShuttingDownError("the kernel could not start; see its log", retry_after_s=RETRY_AFTER_S))
        return await self._entrance.intercept_service(continuation, details)

    async def _decided(self, *, stays: bool) -> InferdError | None:
        """Wait until the kernel serves or ends; why not, where another one leads."""
        while True:
            refused = self._refusal()
            if refused is not None and self._settled is not None and not stays:
                await self._settled()
                refused = self._refusal()
            serves = self._entrance is not None and refused is None
            if serves or self._ended or (refused is not None and not stays):
                return refused
            with suppress(TimeoutError):  # why a call is refused may pass without a word
                async with asyncio.timeout(LOOK_S):
                    await self._moved.wait()

    def _watching(self, continuation: Next, details: grpc.HandlerCallDetails) -> Callable[..., Awaitable[None]]:
        async def watch(request: hp.HealthCheckRequest, context: Any) -> None:
            await context.write(NOT_SERVING)
            handler = await self._behind(continuation, details, stays=True)
            if handler is not None:
                method: Any = handler.unary_stream or handler.stream_stream
                await method(request, context)

        return watch


async def _check(_request: hp.HealthCheckRequest, _context: Any) -> hp.HealthCheckResponse:
    return NOT_SERVING


def _refusing(error: InferdError) -> Handler:
    async def refuse(_request: object, context: Any) -> None:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))

    return grpc.stream_stream_rpc_method_handler(refuse)  # whatever a client sends, nothing of it is read
