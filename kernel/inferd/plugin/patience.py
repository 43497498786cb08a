"""A time limit that leaves out what this process slept through: who was not asked meanwhile is not judged for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TICK_S = 1.0  # how often is looked
SLEPT_S = 1.0  # a look that comes later than that comes from a process that was stopped: it does not count


@asynccontextmanager
async def patience(limit_s: float) -> AsyncIterator[None]:
    """The block is cancelled after `limit_s` seconds in which this process ran.

    Raises:
        TimeoutError: They passed.
    """
    async with asyncio.timeout(None) as block:
        watch = _Watch(block, limit_s)
        try:
            yield
        finally:
            watch.handle.cancel()


class _Watch:
    """Counts the time of one block. One writer: the event loop."""

    def __init__(self, block: asyncio.Timeout, limit_s: float) -> None:
        self._block = block
        self._left_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._wait()

    def _wait(self) -> None:
        self._due = self._loop.time() + min(self._left_s, TICK_S)
        self.handle = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        late_s = self._loop.time() - self._due
        if late_s <= SLEPT_S:
            self._left_s -= min(self._left_s, TICK_S) + late_s
        if self._left_s > 0:
            self._wait()
        elif not self._block.expired():
            self._block.reschedule(self._due)  # an instant that has passed
