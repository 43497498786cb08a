"""What was used within a time that moves on: in slots, so that it takes little memory however much was counted."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOTS = 60  # of a window


class Window:
    """A sum over the last `seconds`, one that never counts less than that: a slot leaves it as a whole, at its end.

    One writer: its `Book`.

    Args:
        seconds: How long it is.
    """

    __slots__ = ("_slot_s", "_slots", "seconds", "used")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.used = 0.0
        self._slot_s = seconds / SLOTS
        self._slots: deque[list[float]] = deque()  # number and sum of each, in their order

    def __bool__(self) -> bool:
        """Whether anything is counted."""
        return bool(self._slots)

    def add(self, amount: float, now: float) -> None:
        """Count an amount, at a time that is not before the last one."""
        self.pass_to(now)
        if not amount:
            return
        number = now // self._slot_s
        if self._slots and self._slots[-1][0] >= number:
            self._slots[-1][1] += amount
        else:
            self._slots.append([number, amount])
        self.used += amount

    def take_back(self, amount: float, then: float) -> None:
        """Count no more what was counted at a time; what has left the window is not counted anyway."""
        number = then // self._slot_s
        for slot in self._slots:
            if slot[0] == number:
                taken = min(amount, slot[1])
                slot[1] -= taken
                self.used -= taken

    def pass_to(self, now: float) -> None:
        """Leave out what is over by now."""
        while self._slots and self._end(self._slots[0][0]) <= now:
            self.used -= self._slots.popleft()[1]
        if not self._slots:
            self.used = 0.0  # and no rest of rounding

    def wait_s(self, room: float, now: float) -> float:
        """Seconds until no more than `room` of what is counted now is left."""
        left, end = self.used, now
        for number, amount in self._slots:
            if left <= room:
                break
            left -= amount
            end = self._end(number)
        return max(0.0, end - now)

    def _end(self, number: float) -> float:
        """When a slot is over for the window."""
        return (number + 1) * self._slot_s + self.seconds

    def slots(self) -> tuple[tuple[float, float], ...]:
        """When each slot began, and its sum."""
        return tuple((number * self._slot_s, amount) for number, amount in self._slots)

    def restore(self, slots: Iterable[tuple[float, float]], now: float) -> None:
        """Count what was counted by another window before: instants, none later than now, and sums."""
        for began, amount in sorted(slots):
            self.add(amount, min(began, now))
        self.pass_to(now)
