"""How likely the tokens of a prompt were, as they are computed part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from inferd.engine.token.logprobs import find_entropies, join, measure

if TYPE_CHECKING:
    from inferd.core.task_events import Logprobs
    from inferd.plugin.session import Float32Array, Int32Array
    from inferd.sampling import Sampling


class PromptScores:
    """Gathers what is told of the prompt of one sequence. One writer: the thread of the steps.

    Args:
        prompt: Token ids, shape (P,).
        top: How many of the likeliest tokens to tell beside each.
        last: Of how many of its last tokens it is told; None for all but the first.
        entropies: Whether the entropy at each of them is told, too.

    Attributes:
        first: The first position whose logits are wanted; those before it need not be computed.
        entropies: Of the model's distribution at each token, in nats; where they are told.
    """

    def __init__(self, prompt: Int32Array, top: int, *, last: int | None = None, entropies: bool = False) -> None:
        self._prompt = prompt
        self._top = top
        self._measures = entropies
        self._told: list[Logprobs] = []
        self.first = 0 if last is None else max(0, len(prompt) - last - 1)
        self.entropies: list[float] = []

    @classmethod
    def of(cls, prompt: Int32Array, sampling: Sampling) -> Self | None:
        """What gathers what is asked for; None where that is nothing."""
        if sampling.prompt_logprobs is None:
            return None
        last, entropies = sampling.prompt_logprobs_last, sampling.prompt_entropies
        return cls(prompt, sampling.prompt_logprobs, last=last, entropies=entropies)

    def count(self, begin: int, end: int) -> tuple[int, int]:
        """The first of the positions from `begin` up to `end` whose logits are wanted, and how many there are.

        They have a token of the prompt behind them.
        """
        first = max(begin, self.first)
        return first, max(0, min(end, len(self._prompt) - 1) - first)

    def add(self, logits: Float32Array, begin: int) -> None:
        """Take the logits of the positions from `begin` on, shape (R, V); what is known already is passed over."""
        known = len(self._told) - (begin - self.first)
        expected = self._prompt[begin + known + 1 : begin + len(logits) + 1]
        self._told += measure(logits[known:], expected, [self._top] * len(expected))
        if self._measures:
            self.entropies += find_entropies(logits[known:])

    def tell(self) -> Logprobs:
        """All that was gathered."""
        return join(self._told)
