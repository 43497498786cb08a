"""What every call carries besides its message: whose it is, until when, and which page it asks for."""

import base64
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import grpc

from inferd.core.ids import DEFAULT_TENANT, Tenant
from inferd.errors import InvalidFieldError

TENANT_KEY = "inferd-tenant"
TENANT_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
DEADLINE_MARGIN_S = 0.02  # how much earlier the kernel ends a task than gRPC cuts its call, so that the end is told

Item = TypeVar("Item")


def tenant_of(context: grpc.aio.ServicerContext[Any, Any]) -> Tenant:
    """The tenant that a call names in its metadata.

    Raises:
        InvalidFieldError: It is no name.
    """
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY:
            if not isinstance(value, str) or not TENANT_FORM.fullmatch(value):
                raise InvalidFieldError(
                    f"metadata {TENANT_KEY} is {value!r}; it must be 1 to 64 of letters, digits, '.', '_' and '-'",
                    field=TENANT_KEY,
                )
            return Tenant(value)
    return DEFAULT_TENANT


def deadline_of(context: grpc.aio.ServicerContext[Any, Any], now: float) -> float | None:
    """When the call's task expires, on the kernel's clock; None without a deadline."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return None
    return now + remaining_s - min(DEADLINE_MARGIN_S, remaining_s * 0.1)


def page_of(items: Sequence[tuple[str, Item]], size: int, token: str) -> tuple[list[Item], str]:
    """A page of items, each with the key that it is ordered by, and the token of the next page.

    The token names the last key of the page, so that items which come or go between two calls shift nothing.

    Raises:
        InvalidFieldError: The size or the token is wrong.
    """
    if size > LARGEST_PAGE:
        raise InvalidFieldError(f"page_size is {size}; it must be at most {LARGEST_PAGE}", field="page_size")
    after = _read_token(token)
    start = 0 if after is None else next((n for n, (key, _) in enumerate(items) if key > after), len(items))
    end = start + (size or DEFAULT_PAGE)
    more = end < len(items)
    return [item for _, item in items[start:end]], _write_token(items[end - 1][0]) if more else ""


def _write_token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _read_token(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        message = f"page_token {token!r} is not one that this service gave"
        raise InvalidFieldError(message, field="page_token") from None
