"""What the thread of the model is doing, for the thread that answers the kernel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.core.vigil import Doing, Pulse

if TYPE_CHECKING:
    from collections.abc import Callable

_FORGETS: Final = 0.99
"""The slowest turn counts so much less with each that follows: one that compiled is forgotten after some hundred."""


class _Turn(NamedTuple):
    doing: Doing
    size: int  # power of two: turns of one size take about as long
    number: int
    began: float


class Activity:
    """One writer: the thread of the model. `pulse` is for any thread.

    Args:
        now: A monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._turn = _Turn(Doing.STARTING, 0, 0, now())  # replaced as a whole: a reader sees one turn
        self._slowest: dict[tuple[Doing, int], float] = {}

    def begin(self, doing: Doing, size: int = 0) -> None:
        """Something begins, of so many tokens or blocks; what was done before has ended."""
        now, before = self._now(), self._turn
        key, seconds = (before.doing, before.size), now - before.began
        self._slowest[key] = max(seconds, self._slowest.get(key, 0.0) * _FORGETS)
        self._turn = _Turn(doing, size.bit_length(), before.number + 1, now)

    @property
    def doing(self) -> Doing:
        """What is being done."""
        return self._turn.doing

    def advance(self) -> None:
        """What is being done gets on."""
        before = self._turn
        self._turn = before._replace(number=before.number + 1, began=self._now())

    def pulse(self, steps: int) -> Pulse:
        """What is being done now; `steps` have been computed."""
        turn = self._turn
        return Pulse(
            doing=turn.doing,
            turn=turn.number,
            seconds=self._now() - turn.began,
            usual_s=self._slowest.get((turn.doing, turn.size)),
            steps=steps,
        )
