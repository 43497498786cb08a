"""One sequence: a prompt, what has been produced from it, and when it ends."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from inferd.core.task import FinishReason, Usage
from inferd.core.task_events import PromptOutput
from inferd.engine.text.stops import StopFinder
from inferd.engine.token.scores import PromptScores

if TYPE_CHECKING:
    from collections.abc import Sequence as Items
    from collections.abc import Set as AbstractSet

    from inferd.engine.text.detokenizer import Detokenizer
    from inferd.engine.token.drafts import Drafter
    from inferd.engine.token.embedding import PromptPool
    from inferd.engine.token.holds import Hold
    from inferd.engine.token.prefix import PrefixChain
    from inferd.engine.token.room import Constraint
    from inferd.engine.token.rules import Rules
    from inferd.engine.token.submission import SampleSoFar
    from inferd.engine.token.turns import Turn
    from inferd.plugin.session import Int32Array
    from inferd.sampling import Sampling

WAITING = -1
"""The row of a sequence that has none."""


class Sequence:
    """The state of one sequence. One writer: the thread that runs the steps.

    Args:
        handle: Names its task on the link to the kernel.
        prompt: Token ids, shape (P,), at least one.
        most_output: Most tokens to produce, at least 1.
        sampling: How tokens are chosen.
        ends: Tokens that end it.
        detokenizer: Its own.
        constraint: What the output must be; its own. None for anything.
        rules: What changes its logits; None for nothing.
        echo: The text of its prompt, where that is to be told; None where it is not.

    Attributes:
        tokens: Token ids of prompt and output; those of the first `length` places exist.
        length: Tokens of prompt and output.
        sample: Which of the samples of its task it is.
        rank: Its class with a minus in front, its virtual start, its handle, its sample: of those that run the last is
            preempted first.
        turn: Where it stands among those whose prompts are to be read; None: behind those of its class before it.
        hold: What is held for its lease; None for nothing.
        chain: Finds its KV blocks in the prefix cache; None: it shares with nobody.
        cached_tokens: Tokens of the prompt whose KV was found in the prefix cache.
        leader: The sample whose prompt's KV it takes over; None when it reads the prompt itself.
        followers: The samples that wait until this one has read the prompt.
        interruptions: How often it lost its blocks.
        drafter: Guesses its next tokens; None for no guesses.
        row: Its row in the batcher's tables, or `WAITING`.
        prompt_told: Whether what was asked of its prompt was told before, in an engine that lost it.
        pool: Makes the embedding of its prompt, which is asked for instead of an output; None for none.
        scores: How likely the tokens of its prompt were; None where it is not to be told.
        blocks: KV blocks that it holds, in the order of its tokens.
        window: The same of layers that see the last tokens only, see `Windows`.
        output_tokens: Tokens produced.
        finish: Why it ended; None while it has not.
    """

    __slots__ = (
        "_detokenizer",
        "_ends",
        "_stops",
        "blocks",
        "cached_tokens",
        "chain",
        "constraint",
        "drafter",
        "echo",
        "finish",
        "followers",
        "handle",
        "hold",
        "interruptions",
        "leader",
        "length",
        "most_output",
        "output_tokens",
        "pool",
        "prompt",
        "prompt_told",
        "rank",
        "row",
        "rules",
        "sample",
        "sampling",
        "scores",
        "tokens",
        "turn",
        "window",
    )

    def __init__(
        self,
        *,
        handle: int,
        prompt: Int32Array,
        most_output: int,
        sampling: Sampling,
        ends: AbstractSet[int],
        detokenizer: Detokenizer,
        constraint: Constraint | None = None,
        rules: Rules | None = None,
        echo: str | None = None,
    ) -> None:
        self.handle = handle
        self.prompt = prompt
        self.most_output = most_output
        self.sampling = sampling
        self.constraint = constraint
        self.rules = rules
        self.echo = echo
        self.prompt_told = False
        self.pool: PromptPool | None = None
        top = sampling.prompt_logprobs
        self.scores = None if top is None else PromptScores(prompt, top)
        self.tokens = np.empty(len(prompt) + most_output, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.length = len(prompt)
        self.sample = 0
        self.rank = (0, 0.0, handle, 0)
        self.turn: Turn | None = None
        self.hold: Hold | None = None
        self.chain: PrefixChain | None = None
        self.cached_tokens = 0
        self.leader: Sequence | None = None
        self.followers: list[Sequence] = []
        self.interruptions = 0
        self.drafter: Drafter | None = None
        self.row = WAITING
        self.blocks: list[int] = []
        self.window: list[int] = []
        self.output_tokens = 0
        self.finish: FinishReason | None = None
        self._ends = ends
        self._detokenizer = detokenizer
        self._stops = StopFinder(sampling.stop) if sampling.stop else None

    @property
    def begun(self) -> bool:
        """Whether it has a row, or had one."""
        return self.row != WAITING or self.interruptions > 0 or self.output_tokens > 0

    @property
    def priority(self) -> int:
        """Its class: of those that wait the highest comes first."""
        return -self.rank[0]

    @property
    def most_tokens(self) -> int:
        """Tokens whose KV it needs at most: the last token that it produces is never computed."""
        return len(self.prompt) + self.most_output - 1

    @property
    def tells_prompt(self) -> bool:
        """Whether something is told of its prompt, before its first token."""
        return not self.prompt_told and (self.echo is not None or self.scores is not None)

    def tell_prompt(self) -> PromptOutput:
        """What is told of its prompt."""
        ids = array("I", self.prompt.tobytes()) if self.echo is not None else ()
        return PromptOutput(self.echo or "", ids, None if self.scores is None else self.scores.tell())

    @property
    def undecided(self) -> bool:
        """Whether it is not known yet if its last token completed it."""
        return self.finish is None and self.constraint is not None and self.constraint.pending

    @property
    def usage(self) -> Usage:
        """Tokens in and out."""
        drafter = self.drafter
        return Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            drafted_tokens=0 if drafter is None else drafter.drafted,
            accepted_tokens=0 if drafter is None else drafter.accepted,
        )

    def accept(self, token_id: int) -> str:
        """Take the next token and return the text that it completes; sets `finish` when it is the last one.

        Its constraint has taken the token before. Where that does not know yet whether the output is complete, the
        sequence does not end here but in `conclude`. A token that ends the text is counted, and gives no text itself.
        """
        self.tokens[self.length] = token_id
        self.length += 1
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
        constraint = self.constraint
        if constraint is None and self.output_tokens < self.most_output:
            return text
        if constraint is not None and constraint.pending:
            return text  # and `conclude`, later
        return text + self.conclude()

    def conclude(self) -> str:
        """End it if its last token was the last one; what is left to say then."""
        if self.constraint is not None and self.constraint.complete:
            self.finish = FinishReason.END_OF_TEXT
            return self._flush()
        if self.output_tokens == self.most_output:
            self.finish = FinishReason.MAX_TOKENS
            return self._flush()
        return ""

    def follow(self, constraint: Constraint) -> None:
        """Let it follow a grammar, with what it has told in an engine that lost it."""
        self.constraint = constraint
        for token_id in self.tokens[len(self.prompt) : self.length].tolist():
            constraint.add(token_id)

    def restore(self, told: SampleSoFar) -> None:
        """Take what it told in an engine that lost it: it goes on as if it had told that here.

        All that its next tokens depend on follows from its tokens: text, stop strings, grammar, penalties, positions.
        """
        for token_id in told.token_ids:
            self.accept(token_id)
        if told.reason is not FinishReason.UNSPECIFIED:
            self.finish = told.reason

    def accept_all(self, token_ids: Items[int]) -> tuple[int, str]:
        """Take the next tokens as far as it goes on; how many, and their text."""
        texts = []
        for token_id in token_ids:
            texts.append(self.accept(token_id))
            if self.finish is not None:
                break
        return len(texts), "".join(texts)

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
