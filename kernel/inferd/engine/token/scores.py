"""How likely the tokens of a prompt were, as they are computed part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.engine.token.logprobs import join, measure

if TYPE_CHECKING:
    from inferd.core.task_events import Logprobs
    from inferd.plugin.session import Float32Array, Int32Array


class PromptScores:
    """Gathers what is told of the prompt of one sequence. One writer: the thread of the steps.

    Args:
        prompt: Token ids, shape (P,).
        top: How many of the likeliest tokens to tell beside each.
    """

    def __init__(self, prompt: Int32Array, top: int) -> None:
        self._prompt = prompt
        self._top = top
        self._told: list[Logprobs] = []

    def count(self, begin: int, end: int) -> int:
        """How many of the positions from `begin` up to `end` have a token of the prompt behind them."""
        return max(0, min(end, len(self._prompt) - 1) - begin)

    def add(self, logits: Float32Array, begin: int) -> None:
        """Take the logits of the positions from `begin` on, shape (R, V); what is known already is passed over."""
        known = len(self._told) - begin
        expected = self._prompt[begin + known + 1 : begin + len(logits) + 1]
        self._told += measure(logits[known:], expected, [self._top] * len(expected))

    def tell(self) -> Logprobs:
        """All that was gathered."""
        return join(self._told)
