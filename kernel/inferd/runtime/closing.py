"""The end of the kernel, told to calls that would wait for longer than it takes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inferd.core.ending import RETRY_AFTER_S
from inferd.errors import ShuttingDownError


class Closing:
    """Blocks that end when the kernel closes. One writer: the driver."""

    def __init__(self) -> None:
        self._closed = False
        self._blocks: set[asyncio.Timeout] = set()

    def close(self) -> None:
        """End all blocks now, and each later one at its first wait; again changes nothing."""
        self._closed = True
        for block in self._blocks:
            block.reschedule(0.0)  # an instant that has passed
        self._blocks.clear()

    @asynccontextmanager
    async def cut_short(self) -> AsyncIterator[None]:
        """Whatever the block waits for, it ends when the kernel closes.

        Raises:
            ShuttingDownError: It did.
        """
        try:
            async with asyncio.timeout_at(0.0 if self._closed else None) as block:
                self._blocks.add(block)
                try:
                    yield
                finally:
                    self._blocks.discard(block)
        except TimeoutError:
            if not block.expired():
                raise
            raise ShuttingDownError("the kernel is shutting down", retry_after_s=RETRY_AFTER_S) from None
