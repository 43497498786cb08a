"""Mirostat 2: tokens as surprising as is asked for. S. Basu et al., arXiv:2007.14966, as llama.cpp has it.

What it goes by changes with each token, and follows from the tokens that were told: a sequence that goes on where
nothing else is known of it has the logits before each of them computed again, and learns from them what it had learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.token.rules import RuledRow, change

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.engine.token.rules import Rules
    from inferd.plugin.session import Float32Array, Int32Array
    from inferd.sampling import Sampling

    Ids = NDArray[np.intp]
    Floats = NDArray[np.float64]

_DEEPEST: Final = 745.0  # e to the minus of more is 0, and takes long


class Surprise:
    """What one sequence goes by. One writer: the thread of the steps.

    Args:
        aim: Bits of surprise that are aimed at, how fast, and the temperature.
        rules: What changes its logits; None for nothing.
        tokens: Of prompt and output, as they come, shape (T,).
        prompt_tokens: How many of them are the prompt's.

    Attributes:
        bound: Tokens of more bits of surprise are left out, all but the likeliest one.
        known: Tokens of the output that it has learned from.
    """

    __slots__ = ("_eta", "_heat", "_prompt_tokens", "_row", "_rules", "_tau", "_tokens", "bound", "known")

    def __init__(
        self, aim: tuple[float, float, float], *, rules: Rules | None, tokens: Int32Array, prompt_tokens: int
    ) -> None:
        self._tau, self._eta, self._heat = aim
        self._rules, self._tokens, self._prompt_tokens = rules, tokens, prompt_tokens
        self._row: RuledRow | None = None  # while tokens are learned from again
        self.bound = 2 * self._tau
        self.known = 0

    @classmethod
    def of(cls, sampling: Sampling, *, rules: Rules | None, tokens: Int32Array, prompt_tokens: int) -> Surprise | None:
        """What a sequence goes by; None where it does not."""
        aim = sampling.aim
        return None if aim is None else cls(aim, rules=rules, tokens=tokens, prompt_tokens=prompt_tokens)

    def pick(self, logits: Float32Array, point: float) -> int:
        """The token at `point`, in [0, 1), of what is left of a row, shape (V,); it is learned from."""
        ids, shares = self.leave(logits)
        sums = shares.cumsum()
        place = min(int(np.searchsorted(sums, point * sums[-1], side="right")), len(ids) - 1)
        self._learn(float(shares[place]))
        return int(ids[place])

    def leave(self, logits: Float32Array) -> tuple[Ids, Floats]:
        """The tokens that are left of a row, by id, and their probabilities."""
        ids: Ids = np.flatnonzero(logits > -np.inf)
        values = logits[ids].astype(np.float64)
        depths = (values.max() - values) / self._heat
        near = depths < _DEEPEST
        ids, depths = ids[near], depths[near]
        shares = np.exp(-depths)
        kept = shares / shares.sum() >= 2.0 ** -max(self.bound, -1000.0)
        kept[depths.argmin()] = True
        return ids[kept], shares[kept] / shares[kept].sum()

    def add(self, logits: Float32Array, begin: int) -> None:
        """Learn again from tokens that were told: logits of the positions from `begin` on, shape (R, V)."""
        if self._rules is not None and (self._row is None or begin == self._prompt_tokens - 1):
            told = self._tokens[: begin + 1]
            self._row = RuledRow(self._rules, tokens=told, prompt_tokens=self._prompt_tokens)
        for place in range(len(logits)):
            position, row = begin + place + 1, logits[place : place + 1].copy()
            token_id = int(self._tokens[position])
            if self._row is not None:
                change(row, [self._row], np.array([position], np.int32), None)
                self._row.add(token_id)
            if not np.isfinite(row.max()):  # nothing is to be learned of it; where it is chosen from, its task ends
                self.known += 1
                continue
            ids, shares = self.leave(row[0])
            found = shares[ids == token_id]
            self._learn(float(found[0]) if found.size else float(shares.min()))

    def count(self, begin: int, end: int, length: int) -> tuple[int, int]:
        """The first of the positions from `begin` up to `end` that it has to learn from, and how many there are.

        Args:
            begin: The first position that is computed.
            end: The one behind the last.
            length: Tokens of the sequence; what the last one is followed by is chosen.
        """
        first = max(begin, self.first)
        return first, max(0, min(end, length - 1) - first)

    @property
    def first(self) -> int:
        """The first position whose logits it has not seen."""
        return self._prompt_tokens - 1 + self.known

    def _learn(self, share: float) -> None:
        self.bound -= self._eta * (-np.log2(share) - self._tau)
        self.known += 1
