"""Alarms: at most one instant for each key, the earliest found at once."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from inferd.core.ranking import Ranking

K = TypeVar("K", bound=Hashable)


class Alarms(Generic[K]):
    """Instants by key. One writer: the kernel machine."""

    def __init__(self) -> None:
        self._ranking: Ranking[K] = Ranking()

    def __len__(self) -> int:
        return len(self._ranking)

    def __contains__(self, key: K) -> bool:
        return key in self._ranking

    def set(self, key: K, when: float) -> None:
        """Set the alarm of `key`, in place of an earlier one."""
        self._ranking.put(key, when)

    def advance(self, key: K, when: float) -> None:
        """Set the alarm of `key`, unless it rings before."""
        if when < self._ranking.number(key, float("inf")):
            self._ranking.put(key, when)

    def cancel(self, key: K) -> None:
        """Forget the alarm of `key`, if there is one."""
        self._ranking.drop(key)

    def next(self) -> float | None:
        """The earliest instant, or None."""
        heap = self._ranking.heap
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> K | None:
        """Take the earliest key whose instant is not after `now`, or None."""
        first = self._ranking.first()
        if first is None or first[0] > now:
            return None
        self._ranking.drop(first[1])
        return first[1]
