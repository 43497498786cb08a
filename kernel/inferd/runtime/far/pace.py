"""How long agents are to gather tokens: not at all, unless frames of far workers take too much of the kernel's time."""

from __future__ import annotations

LOOK_S = 0.25  # between two looks
MOST_SHARE = 0.15
"""Of the time of the loop, that may go into what far workers tell. A message costs about as much again before it is
taken, and what clients are sent of it another time."""
LEAST_SHARE = 0.04  # below it less is gathered
LEAST_S = 0.004  # the first step of gathering
FASTER = 2.0  # from one look to the next
MOST_LOOKS = 16  # that are made up for: enough for the longest time to become none


class Pace:
    """One writer: the far workers of a kernel, on its loop.

    Steps of several hundred workers come each as a message, while those of one worker that computes as many streams are
    one for all. So a kernel that is behind has each worker's steps come together, as it reads those of its own workers
    together then (`runtime.link`): the time is doubled until that is enough, and halved again when it is not needed.

    Args:
        most_s: The longest time; 0 for none at all.
        now: On the clock of the loop.

    Attributes:
        gather_us: That time, in microseconds.
    """

    def __init__(self, most_s: float = 0.0, now: float = 0.0) -> None:
        self.gather_us = 0
        self._most_s = most_s
        self._gather_s = 0.0
        self._spent_s = 0.0
        self._looked_at = now

    def note(self, spent_s: float, now: float) -> None:
        """Taking what has come took so long.

        Args:
            spent_s: That, in seconds.
            now: On the clock of the loop.
        """
        self._spent_s += spent_s
        past_s = now - self._looked_at
        if past_s < LOOK_S:
            return
        share = self._spent_s / past_s
        self._spent_s, self._looked_at = 0.0, now
        if share > MOST_SHARE:
            self._gather_s = min(self._most_s, max(LEAST_S, self._gather_s * FASTER))
        elif share < LEAST_SHARE:
            for _ in range(min(MOST_LOOKS, int(past_s / LOOK_S))):  # where nothing came, nobody has looked
                self._gather_s = self._gather_s / FASTER if self._gather_s > LEAST_S else 0.0
        self.gather_us = round(self._gather_s * 1e6)
