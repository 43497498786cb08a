"""What the thread of the model is doing, for the thread that answers the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from inferd.core.vigil import Doing, Pulse

if TYPE_CHECKING:
    from collections.abc import Callable

_FORGETS: Final = 0.99
"""The slowest turn counts so much less with each that follows: one that compiled is forgotten after some hundred."""


_Turn = tuple[Doing, int, int, float]
"""What is done, the bits of its size (turns of one power of two take about as long), its number, when it began."""


class Activity:
    """One writer: the thread of the model. `pulse` is for any thread.

    Args:
        now: A monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._turn: _Turn = (Doing.STARTING, 0, 0, now())  # replaced as a whole: a reader sees one turn
        self._slowest: dict[tuple[Doing, int], float] = {}

    def begin(self, doing: Doing, size: int = 0) -> None:
        """Something begins, of so many tokens or blocks; what was done before has ended."""
        now = self._now()
        before, bits, number, began = self._turn
        seconds, usual = now - began, self._slowest.get((before, bits), 0.0) * _FORGETS
        self._slowest[before, bits] = max(usual, seconds)
        self._turn = (doing, size.bit_length(), number + 1, now)

    @property
    def doing(self) -> Doing:
        """What is being done."""
        return self._turn[0]

    def advance(self) -> None:
        """What is being done gets on."""
        doing, bits, number, _ = self._turn
        self._turn = (doing, bits, number + 1, self._now())

    def pulse(self, steps: int) -> Pulse:
        """What is being done now; `steps` have been computed."""
        doing, bits, number, began = self._turn
        return Pulse(
            doing=doing,
            turn=number,
            seconds=self._now() - began,
            usual_s=self._slowest.get((doing, bits)),
            steps=steps,
        )
