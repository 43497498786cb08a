"""What the events of all tasks that have not ended may cost together, and which give up some when it is too much."""

from collections import OrderedDict
from typing import Protocol

RANKS = 64  # more than the binary digits of any size


class Holder(Protocol):
    """What holds events."""

    def halve(self) -> None:
        """Give up at least one event and half of what can be given up, the oldest first; and tell of that `change`."""


class EventBudget:
    """What holders have together, against a bound. One writer: the streams of the driver.

    Beyond the bound the one that could give up the most, within a factor of two, gives up the older half of it, until
    all is within the bound or none can give up anything. So a task that holds little loses nothing because of one that
    holds much, and of one that holds much what a watcher has not read yet goes last. Each operation is O(1).

    Attributes:
        held_bytes: What all of them cost.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes
        self._ranked: dict[Holder, int] = {}
        self._ranks = [OrderedDict[Holder, None]() for _ in range(RANKS)]  # by binary digits of what they could give up

    def change(self, holder: Holder, by_bytes: int, spare_bytes: int) -> None:
        """A holder has so much more, or less, and could now give up so much in all."""
        self.held_bytes += by_bytes
        rank = spare_bytes.bit_length()
        if rank != self._ranked.get(holder, 0):
            self._ranks[self._ranked.get(holder, 0)].pop(holder, None)
            self._ranks[rank][holder] = None
            self._ranked[holder] = rank

    def leave(self, holder: Holder, held_bytes: int) -> None:
        """What a holder has counts no longer."""
        self.held_bytes -= held_bytes
        self._ranks[self._ranked.pop(holder, 0)].pop(holder, None)

    def enforce(self) -> None:
        """Let holders give up some of theirs until all is within the bound."""
        while self.held_bytes > self._limit_bytes and (largest := self._largest()) is not None:
            largest.halve()

    def _largest(self) -> Holder | None:
        return next((next(iter(ranked)) for ranked in reversed(self._ranks[1:]) if ranked), None)
