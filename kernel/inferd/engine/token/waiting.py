"""The sequences that wait for a row."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from inferd.core.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.token.sequence import Sequence
    from inferd.engine.token.turns import Turns

NOBODY = Tenant("")


class Waiting:
    """Sequences without a row, in the order of `Turns`: a line for each tenant of each class. One writer: `Places`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._lines: dict[int, dict[Tenant, list[Sequence]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def classes(self) -> list[int]:
        """The classes of those that wait."""
        return list(self._lines)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        line = self._lines.setdefault(sequence.priority, {}).setdefault(_tenant(sequence), [])
        insort(line, sequence, key=_place)

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence wait no more, if it does."""
        lines = self._lines.get(sequence.priority, {})
        line = lines.get(_tenant(sequence), [])
        at = bisect_left(line, _place(sequence), key=_place)
        if line[at : at + 1] != [sequence]:
            return
        del line[at]
        if not line:
            del lines[_tenant(sequence)]
        if not lines:
            del self._lines[sequence.priority]

    def of(self, handle: int) -> Sequence | None:
        """The first sample of a task, of those that wait; None when none does."""
        lines = (line for tenants in self._lines.values() for line in tenants.values())
        mine = (sequence for line in lines for sequence in line if sequence.handle == handle)
        return min(mine, key=lambda sequence: sequence.sample, default=None)

    def first(self) -> Sequence | None:
        """The one whose turn comes first; None when none waits."""
        return next(self.in_turn(), None) if self._lines else None

    def in_turn(self, *, least: float = float("-inf")) -> Iterator[Sequence]:
        """All of them in turn, or those of a class of `least` or more; ends with the first change."""
        for priority in sorted(self._lines, key=self._turns.group):
            lines = self._lines[priority]
            if priority >= least:
                for tenant in sorted(lines, key=lambda each: self._turns.key(lines[each][0])):
                    yield from lines[tenant]


def _tenant(sequence: Sequence) -> Tenant:
    turn = sequence.place.turn
    return NOBODY if turn is None else turn.share.tenant


def _place(sequence: Sequence) -> tuple[float, int, int]:
    turn = sequence.place.turn
    return 0.0 if turn is None else turn.order, sequence.handle, sequence.sample
