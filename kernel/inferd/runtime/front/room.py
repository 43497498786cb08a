"""Work of the kernel's own that waits for room, where a client would be refused and come again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from inferd.errors import LimitExceededError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LEAST_WAIT_S: Final = 0.5  # before what was refused for want of room is asked for again


async def patiently(ask: Callable[[], Awaitable[T]], *, tries: int | None = None) -> T:
    """Ask for something again as long as it is refused for want of room, which others give back.

    Args:
        ask: Asks for it.
        tries: How often at most; None for as long as it takes.

    Raises:
        InferdError: It is refused for another reason, or so often, or fails.
    """
    while True:
        try:
            return await ask()
        except (QueueFullError, LimitExceededError) as refused:
            tries = None if tries is None else tries - 1
            if refused.retry_after_s is None or tries == 0:
                raise
            wait_s = refused.retry_after_s
        await asyncio.sleep(max(LEAST_WAIT_S, wait_s))
