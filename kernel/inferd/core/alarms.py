"""Alarms: at most one instant for each key, the earliest found at once."""

from collections.abc import Hashable
from typing import TypeVar

from inferd.core.ranking import Ranking

K = TypeVar("K", bound=Hashable)


class Alarms(Ranking[K]):
    """Instants by key: a ranking by when they ring. One writer: the kernel machine."""

    set = Ranking.put
    cancel = Ranking.drop

    def advance(self, key: K, when: float) -> None:
        """Set the alarm of `key`, unless it rings before."""
        if when < self.number(key, float("inf")):
            self.put(key, when)

    def next(self) -> float | None:
        """The earliest instant, or None."""
        return self.heap[0][0] if self.heap else None

    def pop_due(self, now: float) -> K | None:
        """Take the earliest key whose instant is not after `now`, or None."""
        if not self.heap or self.heap[0][0] > now:
            return None
        key = self.heap[0][2]
        self.drop(key)
        return key
