"""A signal: wakes all who wait for a change, and loses none, since each says which change it has seen."""

import asyncio


class Signal:
    """Counts changes. One writer: the owner of what changes.

    Attributes:
        version: Changes so far.
    """

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Tell of a change."""
        self.version += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, seen: int) -> int:
        """Wait for a change after version `seen`; return the present version."""
        if self.version == seen:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)
        return self.version
