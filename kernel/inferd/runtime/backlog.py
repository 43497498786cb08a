"""What tasks have told that the store does not have: bounded, though nothing can be written."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from inferd.core.task import SuspendReason
from inferd.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.runtime.driver import Driver
    from inferd.runtime.kept import Kept

STALLED_S = 5.0  # from when on a write counts as one that cannot be done, though it has not failed


class Backlog:
    """Stops tasks that tell more than is held of them while nothing can be written, and lets them go on after that.

    One writer: the keeper. The bounds are those of what streams hold: of one task, and of all together, beyond which
    whoever tells more is stopped.

    Args:
        driver: Of the tasks.

    Attributes:
        underway: Those that are being written.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._task_bytes, self._all_bytes = driver.streams.bounds_bytes
        self.underway: dict[Kept, None] = {}
        self._late_at = inf
        self._held_bytes = 0
        self._stopped: dict[Kept, None] = {}

    def count(self, kept: Kept) -> None:
        """More, or less, of a task is held."""
        held_bytes = kept.pending_bytes + kept.stream.ahead_bytes
        self._held_bytes += held_bytes - kept.held_bytes
        kept.held_bytes = held_bytes

    def begin(self, underway: Iterable[Kept]) -> None:
        """A write of these tasks begins."""
        self.underway, self._late_at = dict.fromkeys(underway), asyncio.get_running_loop().time() + STALLED_S

    def end(self) -> None:
        """It has ended, well or not."""
        self.underway, self._late_at = {}, inf

    def check(self, kept: Kept, *, failing: bool) -> None:
        """Stop a task of which too much is held; when what is under way has been dealt with, for it is still told.

        Args:
            kept: It has told something.
            failing: Whether the last write has failed; one that takes long counts as that.
        """
        if not failing and asyncio.get_running_loop().time() < self._late_at:
            return
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
