"""What tasks are written of, read by the session beside the steps: one between two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inferd.core.vigil import Doing
from inferd.plugin.session import SourcedSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.engine.activity import Activity
    from inferd.engine.token.samples import Samples
    from inferd.engine.token.sequence import Sequence
    from inferd.plugin import TokenSession
    from inferd.plugin.session import Float32Array, Int64Array


class Sources:
    """Has what tasks are written of read before they have a place. One writer: the thread of the steps.

    Args:
        session: Of the model.
        activity: Told when something is read.
    """

    def __init__(self, session: TokenSession, activity: Activity) -> None:
        self._session = session if isinstance(session, SourcedSession) else None
        self._activity = activity
        self._unread: dict[int, tuple[Samples, Float32Array, bool]] = {}  # by handle
        self._read: set[int] = set()

    @property
    def waiting(self) -> bool:
        """Whether something is to be read."""
        return bool(self._unread)

    def put(self, task: Samples, array: Float32Array, *, alone: bool) -> None:
        """A task, which may have to run alone, is written of something that is to be read before."""
        self._unread[task.leader.handle] = (task, array, alone)

    def drop(self, handle: int) -> None:
        """A task has ended; nothing to do for one that is written of nothing."""
        self._unread.pop(handle, None)
        if handle in self._read and self._session is not None:
            self._read.remove(handle)
            self._session.forget(handle)

    def next(self) -> tuple[Samples, bool]:
        """The task whose source is read next, of the highest class the first that came; whether it must run alone."""
        handle = min(self._unread, key=lambda each: (-self._unread[each][0].leader.priority, each))
        task, _, alone = self._unread[handle]
        return task, alone

    def read(self, task: Samples) -> None:
        """Read what a task is written of.

        Raises:
            Exception: The session raised.
        """
        handle = task.leader.handle
        _, array, _ = self._unread.pop(handle)
        self._activity.begin(Doing.STEP, array.size)
        if self._session is not None:
            self._read.add(handle)
            self._session.read(handle, array)

    def numbers(self, sequences: Iterable[Sequence]) -> Int64Array | None:
        """What sequences are written of, for `TokenBatch.sources`."""
        if self._session is None:
            return None
        return np.array([sequence.handle for sequence in sequences], np.int64)
