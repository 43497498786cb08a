"""A step: which tokens are computed at once, for whom, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Container
    from collections.abc import Sequence as Items

    from inferd.engine.token.embedding import PromptPool
    from inferd.engine.token.mirostat import Surprise
    from inferd.engine.token.sampler import Ids
    from inferd.engine.token.scores import PromptScores
    from inferd.engine.token.sequence import Sequence
    from inferd.plugin import TokenBatch
    from inferd.plugin.session import Int32Array


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens that are read whose logits are wanted, for scores: from position `begin` on, at `place` in the step."""

    scores: PromptScores | Surprise
    begin: int
    count: int
    place: int


@dataclass(frozen=True, slots=True)
class Pooled:
    """Tokens of a prompt whose hidden states are wanted, for its embedding: `count` of them, at `place` in the step."""

    pool: PromptPool
    place: int
    count: int


class Step(NamedTuple):
    """What a batcher scheduled. Its arrays are valid until the next step is.

    Attributes:
        batch: What the session computes; a row for each of `sequences`.
        sequences: Whose tokens it computes: those that decode, then those whose prompt is read.
        sampled: Those that get a token, in the order of their logits: the first of `sequences`.
        first_row: Row of the first of them among all that have one.
        decode_tokens: Tokens of the batch that belong to sequences that decode.
        picks: The tokens of the batch behind which a token is chosen: one for each of `sampled`, more with drafts.
        drafts: What is guessed to follow, for each sequence that decodes; empty where nothing is for any.
        scored: Whose prompts are scored.
        pooled: Whose prompts are embedded.
        embeds: Whether there is a prompt in it that becomes an embedding; what it gives to that may be nothing.
        mute: Whether there is a prompt in it behind which nothing is written.
        copies: KV blocks to copy before, each from its first to its second.
        begun: Sequences whose prompt is begun.
        alone: The task that has the step to itself because workers have died while it ran; None for none.
    """

    batch: TokenBatch
    sequences: Items[Sequence]
    sampled: list[Sequence]
    first_row: int
    decode_tokens: int
    picks: Int32Array
    drafts: Items[Int32Array]
    scored: Items[Scored]
    pooled: Items[Pooled]
    embeds: bool
    mute: bool
    copies: list[tuple[int, int]]
    begun: Items[Sequence]
    alone: int | None = None

    def behind(self, before: Step) -> Step:
        """This one, of single tokens, with those that are tokens of the step before that nobody has read."""
        if self.sampled == before.sampled:
            origins = np.arange(len(self.sampled), dtype=np.int32)
        else:
            places = {sequence: place for place, sequence in enumerate(before.sampled)}
            origins = np.array([places.get(sequence, -1) for sequence in self.sampled], np.int32)
        known = np.where(origins < 0, self.batch.token_ids, 0).astype(np.int32)
        batch = replace(self.batch, token_ids=known, origins=origins)
        return self._replace(batch=batch, copies=[], begun=())  # what was for the step before

    def without(self, gone: Container[Sequence]) -> Step:
        """This one, as if some sequences had not been sampled; of a step of which nothing but tokens is wanted."""
        left = [place for place, sequence in enumerate(self.sampled) if sequence not in gone]
        sampled = [self.sampled[place] for place in left]
        others = [sequence for sequence in self.sequences if sequence not in gone]
        return self._replace(sampled=sampled, sequences=others, picks=self.picks[left])

    @property
    def plain(self) -> bool:
        """Whether nothing is wanted of it but a token for each of some sequences that go on."""
        wanted = self.drafts or self.scored or self.pooled or self.embeds or self.mute
        return bool(self.sampled) and not wanted and self.batch.pictures is None and self.alone is None

    @property
    def pick_places(self) -> Ids:
        """The places of `picks` in the batch's `logit_rows`."""
        return np.searchsorted(self.batch.logit_rows, self.picks) if self.scored else np.arange(len(self.picks))

    @property
    def positions(self) -> Int32Array:
        """Positions of the tokens that are chosen, in their sequences; one for each of `picks`."""
        if self.drafts:
            return self.batch.positions[self.picks] + 1
        return self.batch.lengths[: len(self.sampled)]

    @property
    def owners(self) -> Ids | None:
        """Places in `sampled` of the sequences that the tokens are chosen for; None without drafts: one for each."""
        if not self.drafts:
            return None
        counts = [1 + len(draft) for draft in self.drafts]
        return np.repeat(np.arange(len(self.sampled)), counts + [1] * (len(self.sampled) - len(counts)))

    def logit_row(self, place: int) -> int:
        """The row of the session's logits from which one of `sampled` gets its first token."""
        owners = self.owners
        pick = place if owners is None else int(np.searchsorted(owners, place))
        return int(np.searchsorted(self.batch.logit_rows, self.picks[pick]))

    @property
    def rows(self) -> Ids | None:
        """The rows of the sequences that the tokens are chosen for; None where those are the first, one for each."""
        first = self.first_row
        return np.arange(first, first + len(self.sampled)) if first else self.owners
