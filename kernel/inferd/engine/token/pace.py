"""How long steps take, and so how much of a prompt fits into one without stalling the streams beside it."""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.3
"""How much of the error of a prediction the newest step takes away."""

_PLANNED: Final = 0.45
"""How much of the bound is planned for: the times of steps scatter, and the longest ones must keep it too."""

_WAIT: Final = 0.65
"""How much of the bound those that decode may wait for a step without them."""

_FIXED: Final = 32
"""Tokens that weigh as much as what every step takes, whatever is in it: reading the weights, above all."""


class Pace:
    """Predicts the time of a step: so much for any, for each token that decodes and for each token of a prompt.

    Each measured step corrects all three by their share in the error (the normalised LMS rule: B. Widrow, M. E. Hoff:
    Adaptive switching circuits, 1960), so that the prediction follows the length of the contexts and the load of the
    machine. One writer: the thread of the steps.

    Args:
        gap_s: Most seconds that prompts may add to a step while sequences decode.
    """

    def __init__(self, *, gap_s: float) -> None:
        self._gap_s = gap_s
        self._fixed_s = 0.0  # as if for `_FIXED` tokens, for one of them
        self._decode_s = 0.0  # for a token of each kind
        self._prompt_s = 0.0

    def measure(self, seconds: float, *, decode: int, prompt: int) -> None:
        """A step with so many tokens of both kinds took so long."""
        error = seconds - self._fixed_s * _FIXED - self._decode_s * decode - self._prompt_s * prompt
        if prompt and not self._prompt_s:  # the first one takes all the blame: too short a step is the lesser evil
            self._prompt_s = max(0.0, error / prompt)
            return
        part = _WEIGHT * error / (_FIXED**2 + decode**2 + prompt**2)
        self._fixed_s = max(0.0, self._fixed_s + part * _FIXED)
        self._decode_s = max(0.0, self._decode_s + part * decode)
        self._prompt_s = max(self._prompt_s / 2, self._prompt_s + part * prompt)  # never 0: that would be unknown

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts that may go into a step beside others; 0 as long as nothing is known of prompts."""
        return int(_PLANNED * self._gap_s / self._prompt_s) if self._prompt_s else 0

    @property
    def alone_tokens(self) -> int:
        """Tokens of prompts that may go into a step for which those that decode wait; 0 as long as nothing is known."""
        wait_s = _WAIT * self._gap_s - self._fixed_s * _FIXED
        return int(max(0.0, wait_s) / self._prompt_s) if self._prompt_s else 0
