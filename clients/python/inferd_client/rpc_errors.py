"""What gRPC says of a call that failed, as an error of this package."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import status_pb2

from inferd_client import tls
from inferd_client.absence import nobody
from inferd_client.errors import (
    DETAILS_KEY,
    InferdError,
    KernelUnreachableError,
    LimitExceededError,
    StatusError,
    TlsFailedError,
    from_status,
)
from inferd_client.kernels import MOVED, was_moved
from inferd_client.returning import UNCONNECTED
from inferd_client.sizes import TOO_LARGE, too_large

BROKEN = "Internal error from Core"  # grpc.aio's words for a call that broke while something was written to it
LOCAL = ("Locally cancelled by application!", "Channel closed!")  # gRPC's words for what this client has ended itself
REFUSED = "RST_STREAM with error code 7"  # REFUSED_STREAM (RFC 9113, 8.7): the call was not looked at


def _unreachable(address: str, details: str | None) -> InferdError:
    if why := tls.why_failed(address, details or ""):
        return TlsFailedError(why)
    unreachable = KernelUnreachableError(nobody(address, details))
    unreachable.unsent = UNCONNECTED in (details or "")
    return unreachable


def was_cut(error: grpc.RpcError) -> bool:
    """Whether a call was cut off at the other end: CANCELLED by nobody here, and without a word of the kernel.

    So gRPC ends what a kernel had no time to answer, or could not any more, as while it starts or ends.
    """
    if error.code() is not grpc.StatusCode.CANCELLED or error.details() in LOCAL:
        return False
    pairs: Any = error.trailing_metadata() or ()
    return all(key != DETAILS_KEY for key, _ in pairs)


def from_rpc(error: grpc.RpcError, address: str) -> InferdError:
    """Build the error of a call to `address` that failed.

    A status without details is the transport's own: UNAVAILABLE becomes `KernelUnreachableError`,
    `TlsFailedError`, or `LimitExceededError` where the connection has no room for another call; CANCELLED that nobody
    here asked for `KernelUnreachableError`, too; others `StatusError`.
    """
    pairs: Any = error.trailing_metadata() or ()
    for key, value in pairs:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.UNAVAILABLE and REFUSED in (details or ""):
        bound = "limits.concurrent_streams"
        message = f"this connection to {address} has as many calls open as the kernel allows ({bound}); close some"
        return LimitExceededError(f"{message}, or open another client", metadata={"bound": bound}, retry_after_s=1.0)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (sizes := TOO_LARGE.search(details or "")):
        message, facts = too_large(address, *sizes.groups())
        return LimitExceededError(message, metadata=facts)
    if was_moved(error) or was_cut(error) or (code is grpc.StatusCode.INTERNAL and details == BROKEN):
        return KernelUnreachableError(MOVED if was_moved(error) else f"the connection to {address} broke")
    if code is grpc.StatusCode.UNAVAILABLE:
        return _unreachable(address, details)
    failed = StatusError(f"the call to {address} ended with {code.name}: {details}")
    failed.code = code.name
    return failed
