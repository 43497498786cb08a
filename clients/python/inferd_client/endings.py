"""How a call really ended, where grpc.aio says only that something could not be written to it.

A call that its kernel ends while a message is on its way to it ends twice for grpc.aio: as the kernel says, and with
words of its own, in either order; who reads the call is told those that came last by then. An older kernel that lacks
a call, and one that refuses it, would be taken for one whose connection broke.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from inferd_client.rpc_errors import BROKEN

if TYPE_CHECKING:
    from typing import Any

TOLD_S: Final = 1.0
"""How long the kernel's own words are waited for: they are on their way, unless the connection broke."""


class Ending:
    """How one call ends; made as soon as the call is.

    Args:
        call: Of grpc.aio, of a kind that sends a stream.
    """

    def __init__(self, call: Any) -> None:
        self._said: grpc.aio.AioRpcError | None = None
        self._came = asyncio.Event()
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        """The call has ended, perhaps again."""
        reading = _read(call)
        try:
            reading.send(None)
        except StopIteration as read:  # it waits for nothing in a call that is over
            error: grpc.aio.AioRpcError = read.value
            if not _is_broken(error):
                self._said = error
                self._came.set()
        finally:
            reading.close()

    async def of(self, error: grpc.RpcError) -> grpc.RpcError:
        """What a call ended with that failed so."""
        if not _is_broken(error):
            return error
        try:
            async with asyncio.timeout(TOLD_S):
                await self._came.wait()
        except TimeoutError:
            return error
        return error if self._said is None or self._said.code() is grpc.StatusCode.OK else self._said


def _is_broken(error: grpc.RpcError) -> bool:
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == BROKEN


async def _read(call: Any) -> grpc.aio.AioRpcError:
    metadata = await call.initial_metadata(), await call.trailing_metadata()
    return grpc.aio.AioRpcError(await call.code(), *metadata, details=await call.details())
