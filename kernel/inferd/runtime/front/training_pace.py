"""How a training on the processor leaves time to tasks there: in turns with them, of some milliseconds each.

Priorities decide who has a core, and not what units of it, caches and memory two programs share that have one each: two
threads of one core are half as fast while both compute. So a training is stopped for a part of each turn in which tasks
of models run on its processor.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_S: Final = 0.01
"""Less than most steps take: each of those then meets as much of the training as the others."""
LOOK_S: Final = 0.02  # how often it is seen whether tasks run, while none does


async def pace(pid: Callable[[], int], are_others: Callable[[], bool], share: float) -> None:
    """Have a process compute for a share of the time in which others do, until it is gone or this is cancelled.

    Args:
        pid: The process, which leads its group; 0 once it is gone.
        are_others: Whether others compute now.
        share: Of the time, above 0; with 1 it always computes.
    """
    while share < 1 and pid():
        if not are_others():
            await asyncio.sleep(LOOK_S)
            continue
        stopped = pid()
        try:
            _send(stopped, signal.SIGSTOP)
            await asyncio.sleep(TURN_S * (1 - share))
        finally:
            _send(stopped, signal.SIGCONT)
        await asyncio.sleep(TURN_S * share)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
