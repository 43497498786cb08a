"""Penalties on tokens that a sequence holds already.

Repetition is that of CTRL (N. S. Keskar et al., arXiv:1909.05858), over prompt and output; frequency and presence are
those of the OpenAI API, over the output.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.plugin.session import Float32Array, Int32Array

_ROOM: Final = 64  # tokens that a sequence may come to hold before its table grows


class Penalties:
    """The distinct tokens of one sequence and how often its output holds each. One writer: the sampler.

    Args:
        repetition: Divides positive and multiplies negative logits of tokens of prompt and output.
        frequency: Is taken once for each time that the output holds a token.
        presence: Is taken once if the output holds a token.
        prompt: Tokens of the prompt, shape (P,).
        output: Tokens produced so far, shape (O,).
        window: How many of the last tokens are looked at, and at most so many are given; 0 for all.
    """

    __slots__ = ("_counts", "_held", "_ids", "_last", "_places", "_read", "frequency", "presence", "repetition")

    def __init__(
        self,
        *,
        repetition: float,
        frequency: float,
        presence: float,
        prompt: Int32Array,
        output: Int32Array,
        window: int = 0,
    ) -> None:
        self.repetition, self.frequency, self.presence = repetition, frequency, presence
        known, held = np.unique(prompt if repetition != 1 else prompt[:0], return_counts=True)
        self._places = {token_id: place for place, token_id in enumerate(known.tolist())}
        self._ids = np.concatenate((known, np.zeros(_ROOM, np.int32)))
        self._counts = np.zeros(len(self._ids), np.int32)  # in the output
        self._held = np.concatenate((held.astype(np.int32), np.zeros(_ROOM, np.int32)))  # in the prompt, too
        self._last = deque(prompt.tolist(), maxlen=window) if window else None
        self._read = len(prompt)  # how many of these are the prompt's
        for token_id in output.tolist():
            self.add(token_id)

    @property
    def ids(self) -> Int32Array:
        """The distinct tokens, shape (D,)."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Int32Array:
        """How often the output holds each of `ids`."""
        return self._counts[: len(self._places)]

    @property
    def held(self) -> Int32Array:
        """How often prompt and output hold each of `ids`."""
        return self._held[: len(self._places)]

    def add(self, token_id: int) -> None:
        """The output has a new token."""
        if self._last is not None:
            self._slide(self._last, token_id)
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            self._ids, self._counts, self._held = (
                np.concatenate((c, np.zeros_like(c))) for c in (self._ids, self._counts, self._held)
            )
        self._ids[place] = token_id
        self._counts[place] += 1
        self._held[place] += 1

    def _slide(self, last: deque[int], token_id: int) -> None:
        """A new token goes into the window, and the first one of a full one out of it."""
        if len(last) == last.maxlen:
            place = self._places.get(last[0])
            if place is not None:  # tokens of the prompt are no matter without a penalty on them
                self._held[place] -= self.repetition != 1 or not self._read
                self._counts[place] -= not self._read
            self._read = max(0, self._read - 1)
        last.append(token_id)


def penalize(logits: Float32Array, penalties: Sequence[Penalties | None]) -> None:
    """Change the logits, shape (R, V), by the penalties of each row: repetition, then frequency and presence."""
    held = [(row, each) for row, each in enumerate(penalties) if each is not None]
    if not held:
        return
    sizes = [len(each.ids) for _, each in held]
    rows = np.repeat([row for row, _ in held], sizes)
    ids = np.concatenate([each.ids for _, each in held])
    counts = np.concatenate([each.counts for _, each in held])
    repetition, frequency, presence = (
        np.repeat(np.array(column, np.float64), sizes)
        for column in zip(*((each.repetition, each.frequency, each.presence) for _, each in held), strict=True)
    )
    values = logits[rows, ids].astype(np.float64)
    repetition = np.where(np.concatenate([each.held for _, each in held]) > 0, repetition, 1)
    values = np.where(values > 0, values / repetition, values * repetition)
    logits[rows, ids] = values - frequency * counts - presence * (counts > 0)
