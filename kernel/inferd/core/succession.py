"""When a kernel that stands by may try to lead: pure, from what it sees of the lock and of who leads."""

from dataclasses import dataclass
from enum import Enum, auto

HELD_UP = 0.5  # part of the silence: between two looks that are further apart something was held up, nobody knows what
UNSEEN = 0.25  # part of the silence that such a gap counts for, however long it was
SAME_S = 1e-3  # two times that differ by less are one


class Step(Enum):
    """What is to be done."""

    WAIT = auto()
    TRY = auto()  # the lock is free, and nobody is about to have it again
    END = auto()  # who has it is silent: its epoch is to be ended, and then this kernel may try


@dataclass(slots=True, eq=False)
class Succession:
    """Looks at who leads, again and again. One writer: the kernel that stands by.

    A leader whose connection was cut has it again within a beat or two, and is let. One that is silent has the lock for
    as long as its connection lasts; its silence counts only while this kernel itself looked on, and where looks are far
    apart, as each takes long, a part of the time between them: so it takes some of them.

    Args:
        grace_s: How long a free lock is left to who leads.
        silence_s: How long a leader may tell nothing.
    """

    grace_s: float
    silence_s: float
    _looked: float | None = None
    _told: float = float("-inf")  # when who has the lock told its last word
    _silent_s: float = 0.0  # since then, as far as this kernel looked on
    _free: float | None = None  # since when nobody has the lock

    def look(self, now: float, *, holder: int, age_s: float | None) -> Step:
        """What is to be done.

        Args:
            now: In seconds, on the clock by which `age_s` was measured: the store's.
            holder: The server's process that has the lock; 0 for nobody.
            age_s: How long who has the lock, or else who leads, has told nothing; None where that is not known.
        """
        if self._looked is None:
            self._free = None
        if age_s is not None:
            self._listen(now, age_s)
        self._looked = now
        if holder:
            self._free = None
            silent = age_s is not None and age_s > self.silence_s and self._silent_s >= self.silence_s
            return Step.END if silent else Step.WAIT
        self._free = now if self._free is None else self._free
        free_s = now - self._free
        gone = free_s >= self.grace_s if age_s is None else age_s > self.grace_s
        return Step.TRY if gone or free_s >= self.silence_s else Step.WAIT

    def _listen(self, now: float, age_s: float) -> None:
        passed_s = 0.0 if self._looked is None else max(0.0, now - self._looked)
        gap = passed_s > HELD_UP * self.silence_s
        if now - age_s > self._told + SAME_S:  # a word that is new
            self._told = now - age_s
            self._silent_s = 0.0 if gap else min(passed_s, age_s)
        else:
            self._silent_s += UNSEEN * self.silence_s if gap else passed_s

    def blind(self) -> None:
        """Nothing could be seen; what can be next may be told by another clock, as of a database that took over."""
        self._looked, self._told, self._silent_s = None, float("-inf"), 0.0
