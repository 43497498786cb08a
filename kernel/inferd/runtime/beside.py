"""What runs beside all else, for as long as a block."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping


@asynccontextmanager
async def running_beside(parts: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run these, by name, until the block ends."""
    running = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    try:
        yield
    finally:
        for each in running:
            each.cancel()
        for each in running:
            with suppress(asyncio.CancelledError):
                await each
