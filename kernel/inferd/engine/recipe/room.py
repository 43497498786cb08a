"""Memory that files take while they are prepared: together as much as the largest one may alone."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Room:
    """May be used from several threads; who holds some of it asks for no more.

    Args:
        size_bytes: There is so much. Who needs more is alone with all of it.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._used_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, need_bytes: int) -> Iterator[None]:
        """Wait for so much, and hold it meanwhile."""
        taken = min(need_bytes, self._size_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._used_bytes + taken <= self._size_bytes)  # those who hold it end
            self._used_bytes += taken
        try:
            yield
        finally:
            with self._changed:
                self._used_bytes -= taken
                self._changed.notify_all()
