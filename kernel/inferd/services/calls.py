"""What every call carries besides its message: whose it is, under which lease, and until when."""

import re
from typing import Any

import grpc

from inferd.core.ids import DEFAULT_TENANT, LeaseId, Tenant
from inferd.errors import InvalidFieldError

TENANT_KEY = "inferd-tenant"
TENANT_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEASE_KEY = "inferd-lease"
LEASE_FORM = re.compile(r"[A-Za-z0-9-]{1,64}")
MOST_REQUEST_ID = 128
DEADLINE_MARGIN_S = 0.02  # how much earlier the kernel ends a task than gRPC cuts its call, so that the end is told


def tenant_of(context: grpc.aio.ServicerContext[Any, Any]) -> Tenant:
    """The tenant that a call names in its metadata.

    Raises:
        InvalidFieldError: It is no name.
    """
    name = _metadata(context, TENANT_KEY, TENANT_FORM, "letters, digits, '.', '_' and '-'")
    return DEFAULT_TENANT if name is None else Tenant(name)


def lease_of(context: grpc.aio.ServicerContext[Any, Any]) -> LeaseId:
    """The lease that a call names in its metadata; "" for none.

    Raises:
        InvalidFieldError: It is no id.
    """
    return LeaseId(_metadata(context, LEASE_KEY, LEASE_FORM, "letters, digits and '-'") or "")


def check_lease(lease_id: str) -> LeaseId:
    """The lease that a message names; "" for none.

    Raises:
        InvalidFieldError: It is no id.
    """
    if lease_id and not LEASE_FORM.fullmatch(lease_id):
        message = f"lease_id is {lease_id[:80]!r}; it must be 1 to 64 of letters, digits and '-'"
        raise InvalidFieldError(message, field="lease_id")
    return LeaseId(lease_id)


def _metadata(
    context: grpc.aio.ServicerContext[Any, Any], wanted: str, form: re.Pattern[str], letters: str
) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == wanted:
            if not isinstance(value, str) or not form.fullmatch(value):
                raise InvalidFieldError(
                    f"metadata {wanted} is {value[:80]!r}; it must be 1 to 64 of {letters}", field=wanted
                )
            return value
    return None


def check_request_id(request_id: str) -> None:
    """Refuse an id that is too long.

    Raises:
        InvalidFieldError: It is.
    """
    if len(request_id) > MOST_REQUEST_ID:
        message = f"request_id has {len(request_id)} characters; at most {MOST_REQUEST_ID}"
        raise InvalidFieldError(message, field="request_id")


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], now: float) -> float | None:
    """When the call's task expires, on the kernel's clock; None without a deadline."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return None
    return now + remaining_s - min(DEADLINE_MARGIN_S, remaining_s * 0.1)
