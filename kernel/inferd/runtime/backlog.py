"""What tasks have told that the store does not have: bounded, though nothing can be written."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from inferd.core.task import SuspendReason
from inferd.errors import InferdError

if TYPE_CHECKING:
    from inferd.runtime.driver import Driver
    from inferd.runtime.kept import Kept


class Backlog:
    """Stops tasks that tell more than is held of them while nothing can be written, and lets them go on after that.

    One writer: the keeper.

    Args:
        driver: Of the tasks.
        task_bytes: Most that is held of one task.
        all_bytes: Most of all together; beyond it whoever tells more is stopped.
    """

    def __init__(self, driver: Driver, *, task_bytes: int, all_bytes: int) -> None:
        self._driver = driver
        self._task_bytes = task_bytes
        self._all_bytes = all_bytes
        self._held_bytes = 0
        self._stopped: dict[Kept, None] = {}

    def count(self, kept: Kept) -> None:
        """More, or less, of a task is held."""
        held_bytes = kept.pending_bytes + kept.stream.ahead_bytes
        self._held_bytes += held_bytes - kept.held_bytes
        kept.held_bytes = held_bytes

    def check(self, kept: Kept) -> None:
        """Stop a task of which too much is held; when what is under way has been dealt with, for it is still told."""
        if kept.stopped or (kept.held_bytes <= self._task_bytes and self._held_bytes <= self._all_bytes):
            return
        kept.stopped = True
        self._stopped[kept] = None
        asyncio.get_running_loop().call_soon(self._stop, kept)

    def _stop(self, kept: Kept) -> None:
        spec = kept.task.spec
        if kept.stopped and kept.task.finished is None:
            with suppress(InferdError):  # it is forgotten, or the kernel ends
                self._driver.suspend(spec.task_id, spec.tenant, SuspendReason.STORE)

    def let_go(self, kept: Kept) -> None:
        """A client has said whether a task goes on: it is not resumed by itself."""
        kept.stopped = False
        self._stopped.pop(kept, None)

    def go_on(self) -> None:
        """The store takes what it is given again: what was stopped goes on."""
        stopped, self._stopped = self._stopped, {}
        for kept in stopped:
            kept.stopped = False
            with suppress(InferdError):  # it has ended meanwhile
                self._driver.resume(kept.task.spec.task_id, kept.task.spec.tenant)
