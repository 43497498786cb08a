"""The bytes of a blob, as they come in the messages of a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.services.uploads import CHUNK_BYTES, CHUNK_MARGIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.runtime.front.blobs import Blobs, Giving
    from inferd.services.calls import Call
    from inferd.services.extents import Extents

TOLD_BYTES: Final = 16 << 20  # between two messages that say how far a blob is


class Chunks:
    """Takes chunks.

    Args:
        blobs: Where they go; says how long one is waited for.
        extents: Of the messages that say what follows.
        message_limit_bytes: Largest message.

    Attributes:
        most_bytes: Of a chunk.
    """

    def __init__(self, blobs: Blobs, extents: Extents, *, message_limit_bytes: int) -> None:
        self._extents = extents
        self.most_bytes = min(CHUNK_BYTES, message_limit_bytes - CHUNK_MARGIN_BYTES)
        self._idle_s = blobs.idle_s

    async def take(self, call: Call, giving: Giving, accepted: Callable[[int], Any]) -> None:
        """All that has not come of a blob; `accepted` makes the message that says how much has.

        Raises:
            InvalidFieldError: It is not so much.
            InferdError: It is refused, or comes too slowly.
        """
        told = -TOLD_BYTES
        while not giving.complete:
            if giving.received_bytes - told >= TOLD_BYTES:
                told = giving.received_bytes
                await call.write(accepted(told))
            far = f"{giving.received_bytes} of {giving.size_bytes} bytes"
            request = await self.read(call, f"no chunk behind {far} came")
            if request is None or request.WhichOneof("kind") != "chunk":
                raise InvalidFieldError(
                    f"the chunks end at {giving.received_bytes} of the {giving.size_bytes} bytes that start.size_bytes"
                    " states; what came stays: go on behind it",
                    field="chunk",
                )
            await giving.add(request.chunk)
            del request  # before the wait for the next one

    async def read(self, call: Call, lacking: str) -> Any:
        """The next message; None at the end.

        Raises:
            InvalidFieldError: A list or a text in it is too long.
            LimitExceededError: None came for too long.
        """
        try:
            async with asyncio.timeout(self._idle_s):
                request = await call.read()
        except TimeoutError:
            raise LimitExceededError(
                f"{lacking} for {self._idle_s:g} s, which is blobs.idle_s; what came stays: go on behind it",
                metadata={"bound": "blobs.idle_s", "value": f"{self._idle_s:g}", "limit": f"{self._idle_s:g}"},
            ) from None
        if request is grpc.aio.EOF:
            return None
        if request.WhichOneof("kind") == "start":
            self._extents.check(request)
        return request
