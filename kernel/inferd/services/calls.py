"""A call under way: who makes it, by what it carries besides its message, and the stream of its answers."""

import re
from typing import TYPE_CHECKING, Any, TypeAlias

from inferd.core.ids import DEFAULT_TENANT, NO_LEASE, LeaseId, Tenant
from inferd.errors import InvalidFieldError
from inferd.runtime.clock import Clock
from inferd.runtime.front.caller import Caller

if TYPE_CHECKING:
    import grpc

TENANT_KEY = "inferd-tenant"
TENANT_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEASE_KEY = "inferd-lease"
LEASE_FORM = re.compile(r"[A-Za-z0-9-]{1,64}")
MOST_REQUEST_ID = 128
DEADLINE_MARGIN_S = 0.02  # how much earlier the kernel ends a task than gRPC cuts its call, so that the end is told

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Call:
    """A call as services see it.

    Attributes:
        caller: Who makes it.
        read: Takes the next message of a stream.
        write: Sends a message of a stream; no generator between.
    """

    __slots__ = ("caller", "read", "write")

    def __init__(self, caller: Caller, context: Context) -> None:
        self.caller = caller
        self.read = context.read
        self.write = context.write


def read_caller(context: Context, clock: Clock) -> Caller:
    """Who makes a call, by its metadata.

    Raises:
        InvalidFieldError: The tenant is no name, or the lease no id.
    """
    tenant = lease_id = None
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY and tenant is None:
            tenant = Tenant(_checked(key, value, TENANT_FORM, "letters, digits, '.', '_' and '-'"))
        elif key == LEASE_KEY and lease_id is None:
            lease_id = LeaseId(_checked(key, value, LEASE_FORM, "letters, digits and '-'"))
    return Caller(
        tenant=DEFAULT_TENANT if tenant is None else tenant,
        lease_id=NO_LEASE if lease_id is None else lease_id,
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
