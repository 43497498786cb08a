"""What is done to its end, though whoever asked for it is cancelled meanwhile, and is waited for at the end of all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Whole:
    """Such works. One writer: the loop."""

    def __init__(self) -> None:
        self._going: set[asyncio.Task[Any]] = set()

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it, all of it."""
        task = asyncio.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._going.discard)
        return await asyncio.shield(task)

    async def done(self, most_s: float) -> None:
        """Wait until all that was begun is done, for so long at most."""
        if self._going:
            await asyncio.wait(self._going, timeout=most_s)
