"""Memory that files take while they are prepared: together as much as the largest one may alone."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


WANTED: ContextVar[Callable[[], bool]] = ContextVar("WANTED", default=lambda: True)
"""Whether somebody waits still for what this thread prepares; locks nothing."""


class UnwantedError(Exception):
    """Nobody waits any more for what is prepared."""


class Room:
    """May be used from several threads; who holds some of it asks for no more.

    Args:
        size_bytes: There is so much. Who needs more is alone with all of it.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._used_bytes = 0
        self._turn = 0
        self._since: dict[int, float] = {}  # when those that hold some of it got it, in that order, by number
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, need_bytes: int) -> Iterator[None]:
        """Wait for so much, and hold it meanwhile.

        Raises:
            UnwantedError: Nobody waits for it any more, as `WANTED` says, and there was no room before that.
        """
        taken, wanted = min(need_bytes, self._size_bytes), WANTED.get()
        with self._changed:
            self._changed.wait_for(lambda: not wanted() or self._used_bytes + taken <= self._size_bytes)  # holders end
            if not wanted():
                raise UnwantedError
            self._used_bytes += taken
            self._turn = turn = self._turn + 1
            self._since[turn] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._used_bytes -= taken
                del self._since[turn]
                self._changed.notify_all()

    def longest(self) -> tuple[int, float] | None:
        """Who has held some of it for longest: a number of its own, and seconds. None where nobody does."""
        with self._changed:
            held = next(iter(self._since.items()), None)
        return (held[0], time.monotonic() - held[1]) if held else None

    def look(self) -> None:
        """Have those who wait look whether they are wanted still."""
        with self._changed:
            self._changed.notify_all()
