"""Processes beside a kernel that `inferd serve` starts: each is started anew when it ends, and ends with the kernel."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 60.0
LONG_S = 60.0  # after so long a process has worked

T = TypeVar("T")


async def run_again(run: Callable[[], Awaitable[T]], tell: Callable[[T, float], None]) -> None:
    """Run a process again and again, with pauses that grow while it ends soon, until this is cancelled.

    Args:
        run: Runs it once; how it ended.
        tell: Is told how it ended, and in how many seconds it is run again.
    """
    pause_s, loop = FIRST_PAUSE_S, asyncio.get_running_loop()
    while True:
        begun = loop.time()
        how = await run()
        pause_s = FIRST_PAUSE_S if loop.time() - begun > LONG_S else pause_s
        tell(how, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(MOST_PAUSE_S, 2 * pause_s)


async def end_child(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Have a process end; one that takes longer is killed."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
