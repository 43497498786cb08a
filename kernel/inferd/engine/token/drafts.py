"""Guesses at the next tokens of a sequence, from what it repeats or by a smaller model, which one step then verifies.

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


class Pace:
    """How much is guessed in one way: more where it was right.

    After a guess of which nothing was right it pauses, each time for twice as many steps, so that a text that is not
    guessed costs nothing.

    Args:
        most: Most tokens of a guess.

    Attributes:
        size: Of the next guess.
        pause: Steps of the next pause.
    """

    __slots__ = ("_most", "_wait", "pause", "size")

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = min(_FIRST, most)
        self.pause = 1
        self._wait = 0  # steps left of this pause

    def room(self, most: int) -> int:
        """Tokens of a guess in this step, of `most` that there is room for; 0 for none."""
        if self._wait:
            self._wait -= 1
            return 0
        return max(min(self.size, most), 0)

    def learn(self, *, drafted: int, accepted: int) -> None:
        """Of a guess of so many tokens so many were right."""
        if accepted == drafted:
            self.size = min(2 * self.size, self._most)
        else:
            self.size = min(max(accepted, _FIRST), self._most)
        if accepted:
            self.pause = 1
        else:
            self._wait = self.pause
            self.pause = min(2 * self.pause, _LONGEST_PAUSE)


class Drafter:
    """Guesses for one sequence; the better they were, the more. One writer: the batcher.

    Args:
        most: Most tokens of a guess.
        by_model: Whether a smaller model guesses where the sequence repeats nothing.

    Attributes:
        drafted: Tokens guessed so far.
        accepted: Of these, tokens that were right.
        repeats: The pace of guesses from what it repeats.
        model: That of guesses by a model; None without one.
    """

    __slots__ = ("_asked", "accepted", "drafted", "model", "repeats")

    def __init__(self, *, most: int, by_model: bool = False) -> None:
        self.drafted = self.accepted = 0
        self.repeats = Pace(most)
        self.model = Pace(most) if by_model else None
        self._asked = False  # the model, for the last guess

    def propose(self, tokens: Int32Array, *, most: int) -> Int32Array:
        """What may come next by what was seen, shape (D,) with D at most `most`; D is 0 where nothing is known.

        Args:
            tokens: All tokens so far, shape (T,).
            most: Most tokens that there is room for.
        """
        self._asked = False
        size = self.repeats.room(most)
        return _continuation(tokens, size) if size > 0 else _NOTHING

    def ask(self, *, most: int) -> int:
        """How many tokens a model is to guess, of `most` that there is room for, where `propose` gave none."""
        size = 0 if self.model is None else self.model.room(most)
        self._asked = size > 0
        return size

    def learn(self, *, drafted: int, accepted: int) -> None:
        """Of the last guess, of so many tokens, so many were right."""
        self.drafted += drafted
        self.accepted += accepted
        pace = self.model if self._asked and self.model is not None else self.repeats
        pace.learn(drafted=drafted, accepted=accepted)


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
