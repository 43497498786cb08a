"""Pictures whose tokens see each other: those of one are computed in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.engine.token.sequence import Sequence


def uncut(sequence: Sequence, begin: int, most: int, *, room: int) -> int:
    """How many tokens of a prompt, from `begin` on, go into a step so that its end cuts no picture.

    Args:
        sequence: Whose prompt it is.
        begin: Its first token that is not computed.
        most: So many may go.
        room: So many may go where a picture needs it.

    Returns:
        At most `most`; more where a picture that begins there needs it, and 0 where there is no room for that.
    """
    for placed in sequence.pictures:
        first, end = int(placed.places[0]), int(placed.places[-1]) + 1
        if first < begin + most < end:
            if first > begin:
                return first - begin
            return end - begin if end - begin <= room else 0
    return most


def least(sequence: Sequence, begin: int) -> int:
    """The fewest tokens of a prompt, from `begin` on, that can go into a step."""
    return uncut(sequence, begin, 1, room=sequence.length)
