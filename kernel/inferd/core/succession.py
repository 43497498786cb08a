"""When a kernel that stands by may try to lead: pure, from what it sees of the lock and of who leads."""

from dataclasses import dataclass
from enum import Enum, auto

HELD_UP = 0.5  # part of the silence: who has not looked for longer was held up itself, and what it saw last is old


class Step(Enum):
    """What is to be done."""

    WAIT = auto()
    TRY = auto()  # the lock is free, and nobody is about to have it again
    END = auto()  # who has it is silent: its epoch is to be ended, and then this kernel may try


@dataclass(slots=True, eq=False)
class Succession:
    """Looks at who leads, again and again. One writer: the kernel that stands by.

    A leader whose connection was cut has it again within a beat or two, and is let. One that is silent has the lock for
    as long as its connection lasts; its silence counts only while this kernel itself looked on.

    Args:
        grace_s: How long a free lock is left to who leads.
        silence_s: How long a leader may tell nothing.
    """

    grace_s: float
    silence_s: float
    _looked: float | None = None
    _since: float = 0.0  # when it began to look on without a gap
    _free: float | None = None  # since when nobody has the lock

    def look(self, now: float, *, holder: int, age_s: float | None) -> Step:
        """What is to be done at `now`, in seconds that never fall.

        Args:
            now: On this kernel's own clock.
            holder: The server's process that has the lock; 0 for nobody.
            age_s: How long who has the lock, or else who leads, has told nothing; None where that is not known.
        """
        if self._looked is None:
            self._since, self._free = now, None
        elif now - self._looked > HELD_UP * self.silence_s:
            self._since = now  # a lock that is free before and after is nobody's
        self._looked = now
        if holder:
            self._free = None
            silent = age_s is not None and age_s > self.silence_s
            return Step.END if silent and now - self._since >= self.silence_s else Step.WAIT
        self._free = now if self._free is None else self._free
        free_s = now - self._free
        gone = free_s >= self.grace_s if age_s is None else age_s > self.grace_s
        return Step.TRY if gone or free_s >= self.silence_s else Step.WAIT

    def blind(self) -> None:
        """Nothing could be seen."""
        self._looked = None
