"""The one translation of errors into `google.rpc.Status`, and the interceptor that applies it to every call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from inferd.errors import InferdError, InternalError, LimitExceededError
from inferd.services.calls import tenant_of
from inferd.services.required import check_required
from inferd.services.times import duration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from inferd.services.bounds import Calls
    from inferd.services.extents import Extents

DOMAIN = "inferd"
# An error travels in trailing metadata, its message twice, once percent-encoded; clients refuse more than 8 KiB.
MESSAGE_BYTES = 1000
DESCRIPTION_BYTES = 200
FACT_BYTES = 400
FACTS_BYTES = 1200

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Check: TypeAlias = "Callable[[Context], None]"


def status_of(error: InferdError) -> status_pb2.Status:
    """The status of an error: `ErrorInfo` always, `BadRequest`, `RetryInfo` and `QuotaFailure` where they apply."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_facts(error))
    description = clip(error.message, DESCRIPTION_BYTES)
    details: list[Any] = [info]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(error.field, DESCRIPTION_BYTES), description=description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_after_s)))
    if error.code == "RESOURCE_EXHAUSTED":
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.reason, description=description)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=clip(error.message, MESSAGE_BYTES))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def clip(text: str, limit_bytes: int) -> str:
    """The text, or as much of its beginning as fits, with a mark where it was cut."""
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    return data[: limit_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _facts(error: InferdError) -> dict[str, str]:
    facts: dict[str, str] = {}
    left_bytes = FACTS_BYTES
    for name, value in error.metadata.items():
        facts[name] = clip(value, max(3, min(FACT_BYTES, left_bytes)))
        left_bytes -= len(facts[name].encode())
    return facts


async def abort(context: Context, error: InferdError) -> NoReturn:
    """End a call with the status of an error."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status returned")


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a method raises into its status; a defect is logged and told without its values.

    Args:
        calls: Bounds how many are open.
        check: Called before each method of ours; what it raises is the answer.
        extents: Bounds what is in a request, before anything else looks at it.
        message_limit_bytes: Of the largest answer; a larger one is refused by name, which gRPC does without.
    """

    def __init__(self, calls: Calls, check: Check, extents: Extents, *, message_limit_bytes: int) -> None:
        self._calls = calls
        self._check = check
        self._extents = extents
        self._message_limit_bytes = message_limit_bytes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method of a call; methods that stream are coroutines that write to their context."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        codec = handler.request_deserializer, handler.response_serializer
        ours = handler_call_details.method.startswith("/inferd.")
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._guarded(handler.unary_unary, ours=ours), *codec)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._guarded(handler.unary_stream, ours=ours), *codec)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._guarded(handler.stream_stream, ours=ours), *codec)
        return handler

    def _guarded(self, method: Callable[..., Any], *, ours: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            try:
                return await self._answer(method, request, context, ours=ours)
            except (grpc.aio.InternalError, grpc.aio.UsageError):
                # gRPC refuses what is done with a call that is over: its client has gone, or its deadline came first.
                raise asyncio.CancelledError from None
            except grpc.aio.AbortError as error:
                # gRPC keeps it with the call that it refers to by its frames: a circle, which is left for a collection
                # of all garbage. What the client has sent is not to wait for that.
                del request
                error.__context__ = None
                raise error.with_traceback(None) from None

        return call

    async def _answer(self, method: Callable[..., Any], request: Any, context: Context, *, ours: bool) -> Any:
        try:
            with self._calls.place(tenant_of(context)):
                if ours:
                    self._check(context)
                    if isinstance(request, Message):
                        self._extents.check(request)
                        check_required(request)
                    else:
                        request = self._each(request)
                answer = await method(request, context)
                if ours and isinstance(answer, Message):
                    self._check_size(answer)
                return answer
        except InferdError as error:
            await abort(context, error)
        except grpc.aio.BaseError:
            raise
        except Exception as error:
            log.exception("defect in a call", method=getattr(method, "__qualname__", str(method)))
            await abort(context, InternalError(f"a defect of inferd: {type(error).__name__}: {error}; see its log"))

    async def _each(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            self._extents.check(request)
            yield request

    def _check_size(self, answer: Message) -> None:
        size, limit = answer.ByteSize(), self._message_limit_bytes
        if size > limit:
            raise LimitExceededError(
                f"the answer has {size} bytes and limits.message_bytes is {limit}; ask for less at once",
                metadata={"bound": "limits.message_bytes", "value": str(size), "limit": str(limit)},
            )
