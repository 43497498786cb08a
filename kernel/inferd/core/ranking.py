"""Ranking: keys by a number each, the smallest found at once, a changed one forgotten lazily."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Entry = tuple[float, int, K]


class Ranking(Generic[K]):
    """At most one number for each key; of equal ones the key that was put first comes first. One writer: its owner.

    The smallest is asked for more often than it changes: each change costs O(log n), and leaves it on top.

    Attributes:
        heap: Numbers with their keys, the smallest first, changed ones among the others; to be read.
    """

    def __init__(self) -> None:
        self.heap: list[Entry[K]] = []
        self._entries: dict[K, Entry[K]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def put(self, key: K, number: float) -> None:
        """Give `key` this number, in place of an earlier one."""
        self._count += 1  # breaks ties in the order of putting, so that keys are never compared
        entry = self._entries[key] = (number, self._count, key)
        heappush(self.heap, entry)
        if len(self.heap) > 64 + 2 * len(self._entries):  # as many stale ones as live ones: each costs O(1) amortised
            self.heap = list(self._entries.values())
            heapify(self.heap)
        self._skip_stale()

    def drop(self, key: K) -> None:
        """Forget `key`, if it is known."""
        if self._entries.pop(key, None) is not None:
            self._skip_stale()

    def number(self, key: K, default: float) -> float:
        """The number of `key`, or the default if it is not known."""
        found = self._entries.get(key)
        return default if found is None else found[0]

    def first(self) -> tuple[float, K] | None:
        """The smallest number and its key, or None."""
        return (self.heap[0][0], self.heap[0][2]) if self.heap else None

    def _skip_stale(self) -> None:
        heap, entries = self.heap, self._entries
        while heap and entries.get(heap[0][2]) is not heap[0]:
            heappop(heap)
