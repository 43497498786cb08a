"""Alarms: at most one instant for each key, the earliest found in O(log n), a changed one forgotten lazily."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Alarms(Generic[K]):
    """Instants by key. One writer: the kernel machine."""

    def __init__(self) -> None:
        self._when: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, key: K) -> bool:
        return key in self._when

    def set(self, key: K, when: float) -> None:
        """Set the alarm of `key`, in place of an earlier one."""
        self._count += 1  # breaks ties in the order of setting, so that keys are never compared
        self._when[key] = (when, self._count)
        heappush(self._heap, (when, self._count, key))
        if len(self._heap) > 64 + 2 * len(self._when):  # as many stale entries as live ones: each costs O(1) amortised
            self._heap = [(at, count, k) for k, (at, count) in self._when.items()]
            heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget the alarm of `key`, if there is one."""
        self._when.pop(key, None)

    def next(self) -> float | None:
        """The earliest instant, or None."""
        while self._heap and self._stale(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> K | None:
        """Take the earliest key whose instant is not after `now`, or None."""
        first = self.next()
        if first is None or first > now:
            return None
        key = heappop(self._heap)[2]
        del self._when[key]
        return key

    def _stale(self, entry: tuple[float, int, K]) -> bool:
        return self._when.get(entry[2]) != entry[:2]
