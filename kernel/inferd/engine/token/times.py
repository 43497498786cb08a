"""Tokens that say when something was said, where a decoder may write them.

Source: A. Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, and `ApplyTimestampRules`
of its published code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.plugin.recipe import TimeTokens
    from inferd.plugin.session import Float32Array


class Timing:
    """Where one output stands among its times. One writer: the sampler.

    A text begins with a time; behind words one time comes, which ends them, and then the one at which the next words
    begin, or the end. None is before another, and they come where all of them together are likelier than any word.

    Args:
        times: What holds.
        tokens: Of the output so far, without what it begins with.
    """

    __slots__ = ("_count", "_last", "_latest", "_previous", "_times")

    def __init__(self, times: TimeTokens, tokens: Iterable[int] = ()) -> None:
        self._times = times
        self._count = 0
        self._latest = -1  # the last time that was written
        self._last, self._previous = False, True  # whether the last tokens are times
        for token_id in tokens:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """The output has a new token."""
        is_time = token_id >= self._times.first
        self._previous, self._last = self._last if self._count else True, is_time
        self._count += 1
        if is_time:
            self._latest = token_id

    def apply(self, logits: Float32Array) -> None:
        """Forbid in the logits of the next token, shape (V,), what cannot be there."""
        times = self._times
        first = times.first
        logits[times.silent] = -np.inf
        if self._last and self._previous:
            logits[first:] = -np.inf  # words follow
        elif self._last:
            logits[: times.text_end] = -np.inf  # another time follows, or the end
        if self._latest >= 0:
            same = self._last and not self._previous
            logits[first : self._latest + (0 if same else 1)] = -np.inf
        if not self._count:
            logits[:first] = -np.inf
            if times.most_first is not None:
                logits[first + times.most_first + 1 :] = -np.inf
        words, later = logits[:first], logits[first:]
        most = later.max(initial=-np.inf)
        if most > -np.inf and most + np.log(np.exp(later - most).sum()) > words.max():
            words[:] = -np.inf
