"""A call under way: who makes it, by what it carries besides its message, and the stream of its answers."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from inferd.core.ids import NO_LEASE, LeaseId, Tenant
from inferd.core.principal import HOSTS, Principal
from inferd.errors import InferdError, InvalidFieldError, PermissionDeniedError
from inferd.runtime.clock import Clock
from inferd.runtime.front.access import Admission
from inferd.runtime.front.caller import Caller
from inferd.runtime.telemetry.trace_context import TRACEPARENT

if TYPE_CHECKING:
    import grpc
    from google.protobuf.message import Message

TENANT_KEY = "inferd-tenant"
TENANT_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOGIN_KEY = "authorization"
LEASE_KEY = "inferd-lease"
CORRELATION_KEY = "inferd-correlation"
LEASE_FORM = re.compile(r"[A-Za-z0-9-]{1,64}")
MOST_REQUEST_ID = 128
DEADLINE_MARGIN_S = 0.02  # how much earlier the kernel ends a task than gRPC cuts its call, so that the end is told

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Call:
    """A call as services see it.

    Attributes:
        caller: Who makes it.
        admission: What it may do.
        read: Takes the next message of a stream.
        write: Sends a message of a stream; no generator between. To be had anew for each: the first goes another way.
        take: What `read` gave has to go through it before anything looks at the models that it names: it bounds a
            request, puts the models' own names in the place of aliases, and holds them against the rules.
        refused: Told of the error of an order that is refused, while the call goes on.
        peer: Gives where it came from, as gRPC writes it.
        metadata: Gives what it carries besides its messages.
    """

    __slots__ = ("_first", "_send", "admission", "caller", "metadata", "peer", "read", "refused", "take", "write")

    def __init__(  # noqa: PLR0917 - of one call
        self,
        caller: Caller,
        context: Context,
        admission: Admission,
        take: Callable[["Message"], object],
        refused: Callable[[InferdError], None],
        serialize: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.caller = caller
        self.admission = admission
        self.read = context.read
        self.peer = context.peer
        self.metadata = context.invocation_metadata
        self.take = take
        self.refused = refused
        self._send: Any = context.write if serialize is None else _serializing(context.write, serialize)
        self._first: asyncio.Future[None] | None = None
        self.write: Callable[[Any], Awaitable[None]] = self._begin

    async def _begin(self, message: Any) -> None:
        """Send the first message to its end, whatever becomes of who sends it.

        gRPC sends the head of a stream with it, and takes the head for not sent until that is done: a call that ended
        before could not be told why, as its status would go with a second head, which is refused.
        """
        self._first = asyncio.ensure_future(self._send(message))
        self._first.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waited has it
        await asyncio.wait((self._first,))
        self.write = self._send
        self._first.result()

    async def begun(self) -> None:
        """Wait until a first message that is being sent has gone, so that a status can follow it."""
        if self._first is not None:
            await asyncio.wait((self._first,))


def _serializing(write: Callable[[Any], Awaitable[None]], serialize: Callable[[Any], bytes]) -> Any:
    def send(message: Any) -> Awaitable[None]:
        return write(serialize(message))

    return send


@dataclass(frozen=True, slots=True)
class Said:
    """What a call says besides its message; of each the first, "" where it says nothing.

    Attributes:
        login: By which it says who makes it; a secret.
        tenant: Whose call it is.
        lease_id: The lease under which it is made.
        correlation: By which its client finds it in the audit trail.
        trace: Of which trace it is a part, as W3C's `traceparent`; what is none counts as nothing said.
    """

    login: str = field(default="", repr=False)
    tenant: str = ""
    lease_id: str = ""
    correlation: str = ""
    trace: str = ""


def read_said(context: Context) -> Said:
    """What a call says besides its message.

    Raises:
        InvalidFieldError: The tenant is no name, or the lease or the correlation no id.
    """
    login = tenant = lease_id = correlation = trace = ""
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY and not tenant:
            tenant = _checked(key, value, TENANT_FORM, "letters, digits, '.', '_' and '-'")
        elif key == LEASE_KEY and not lease_id:
            lease_id = _checked(key, value, LEASE_FORM, "letters, digits and '-'")
        elif key == LOGIN_KEY and not login:
            login = value if isinstance(value, str) else value.decode(errors="replace")
        elif key == CORRELATION_KEY and not correlation:
            correlation = _checked(key, value, TENANT_FORM, "letters, digits, '.', '_' and '-'")
        elif key == TRACEPARENT and not trace and isinstance(value, str):
            trace = value
    return Said(login, tenant, lease_id, correlation, trace)


def caller_of(said: Said, principal: Principal, context: Context, clock: Clock) -> Caller:
    """Who makes a call: a principal, for one of the tenants that it has.

    Raises:
        PermissionDeniedError: It names another tenant.
    """
    tenant = Tenant(said.tenant) if said.tenant else principal.tenant
    if tenant == HOSTS and not principal.is_of_hosts:
        raise PermissionDeniedError(
            f"tenant {HOSTS!r} is that of agents of hosts; {principal.name!r} may name another one in {TENANT_KEY}",
            metadata={"principal": principal.name, "tenant": HOSTS},
        )
    if said.tenant and not principal.has(said.tenant):
        raise PermissionDeniedError(
            f"{principal.name!r} may not ask for tenant {said.tenant!r}; name one that it has, or none in {TENANT_KEY}",
            metadata={"principal": principal.name, "tenant": said.tenant},
        )
    return Caller(
        tenant=tenant,
        principal=principal,
        lease_id=LeaseId(said.lease_id) if said.lease_id else NO_LEASE,
        deadline=_read_deadline(context, clock),
    )


def _checked(key: str, value: str | bytes, form: re.Pattern[str], letters: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise InvalidFieldError(f"metadata {key} is {value[:80]!r}; it must be 1 to 64 of {letters}", field=key)
    return value


def _read_deadline(context: Context, clock: Clock) -> float | None:
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return None
    return clock.now() + remaining_s - min(DEADLINE_MARGIN_S, remaining_s * 0.1)


def check_lease(lease_id: str) -> LeaseId:
    """The lease that a message names; "" for none.

    Raises:
        InvalidFieldError: It is no id.
    """
    if lease_id and not LEASE_FORM.fullmatch(lease_id):
        message = f"lease_id is {lease_id[:80]!r}; it must be 1 to 64 of letters, digits and '-'"
        raise InvalidFieldError(message, field="lease_id")
    return LeaseId(lease_id)


def check_request_id(request_id: str) -> None:
    """Refuse an id that is too long.

    Raises:
        InvalidFieldError: It is.
    """
    if len(request_id) > MOST_REQUEST_ID:
        message = f"request_id has {len(request_id)} characters; at most {MOST_REQUEST_ID}"
        raise InvalidFieldError(message, field="request_id")
