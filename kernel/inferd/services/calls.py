"""What every call carries besides its message: whose it is, under which lease, until when, and which page it wants."""

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import grpc

from inferd.core.ids import DEFAULT_TENANT, LeaseId, Tenant
from inferd.errors import InvalidFieldError

TENANT_KEY = "inferd-tenant"
TENANT_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEASE_KEY = "inferd-lease"
LEASE_FORM = re.compile(r"[A-Za-z0-9-]{1,64}")
MOST_REQUEST_ID = 128
DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
MARK_BYTES = 4
DEADLINE_MARGIN_S = 0.02  # how much earlier the kernel ends a task than gRPC cuts its call, so that the end is told

Item = TypeVar("Item")


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


def page_of(items: Sequence[tuple[str, Item]], size: int, token: str) -> tuple[list[Item], str]:
    """A page of items, each with the key that it is ordered by, and the token of the next page.

    The token names the last key of the page, so that items which come or go between two calls shift nothing. A size
    above the largest one is lowered to it (https://google.aip.dev/158).

    Raises:
        InvalidFieldError: The token is wrong.
    """
    after = _read_token(token)
    start = 0 if after is None else next((n for n, (key, _) in enumerate(items) if key > after), len(items))
    end = start + min(size or DEFAULT_PAGE, LARGEST_PAGE)
    more = end < len(items)
    return [item for _, item in items[start:end]], _write_token(items[end - 1][0]) if more else ""


def _write_token(key: str) -> str:
    data = key.encode()
    return base64.urlsafe_b64encode(_mark(data) + data).decode()


def _read_token(token: str) -> str | None:
    if not token:
        return None
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    mark, key = data[:MARK_BYTES], data[MARK_BYTES:]
    if mark != _mark(key):
        message = f"page_token {token[:80]!r} is not one that this service gave"
        raise InvalidFieldError(message, field="page_token")
    return key.decode()


def _mark(key: bytes) -> bytes:
    """Tells a token of ours from what happens to be well-formed. No secret: a token gives access to nothing."""
    return hashlib.sha256(key).digest()[:MARK_BYTES]
