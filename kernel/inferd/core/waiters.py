"""Those who wait for capacity, in lines: one line for each thing that they need."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable
from operator import itemgetter
from typing import Generic, TypeVar

from inferd.errors import present

K = TypeVar("K", bound=Hashable)


class Waiters(Generic[K]):
    """Waiters in lines, all in one order. One writer: the kernel machine.

    A waiter stands in a line for each thing that it needs, and goes when it is the first in all of them, or when what
    it takes is nothing that those before it wait for; whoever serves the lines sees to that (`Capacity`). So a large
    claim is not passed by small ones for ever, and those who need other things do not wait for it. Each rank is given
    once and never changes: it is the time of arrival less so much for each class, and whoever comes that much later
    goes behind, whatever its class. That bounds every wait by what stood before and what came within that time.

    Attributes:
        moved: Lines where others stand that somebody came into or left, until they are taken from here.
    """

    def __init__(self) -> None:
        self.moved: dict[str, None] = {}
        self._lines: dict[str, list[tuple[float, int, K]]] = {}
        self._places: dict[K, tuple[tuple[str, ...], tuple[float, int, K]]] = {}
        self._since: dict[K, float] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: K) -> bool:
        return key in self._places

    def add(self, key: K, lines: tuple[str, ...], rank: float, now: float) -> None:
        """Put a waiter into its lines; among equal ranks first come goes first."""
        self._count += 1
        self._since[key] = now
        place = (rank, self._count, key)
        self._places[key] = (lines, place)
        for line in lines:
            waiting = self._lines.setdefault(line, [])
            insort(waiting, place)
            if len(waiting) > 1:
                self.moved[line] = None

    def remove(self, key: K) -> tuple[str, ...]:
        """Take a waiter out of its lines, if it stands in any; these lines."""
        lines, place = self._places.pop(key, ((), None))
        self._since.pop(key, None)
        for line in lines:
            waiting = self._lines[line]
            del waiting[bisect_left(waiting, present(place))]
            if waiting:
                self.moved[line] = None
            else:
                del self._lines[line]
        return lines

    def lines_of(self, key: K) -> tuple[str, ...]:
        """The lines that a waiter stands in; none when it does not wait."""
        return self._places[key][0] if key in self._places else ()

    def first(self, line: str) -> K | None:
        """The first in a line, if it is the first in all of its lines; else None."""
        waiting = self._lines.get(line)
        if not waiting:
            return None
        key = waiting[0][2]
        lines, _ = self._places[key]
        return key if all(self._lines[other][0][2] == key for other in lines) else None

    def rank(self, key: K) -> float:
        """Where a waiter stands."""
        return self._places[key][1][0]

    def since(self, line: str, most: int) -> float:
        """When the one came that has waited longest of the first in a line, so many at most; there is one."""
        return min(self._since[key] for _, _, key in self._lines[line][:most])

    def head(self, line: str) -> K | None:
        """The first in a line, whether or not it is the first in its others."""
        waiting = self._lines.get(line)
        return waiting[0][2] if waiting else None

    def front(self, line: str, most: int) -> list[K]:
        """The first ones in a line, so many at most."""
        return [key for _, _, key in self._lines.get(line, ())[:most]]

    def before(self, line: str, rank: float, most: int, *, key: K | None = None) -> list[K] | None:
        """Who stands in a line before a waiter, or would stand before a newcomer; None for more than `most`.

        Args:
            line: The line.
            rank: Of the newcomer.
            most: So many at most.
            key: The waiter; then its own place counts.
        """
        waiting = self._lines.get(line, [])
        at = (
            bisect_right(waiting, rank, key=itemgetter(0))
            if key is None
            else bisect_left(waiting, self._places[key][1])
        )
        return None if at > most else [each for _, _, each in waiting[:at]]

    def line(self, line: str) -> tuple[K, ...]:
        """All who stand in a line, first to last."""
        return tuple(key for _, _, key in self._lines.get(line, ()))

    def position(self, key: K) -> int:
        """How many stand before a waiter in its longest line; 0 when it does not wait."""
        if key not in self._places:
            return 0
        lines, place = self._places[key]
        return max(bisect_left(self._lines[line], place) for line in lines)
