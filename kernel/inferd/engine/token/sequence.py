"""One sequence: a prompt, what has been produced from it, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inferd.core.task import FinishReason, Usage
from inferd.engine.text.stops import StopFinder
from inferd.engine.token.mirostat import Surprise
from inferd.engine.token.place import Place
from inferd.engine.token.report import PromptReport

if TYPE_CHECKING:
    from collections.abc import Sequence as Items
    from collections.abc import Set as AbstractSet

    from inferd.engine.text.detokenizer import Detokenizer
    from inferd.engine.token.drafts import Drafter
    from inferd.engine.token.embedding import PromptPool
    from inferd.engine.token.prefix import PrefixChain
    from inferd.engine.token.room import Constraint
    from inferd.engine.token.rules import Rules
    from inferd.engine.token.submission import SampleSoFar
    from inferd.plugin.pictures import PlacedPicture
    from inferd.plugin.session import Int32Array
    from inferd.sampling import Sampling


class Origin(NamedTuple):
    """Whose a sequence is.

    Attributes:
        handle: Names its task on the link to the kernel.
        sample: Which of the samples of its task it is.
        priority: Its class: of those that wait the highest comes first.
        chain: Finds its KV blocks in the prefix cache; None: it shares with nobody.
    """

    handle: int
    sample: int = 0
    priority: int = 0
    chain: PrefixChain | None = None


class Sequence:
    """The tokens of one sequence, and what follows from them. One writer: the thread that runs the steps.

    What it has of the engine, and what it tells of its prompt, are records of their own: `place` and `report`.

    Args:
        origin: Whose it is.
        prompt: Token ids, shape (P,), at least one.
        most_output: Most tokens to produce; 0 to read the prompt and no more.
        sampling: How tokens are chosen.
        ends: Tokens that end it.
        detokenizer: Its own.
        constraint: What the output must be; its own. None for anything.
        rules: What changes its logits; None for nothing.
        drafter: Guesses its next tokens; None for no guesses.
        pool: Makes the embedding of its prompt, which is asked for instead of an output; None for none.
        echo: The text of its prompt, where that is to be told; None where it is not.

    Attributes:
        tokens: Token ids of prompt and output; those of the first `length` places exist.
        length: Tokens of prompt and output.
        finish: Why it ended; None while it has not.
        place: Its row and blocks, and where it stands among those who want them.
        report: What it tells of its prompt.
        surprise: What it goes by, and learns from its tokens; None for nothing.
    """

    __slots__ = (
        "_detokenizer",
        "_ends",
        "_most_length",
        "_stops",
        "chain",
        "constraint",
        "drafter",
        "finish",
        "handle",
        "length",
        "most_output",
        "place",
        "pool",
        "prompt",
        "report",
        "rules",
        "sample",
        "sampling",
        "surprise",
        "tokens",
    )

    def __init__(
        self,
        origin: Origin,
        *,
        prompt: Int32Array,
        most_output: int,
        sampling: Sampling,
        ends: AbstractSet[int],
        detokenizer: Detokenizer,
        constraint: Constraint | None = None,
        rules: Rules | None = None,
        drafter: Drafter | None = None,
        pool: PromptPool | None = None,
        echo: str | None = None,
    ) -> None:
        self.handle, self.sample, priority, self.chain = origin
        self.prompt = prompt
        self.most_output = most_output
        self.sampling = sampling
        self.constraint = constraint
        self.rules = rules
        self.drafter = drafter
        self.pool = pool
        self.report = PromptReport(prompt, sampling, echo=echo)
        self.place = Place(rank=(-priority, 0.0, self.handle, self.sample))
        self.tokens = np.empty(len(prompt) + max(1, most_output), np.int32)
        self.tokens[: len(prompt)] = prompt
        self.length = len(prompt)
        self.surprise = Surprise.of(sampling, rules=rules, tokens=self.tokens, prompt_tokens=len(prompt))
        self.finish: FinishReason | None = None
        self._most_length = len(self.tokens)
        self._ends = ends
        self._detokenizer = detokenizer
        self._stops = StopFinder(sampling.stop) if sampling.stop else None

    @property
    def begun(self) -> bool:
        """Whether something was computed of it, or is."""
        return self.place.begun or self.output_tokens > 0

    @property
    def priority(self) -> int:
        """Its class: of those that wait the highest comes first."""
        return -self.place.rank[0]

    @property
    def pictures(self) -> tuple[PlacedPicture, ...]:
        """Those that stand in its prompt."""
        return () if self.chain is None else self.chain.pictures

    @property
    def output_tokens(self) -> int:
        """Tokens produced."""
        return self.length - len(self.prompt)

    @property
    def most_tokens(self) -> int:
        """Tokens whose KV it needs at most: the last token that it produces is never computed."""
        return len(self.tokens) - 1

    @property
    def unseen(self) -> int:
        """The first position whose logits it needs: that of its last token, or of one that it has to learn from."""
        unseen = self.length - 1 if self.surprise is None else min(self.surprise.first, self.length - 1)
        return unseen if self.report.scores is None else min(self.report.scores.first, unseen)

    @property
    def mute(self) -> bool:
        """Whether it reads its prompt and writes nothing."""
        return not self.most_output

    @property
    def undecided(self) -> bool:
        """Whether it is not known yet if its last token completed it, or that was in vain."""
        constraint = self.constraint
        return self.finish is None and constraint is not None and (constraint.pending or constraint.refuted)

    @property
    def _unjudged(self) -> bool:
        """Whether a token that ends the text may be in vain: what the grammar does not follow is found out then."""
        constraint = self.constraint
        if constraint is None:  # it is restored, and has none yet
            return self.sampling.constrained
        return constraint.room.checked and (constraint.pending or constraint.refuted)

    @property
    def usage(self) -> Usage:
        """Tokens in and out."""
        drafter = self.drafter
        return Usage(
            prompt_tokens=len(self.prompt),
            cached_tokens=self.place.cached_tokens,
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
        if token_id in self._ends:
            if self._unjudged:
                return ""  # and `conclude`, later
            self.finish = FinishReason.END_OF_TEXT
            return self._flush()
        text = self._detokenizer.push(token_id)
        if self._stops is not None:
            text = self._stops.push(text)
            if self._stops.found:
                self.finish = FinishReason.STOP_STRING
                return text
        constraint = self.constraint
        if constraint is None and self.length < self._most_length:
            return text
        if constraint is not None and constraint.pending:
            return text  # and `conclude`, later
        return text + self.conclude()

    def conclude(self) -> str:
        """End it if its last token was the last one; what is left to say then."""
        constraint = self.constraint
        if constraint is not None and constraint.refuted:
            return ""  # its task fails
        ended = self.output_tokens > 0 and int(self.tokens[self.length - 1]) in self._ends
        if ended or (constraint is not None and constraint.complete):
            self.finish = FinishReason.END_OF_TEXT
            return self._flush()
        if self.length == self._most_length:
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
        if self.mute:  # what a step gives for its prompt is of no use
            self.finish = FinishReason.MAX_TOKENS
            return 0, ""
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
