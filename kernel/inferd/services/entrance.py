"""The door of gRPC: every call comes through it, those of health and reflection, too."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status

from inferd.core.policy import ResourceKind
from inferd.core.principal import HOST, HOSTS, LOCAL
from inferd.errors import InferdError, InternalError, InvalidFieldError, LimitExceededError
from inferd.runtime.login import NOBODY
from inferd.runtime.telemetry.trace_context import CALL
from inferd.services.aliases import OwnNames
from inferd.services.calls import Call, Context, Said, caller_of, read_said
from inferd.services.insight import CALLER, Incidents, Insight
from inferd.services.rates import Rates
from inferd.services.required import check_required
from inferd.services.secure import UNIX
from inferd.services.status import status_of
from inferd_api.v1 import task_service_pb2 as ts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from inferd.core.principal import Principal
    from inferd.runtime.front.access import Admission, Names
    from inferd.runtime.front.bounds import Calls
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.front import Front
    from inferd.services.extents import Extents
    from inferd.services.logins import Logins
    from inferd.services.notes import Note, Notes
    from inferd.services.policies import CallPolicy

    Handler = grpc.RpcMethodHandler[Any, Any]

RUN_TASK = "/inferd.v1.TaskService/RunTask"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
REPEATABLE = (ts.CreateTaskRequest, ts.RunTaskRequest)  # with the same `request_id` they find what they made

log = structlog.get_logger()


class Entrance(grpc.aio.ServerInterceptor):
    """Makes of each call who asks and what for, or its refusal: what a method raises becomes the status of its call.

    Calls are counted and bounded, the rules must allow them, now and as long as they go on, their lease must hold
    unless they repeat one that made a task, and nothing of a request is read that is longer than it may be. A defect is
    logged and told without its values, which may be another tenant's.

    Args:
        front: Counts calls, admits them, and knows leases.
        logins: Finds out who makes them.
        policies: What each of them asks the rules for, by path.
        extents: Bounds what is in a request, before anything else looks at it.
        calls_per_s: How fast a connection may begin calls; 0 for no bound.
        notes: What is told of calls in the audit trail.
        message_limit_bytes: Of the largest answer; a larger one is refused by name, which gRPC does without.
    """

    def __init__(
        self,
        front: Front,
        logins: Logins,
        policies: Mapping[str, CallPolicy],
        extents: Extents,
        notes: Notes,
        *,
        message_limit_bytes: int,
        calls_per_s: float = 0.0,
    ) -> None:
        self._calls, self._host_calls = front.calls, front.agents.calls
        self._access = front.access
        self._admitted = front.access.admitted
        self._logins = logins
        self._policies = policies
        self._clock = front.clock
        self._incidents = Incidents()
        self._notes = notes
        self._rates = Rates(calls_per_s, time.monotonic)
        self._check_lease = front.leases.check
        self._knows = front.tasks.knows
        self._names = OwnNames(front.models.traits.aliases, front.tasks.model_made, front.leases.models_claimed)
        self._extents = extents
        self._message_limit_bytes = message_limit_bytes
        self._handlers: dict[str, Handler] = {}  # by the path of each method that is offered

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method of a call behind this door; methods that stream are coroutines that write to their call."""
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is not None:  # of others nothing is kept: clients may name any number
            handler = self._handlers[method] = self._behind(handler, self._policies[method])
        return handler

    def _behind(self, handler: Handler, policy: CallPolicy) -> Handler:
        read, write = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is not None:  # what is sent once is read when it is known who sends it
            method = self._guarded(handler.unary_unary, policy, read)
            return grpc.unary_unary_rpc_method_handler(method, None, write)
        if handler.unary_stream is not None and policy.method == RUN_TASK:
            # What such a stream ends with goes with its status: gRPC does so for what answers once, and writes before.
            method = self._guarded(handler.unary_stream, policy, read, write)
            return grpc.unary_unary_rpc_method_handler(method, None, None)
        if handler.unary_stream is not None:
            method = self._guarded(handler.unary_stream, policy, read)
            return grpc.unary_stream_rpc_method_handler(method, None, write)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._guarded(handler.stream_stream, policy), read, write)
        raise TypeError("no service has a method that takes a stream and answers once")

    def _guarded(
        self,
        method: Callable[..., Any],
        policy: CallPolicy,
        read: Callable[[bytes], Message] | None = None,
        write: Callable[[Any], bytes] | None = None,
    ) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            try:
                return await self._answer(method, policy, read, request, context, write)
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

    async def _answer(  # noqa: PLR0917 - of one call
        self,
        method: Callable[..., Any],
        policy: CallPolicy,
        read: Callable[[bytes], Message] | None,
        request: Any,
        context: Context,
        write: Callable[[Any], bytes] | None,
    ) -> Any:
        peer, made = context.peer(), None
        note = self._notes.begin(policy, peer)
        try:
            if not peer.startswith(UNIX):
                self._rates.take(peer)
            said = read_said(context)
            _mark(note, said)
            if policy.policy.kind is ResourceKind.HEALTH:  # whether it needs a login depends on what it asks
                request = _read(read, request)
            login = self._logins.read(said.login, peer, policy.policy, request, context.auth_context)
            note.login = login
            note.caller = caller = caller_of(said, login.principal, context, self._clock)
            if peer.startswith(UNIX) and caller.principal.name != LOCAL:  # who has the kernel's own user has all
                self._rates.take(caller.principal.name)
            CALLER.set(Insight(self._access, caller, self._incidents))
            calls, counted = self._counted(policy, login.principal, caller, peer)
            calls.take(counted)
            try:
                single = isinstance(request, Message | bytes)
                async with self._admitted(login, caller.tenant, policy.policy, many=not single) as admission:
                    note.sent = request if single else None
                    request = _read(read, request)
                    if not (isinstance(request, REPEATABLE) and self._knows(caller, request.request_id)):
                        self._check_lease(caller)
                    take = partial(self._take, policy=policy, admission=admission, caller=caller, note=note)
                    if single:
                        admission.names = take(request)
                    else:
                        request = _each(request, partial(take, whole=False))
                    await note.begin()
                    refused = partial(note.fail, is_order=True)
                    answer = await method(request, made := Call(caller, context, admission, take, refused, write))
                if isinstance(answer, Message):
                    self._check_size(answer)
                await note.end(answer)
                return answer if write is None else write(answer)
            finally:
                calls.give_back(counted)
        except InferdError as error:  # it may be kept with a task: without its frames, which hold the request
            note.fail(error)
            await _abort(context, made, error.with_traceback(None).about(_model_of(request, policy)))
        except grpc.aio.BaseError:
            raise
        except Exception as error:
            log.exception("defect in a call", method=getattr(method, "__qualname__", str(method)))
            await _abort(context, made, InternalError(f"a defect of inferd: {type(error).__name__}; see its log"))
        finally:
            note.leave()

    def _counted(self, policy: CallPolicy, principal: Principal, caller: Caller, peer: str) -> tuple[Calls, str]:
        """Where a call is counted, and as whose. Of agents without a name of their own each has its connections."""
        if policy.policy.kind is ResourceKind.AGENT and principal.has(HOSTS):
            return self._host_calls, principal.name if principal.name.startswith(HOST) else peer
        return self._calls, f"{caller.tenant} {policy.method}" if principal is NOBODY.principal else caller.tenant

    def _take(
        self,
        request: Message,
        *,
        policy: CallPolicy,
        admission: Admission,
        caller: Caller,
        note: Note,
        whole: bool = True,
    ) -> Names:
        """Bound what has come on a call, have it name models by their own names, and hold those against the rules.

        `whole` requests have all that they must have. One for a task that came as an order among many is taken as what
        it is.

        Returns:
            The names as they were given, by the models' own.

        Raises:
            InferdError: It is refused.
        """
        is_order = isinstance(request, ts.RunTaskRequest) and policy.method != RUN_TASK
        if is_order:
            policy = self._policies[RUN_TASK]
        is_order = is_order or policy.method == STREAM_INFER
        self._extents.check(request)
        note.take(request, is_order=is_order)
        if whole:
            check_required(request)
        given = policy.models(request)
        self._names.put(request, policy, caller)
        names = tuple(zip(policy.models(request), given, strict=True))
        admission.check_names(names)
        return names

    def _check_size(self, answer: Message) -> None:
        size, limit = answer.ByteSize(), self._message_limit_bytes
        if size > limit:
            raise LimitExceededError(
                f"the answer has {size} bytes and limits.message_bytes is {limit}; ask for less at once",
                metadata={"bound": "limits.message_bytes", "value": str(size), "limit": str(limit)},
            )


async def _each(requests: AsyncIterator[Message], take: Callable[[Message], object]) -> AsyncIterator[Message]:
    async for request in requests:
        take(request)
        yield request


def _mark(note: Note, said: Said) -> None:
    """Have what comes of a call found by what it says: by the audit trail, and by the traces of tasks that it makes."""
    note.correlation = said.correlation
    CALL.set(said.trace)


def _read(read: Callable[[bytes], Message] | None, request: Any) -> Any:
    """The message that a call was sent, if it was not read yet; a stream as it is.

    Raises:
        InvalidFieldError: It is none.
    """
    if read is None or not isinstance(request, bytes):
        return request
    try:
        return read(request)
    except DecodeError:
        raise InvalidFieldError("what was sent is no message of this call, or has a text that is no UTF-8") from None


def _model_of(request: Any, policy: CallPolicy) -> str:
    """The model that a call is about; "" for none, several, or what could not be read."""
    return policy.one_model(request) if isinstance(request, Message) else ""


async def _abort(context: Context, call: Call | None, error: InferdError) -> NoReturn:
    if call is not None:
        await call.begun()
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status returned")
