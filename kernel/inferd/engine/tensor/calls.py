"""The calls of a session that are being computed, and stopping those whose answers nobody waits for any more."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from inferd.errors import is_failure
from inferd.plugin import StoppableSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.tensor.entry import Entry
    from inferd.plugin import TensorSession

_log = logging.getLogger(__name__)


class Calls:
    """By thread, the requests that it computes as one. Written under the lock of the loop, which is given.

    Args:
        session: Whose calls they are.
        lock: Of the loop.
    """

    def __init__(self, session: TensorSession, lock: threading.Condition) -> None:
        self._session = session
        self._lock = lock
        self._running: dict[int, list[Entry]] = {}

    @contextmanager
    def running(self, entries: list[Entry]) -> Iterator[None]:
        """This thread computes these as one meanwhile. Takes the lock at its begin and its end."""
        thread = threading.get_ident()
        with self._lock:
            self._running[thread] = entries
        try:
            yield
        finally:
            with self._lock:
                del self._running[thread]

    @property
    def any_unwanted(self) -> bool:
        """Whether something is computed for nobody; without the lock, so of a moment ago."""
        return any(map(unwanted, list(self._running.values())))

    def stop_unwanted(self) -> None:
        """Have the session stop what is computed for nobody. Under the lock: so the call is still that one."""
        if not isinstance(self._session, StoppableSession):
            return
        for thread, entries in self._running.items():
            if unwanted(entries):
                try:
                    self._session.stop(thread)
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    _log.exception("the backend failed to stop a call")


def unwanted(entries: list[Entry]) -> bool:
    """Whether nobody waits for any of them."""
    return all(entry.dropped for entry in entries)
