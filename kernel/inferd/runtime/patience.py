"""How long the end of a kernel waits for a store that may not answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AT_ONCE_S = 0.5  # where the end is to come at once, or has been waited for


class Patience:
    """Bounds the waits of an end, one after the other. One writer: who waits.

    Args:
        most_s: How long the first wait may last; one that was in vain leaves the next one `AT_ONCE_S`.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._limit: asyncio.Timeout | None = None  # of the wait that is under way

    @asynccontextmanager
    async def bounds(self) -> AsyncIterator[None]:
        """A wait, which ends when it was as long as it may be."""
        try:
            async with asyncio.timeout(self._most_s) as self._limit:
                yield
        except TimeoutError:
            self._most_s = min(self._most_s, AT_ONCE_S)
        finally:
            self._limit = None

    async def saw(self, future: asyncio.Future[None]) -> bool:
        """Wait for something; whether it was done in time."""
        async with self.bounds():
            await asyncio.wait([future])
        return future.done()

    def hurry(self) -> None:
        """The end is to come at once: nobody waits for longer, now or later."""
        self._most_s = min(self._most_s, AT_ONCE_S)
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + AT_ONCE_S)
