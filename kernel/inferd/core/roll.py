"""Records in the order of a key: found, and read in pages, without a look at the others."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

K = TypeVar("K", int, str)
R = TypeVar("R")

BLOCK = 512  # records of a block at most: moving so many costs less than finding the place of one


class Roll(Generic[K, R]):
    """Records in ascending order of a key that no two of them share. One writer: the owner of the records.

    They lie in blocks, so that one is found by O(log n) keys and nothing but a part of its block is moved for it. New
    records usually have the greatest key; then that costs nothing but an append.

    Args:
        key: Of a record; it never changes.
    """

    def __init__(self, key: Callable[[R], K]) -> None:
        self._key: Callable[[Any], K] = key
        self._blocks: list[list[R]] = []
        self._lasts: list[K] = []  # the greatest key of each block

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, record: R) -> None:
        """Take a record in."""
        key, lasts = self._key(record), self._lasts
        if lasts and key < lasts[-1]:
            at = bisect_left(lasts, key)
            block = self._blocks[at]
            block.insert(bisect_left(block, key, key=self._key), record)
            if len(block) > BLOCK:
                self._split(at)
        elif lasts and len(self._blocks[-1]) < BLOCK:
            self._blocks[-1].append(record)
            lasts[-1] = key
        else:
            self._blocks.append([record])
            lasts.append(key)

    def remove(self, record: R) -> None:
        """Take a record out; it is in."""
        key = self._key(record)
        at = bisect_left(self._lasts, key)
        block = self._blocks[at]
        del block[bisect_left(block, key, key=self._key)]
        if not block:
            del self._blocks[at], self._lasts[at]
        elif key == self._lasts[at]:
            self._lasts[at] = self._key(block[-1])

    def above(self, key: K | None) -> Iterator[R]:
        """The records whose key is greater, ascending; all for None. Not to be changed meanwhile."""
        at, start = 0, 0
        if key is not None:
            at = bisect_right(self._lasts, key)
            if at < len(self._blocks):
                start = bisect_right(self._blocks[at], key, key=self._key)
        for n in range(at, len(self._blocks)):
            block = self._blocks[n]
            for place in range(start, len(block)):
                yield block[place]
            start = 0

    def below(self, key: K | None) -> Iterator[R]:
        """The records whose key is less, descending; all for None. Not to be changed meanwhile."""
        at, end = len(self._blocks) - 1, None
        if key is not None and (found := bisect_left(self._lasts, key)) <= at:
            at, end = found, bisect_left(self._blocks[found], key, key=self._key)
        for n in range(at, -1, -1):
            block = self._blocks[n]
            for place in range((len(block) if end is None else end) - 1, -1, -1):
                yield block[place]
            end = None

    def _split(self, at: int) -> None:
        block = self._blocks[at]
        half = len(block) // 2
        self._blocks[at : at + 1] = [block[:half], block[half:]]
        self._lasts.insert(at, self._key(block[half - 1]))
