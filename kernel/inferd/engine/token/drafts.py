"""Guesses at the next tokens of a sequence from what it repeats, which one step then verifies.

Prompt lookup: A. Saxena, Prompt Lookup Decoding, 2023, https://github.com/apoorvumang/prompt-lookup-decoding. What the
step does not confirm is thrown away, so that guesses change the speed of an output and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from inferd.plugin.session import Int32Array

_GRAMS: Final = (4, 3)  # how many of the last tokens are looked for, the most first
_FIRST: Final = 2  # tokens of the first guess
_LONGEST_PAUSE: Final = 256  # steps
_NOTHING: Final = np.zeros(0, np.int32)


class Drafter:
    """Guesses for one sequence; the better they were, the more. One writer: the batcher.

    After a guess of which nothing was right it pauses, each time for twice as many steps, so that a text that repeats
    nothing costs nothing.

    Args:
        most: Most tokens of a guess.

    Attributes:
        drafted: Tokens guessed so far.
        accepted: Of these, tokens that were right.
    """

    __slots__ = ("_most", "_pause", "_size", "_wait", "accepted", "drafted")

    def __init__(self, *, most: int) -> None:
        self.drafted = self.accepted = 0
        self._most = most
        self._size = min(_FIRST, most)
        self._pause = 1  # steps of the next pause
        self._wait = 0  # steps left of this one

    def propose(self, tokens: Int32Array, *, most: int) -> Int32Array:
        """What may come next, shape (D,) with D at most `most`; D is 0 where nothing is known.

        Args:
            tokens: All tokens so far, shape (T,).
            most: Most tokens that there is room for.
        """
        if self._wait:
            self._wait -= 1
            return _NOTHING
        size = min(self._size, most)
        return _continuation(tokens, size) if size > 0 else _NOTHING

    def learn(self, *, drafted: int, accepted: int) -> None:
        """Of a guess of so many tokens so many were right."""
        self.drafted += drafted
        self.accepted += accepted
        if accepted == drafted:
            self._size = min(2 * self._size, self._most)
        else:
            self._size = min(max(accepted, _FIRST), self._most)
        if accepted:
            self._pause = 1
        else:
            self._wait = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _continuation(tokens: Int32Array, size: int) -> Int32Array:
    """What followed when the last tokens were seen the last time: of those where all `size` tokens follow, if any."""
    for gram in _GRAMS:
        ends = len(tokens) - gram
        if ends < 1:
            continue
        matches = tokens[:ends] == tokens[ends]
        for offset in range(1, gram):
            matches &= tokens[offset : ends + offset] == tokens[ends + offset]
        places = np.flatnonzero(matches) + gram
        if places.size:
            whole = places[places + size <= len(tokens)]
            begin = int(whole[-1] if whole.size else places[0])
            return tokens[begin : begin + size]
    return _NOTHING
