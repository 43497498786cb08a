"""Ranking: keys by a number each, the smallest found in O(log n), a changed one forgotten lazily."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Ranking(Generic[K]):
    """At most one number for each key; of equal ones the key that was put first comes first. One writer: its owner."""

    def __init__(self) -> None:
        self._rank: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._rank)

    def __contains__(self, key: K) -> bool:
        return key in self._rank

    def put(self, key: K, number: float) -> None:
        """Give `key` this number, in place of an earlier one."""
        self._count += 1  # breaks ties in the order of putting, so that keys are never compared
        self._rank[key] = (number, self._count)
        heappush(self._heap, (number, self._count, key))
        if len(self._heap) > 64 + 2 * len(self._rank):  # as many stale entries as live ones: each costs O(1) amortised
            self._heap = [(number, count, k) for k, (number, count) in self._rank.items()]
            heapify(self._heap)

    def drop(self, key: K) -> None:
        """Forget `key`, if it is known."""
        self._rank.pop(key, None)

    def number(self, key: K, default: float) -> float:
        """The number of `key`, or the default if it is not known."""
        found = self._rank.get(key)
        return default if found is None else found[0]

    def first(self) -> tuple[float, K] | None:
        """The smallest number and its key, or None."""
        heap = self._heap
        while heap and self._rank.get(heap[0][2]) != heap[0][:2]:
            heappop(heap)
        return (heap[0][0], heap[0][2]) if heap else None
