"""Sequences whose grammar does not answer in time: they wait aside, without a place, and delay nobody."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.token.grammar import Following, Grammars
    from inferd.engine.token.places import Places
    from inferd.engine.token.room import Room
    from inferd.engine.token.sequence import Sequence


class Aside:
    """Those who wait, and what sees to the grammars they wait for. One writer: the thread of the steps.

    Args:
        grammars: Of the model.
        following: Asks the constraints of those who do not wait.
        places: Of those who do not wait.
        command: Has the thread of the steps do something before its next step; called from any thread.
        go_on: Called, in that thread, with each sequence that waits no more.
    """

    def __init__(
        self,
        grammars: Grammars,
        following: Following,
        places: Places,
        *,
        command: Callable[[Callable[[], None]], None],
        go_on: Callable[[Sequence], None],
    ) -> None:
        self.following = following
        self._grammars = grammars
        self._places = places
        self._command = command
        self._go_on = go_on
        self._sequences: set[Sequence] = set()
        following.hear_out = self._see_to

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence: object) -> bool:
        return sequence in self._sequences

    def put_if_waiting(self, sequence: Sequence) -> bool:
        """Let a sequence wait for which no token was left, if its grammar did not answer, or is complete."""
        constraint = sequence.constraint
        waits = constraint is not None and (constraint.late or constraint.complete) and not constraint.failed
        if waits:
            self.put(sequence)
        return waits

    def put(self, sequence: Sequence) -> None:
        """Let a sequence wait, without a place, until its constraint can be asked."""
        self._places.remove(sequence)
        self._sequences.add(sequence)
        constraint = sequence.constraint
        if constraint is not None and (constraint.refuted or not constraint.late):
            self._command(partial(self._release, sequence))

    def decide(self, sequence: Sequence) -> bool:
        """Whether it is known what its last token did to a sequence without a place; else it waits for that."""
        known = sequence.constraint is None or self.following.decide(sequence.constraint)
        if not known:
            self.put(sequence)
        return known

    def forget(self, sequence: Sequence) -> None:
        """A sequence is over."""
        self._sequences.discard(sequence)
        if sequence.constraint is not None:
            self._grammars.close(sequence.constraint)

    def _see_to(self, room: Room) -> None:
        """See to a room that is late, beside the steps."""
        self._grammars.hear_out(room, lambda: self._command(partial(self._heard_out, room)))

    def _heard_out(self, room: Room) -> None:
        room.late = False
        if not room.gone:
            room.sweep()
        for sequence in [each for each in self._sequences if each.constraint and each.constraint.room is room]:
            self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence in self._sequences:
            self._sequences.remove(sequence)
            self._go_on(sequence)
