"""Kernels that have come back.

gRPC waits longer and longer between its tries to connect, and fails every call meanwhile. So that nobody is told that
no kernel answers while one does, the address itself is asked; where it answers, gRPC's next try is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

import grpc
import grpc.aio

from inferd_client.tls import split_scheme, why_closed, why_failed

UNCONNECTED: Final = "failed to connect to all addresses"  # what gRPC says of a call that was not sent
ASK_S: Final = 1.0  # how long the address is asked
BACK_S: Final = 5.0  # more than the longest pause between two tries, `grpc.max_reconnect_backoff_ms`
CLOSED_S: Final = 1.0  # the same where the other end took the connection and closed it: most often that is for good


def is_back(channel: grpc.Channel, address: str, error: grpc.RpcError, timeout_s: float | None = None) -> bool:
    """Whether a call that failed was not sent and would be now: there is a connection again.

    Args:
        channel: Of the call.
        address: Of the kernel.
        error: How the call ended.
        timeout_s: How long to wait at most, in seconds; default: as long as gRPC pauses.
    """
    if not _is_unsent(error, address) or not _answers(address):
        return False
    ready = grpc.channel_ready_future(channel)
    try:
        ready.result(timeout=_patience_s(error, address, timeout_s))
    except grpc.FutureTimeoutError:
        ready.cancel()
        return False
    return True


async def is_back_async(
    channel: grpc.aio.Channel, address: str, error: grpc.RpcError, timeout_s: float | None = None
) -> bool:
    """As `is_back`."""
    if not _is_unsent(error, address) or not await _answers_async(address):
        return False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_patience_s(error, address, timeout_s)):
            await channel.channel_ready()
        return True
    return False


def _patience_s(error: grpc.RpcError, address: str, timeout_s: float | None) -> float:
    most_s = CLOSED_S if why_closed(address, error.details() or "") else BACK_S
    return most_s if timeout_s is None else min(most_s, timeout_s)


def _is_unsent(error: grpc.RpcError, address: str) -> bool:
    details = error.details() or ""
    unsent = error.code() is grpc.StatusCode.UNAVAILABLE and UNCONNECTED in details
    return unsent and not why_failed(address, details)  # the next try would end as this one


def _answers(address: str) -> bool:
    """Whether somebody takes connections at an address."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(ASK_S)
                asked.connect(_path(address))
        else:
            socket.create_connection(_host_and_port(address), ASK_S).close()
    except OSError:
        return False
    return True


async def _answers_async(address: str) -> bool:
    try:
        async with asyncio.timeout(ASK_S):
            if address.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(_path(address))
            else:
                _, writer = await asyncio.open_connection(*_host_and_port(address))
    except OSError:  # of which TimeoutError is one
        return False
    writer.close()
    return True


def _path(address: str) -> str:
    return address.removeprefix("unix:").removeprefix("//")


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = split_scheme(address)[1].rpartition(":")
    return host.strip("[]"), int(port)
