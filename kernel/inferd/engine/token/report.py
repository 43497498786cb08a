"""What is told of a prompt, before the first token that follows it."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from inferd.core.task_events import PromptOutput
from inferd.engine.token.scores import PromptScores

if TYPE_CHECKING:
    from inferd.plugin.session import Int32Array
    from inferd.sampling import Sampling


class PromptReport:
    """What one sequence tells of its prompt. One writer: the thread of the steps, once it runs.

    Args:
        prompt: Token ids, shape (P,).
        sampling: What is asked for.
        echo: The text of the prompt, where that is to be told; None where it is not.

    Attributes:
        scores: How likely its tokens were; None where it is not to be told.
    """

    __slots__ = ("_echo", "_prompt", "_told", "scores")

    def __init__(self, prompt: Int32Array, sampling: Sampling, *, echo: str | None) -> None:
        self._prompt = prompt
        self._echo = echo
        self._told = False
        self.scores = PromptScores.of(prompt, sampling)

    @property
    def wanted(self) -> bool:
        """Whether something is to be told."""
        return not self._told and (self._echo is not None or self.scores is not None)

    def pass_over(self) -> None:
        """It was told before, in an engine that lost the sequence."""
        self._told = True
        self.scores = None

    def tell(self) -> PromptOutput:
        """What is told."""
        ids = array("I", self._prompt.tobytes()) if self._echo is not None else ()
        if self.scores is None:
            return PromptOutput(self._echo or "", ids)
        return PromptOutput(self._echo or "", ids, self.scores.tell(), self.scores.entropies)
