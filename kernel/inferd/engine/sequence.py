"""One sequence: a prompt, what has been produced from it, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.task import FinishReason, Usage
from inferd.engine.stops import StopFinder

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from inferd.core.task import Sampling
    from inferd.engine.detokenizer import Detokenizer
    from inferd.plugin.session import Int32Array

WAITING = -1
"""The row of a sequence that has none."""


class Sequence:
    """The state of one sequence. One writer: the thread that runs the steps.

    Args:
        handle: Names its task on the link to the kernel.
        prompt: Token ids, shape (P,), at least one.
        max_tokens: Most tokens to produce, at least 1.
        sampling: How tokens are chosen.
        ends: Tokens that end it.
        detokenizer: Its own.

    Attributes:
        row: Its row in the batcher's tables, or `WAITING`.
        blocks: KV blocks that it holds, in the order of its tokens.
        output_tokens: Tokens produced.
        finish: Why it ended; None while it has not.
    """

    __slots__ = (
        "_detokenizer",
        "_ends",
        "_stops",
        "blocks",
        "finish",
        "handle",
        "max_tokens",
        "output_tokens",
        "prompt",
        "row",
        "sampling",
    )

    def __init__(
        self,
        *,
        handle: int,
        prompt: Int32Array,
        max_tokens: int,
        sampling: Sampling,
        ends: AbstractSet[int],
        detokenizer: Detokenizer,
    ) -> None:
        self.handle = handle
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.row = WAITING
        self.blocks: list[int] = []
        self.output_tokens = 0
        self.finish: FinishReason | None = None
        self._ends = ends
        self._detokenizer = detokenizer
        self._stops = StopFinder(sampling.stop) if sampling.stop else None

    @property
    def most_tokens(self) -> int:
        """Tokens whose KV it needs at most: the last token that it produces is never computed."""
        return len(self.prompt) + self.max_tokens - 1

    @property
    def usage(self) -> Usage:
        """Tokens in and out."""
        return Usage(prompt_tokens=len(self.prompt), output_tokens=self.output_tokens)

    def accept(self, token_id: int) -> str:
        """Take the next token and return the text that it completes; sets `finish` when it is the last one.

        A token that ends the text is counted, and gives no text itself.
        """
        self.output_tokens += 1
        if token_id in self._ends:
            self.finish = FinishReason.END_OF_TEXT
            return self._flush()
        text = self._detokenizer.push(token_id)
        if self._stops is not None:
            text = self._stops.push(text)
            if self._stops.found:
                self.finish = FinishReason.STOP_STRING
                return text
        if self.output_tokens == self.max_tokens:
            self.finish = FinishReason.MAX_TOKENS
            return text + self._flush()
        return text

    def _flush(self) -> str:
        """What was held back: an incomplete character, or the beginning of a stop string."""
        text = self._detokenizer.finish()
        if self._stops is None:
            return text
        text = self._stops.push(text)
        if self._stops.found:
            self.finish = FinishReason.STOP_STRING
            return text
        return text + self._stops.finish()
