"""Which tokens the next step computes; touches no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inferd.engine.places import Places
from inferd.plugin import TokenBatch

if TYPE_CHECKING:
    from inferd.engine.embedding import PromptPool
    from inferd.engine.limits import Bounds
    from inferd.engine.sampler import Ids, Sampler
    from inferd.engine.scores import PromptScores
    from inferd.engine.sequence import Sequence
    from inferd.plugin.session import Int32Array


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens of a prompt whose logits are wanted, for its scores: from position `begin` on, at `place` in the step."""

    scores: PromptScores
    begin: int
    count: int
    place: int


@dataclass(frozen=True, slots=True)
class Pooled:
    """Tokens of a prompt whose hidden states are wanted, for its embedding: `count` of them, at `place` in the step."""

    pool: PromptPool
    place: int
    count: int


class Batcher:
    """One token budget per step: sequences that decode first, then prompts in turn.

    A prompt of more tokens than a step has goes behind those that end in the step, with at most as many tokens as they
    had read: so whoever comes while it is read has its first token when the step that runs has ended, and then one of
    at most twice its own tokens, if it is its turn.

    A prompt that fits into a step, but not beside the sequences that decode, is read in one without them: cut in two it
    would take longer than they wait for it, and its first token would come a step later. They are in the next one.

    One writer: the thread that runs the steps. `schedule`, then `commit`; places change only between steps.

    Attributes:
        places: Who has a row and KV blocks, and who waits for them.
        scored: Whose prompts are scored in the step that was scheduled.
        pooled: Whose prompts are embedded in the step that was scheduled.
        embeds: Whether there is a prompt in it that becomes an embedding; what it gives to that may be nothing.
    """

    def __init__(self, *, bounds: Bounds, sampler: Sampler) -> None:
        self.places = Places(bounds=bounds, sampler=sampler)
        self.scored: list[Scored] = []
        self.pooled: list[Pooled] = []
        self.embeds = False
        self._bounds = bounds
        self._first = 0  # the first row in the step: 0, or the first that does not decode
        self._scheduled = 0  # the first row behind the step
        self._sampled = 0  # the first row that gets no token from the step
        self._waited = 0  # tokens of the last step, if those that decode waited for it
        self._picked = 0  # tokens of the step behind which a token is chosen
        self._drafts: list[Int32Array] = []  # by row, where a sequence that decodes has one
        # of the step
        rows, tokens = bounds.rows, bounds.step_tokens
        self._index = np.arange(tokens + 1, dtype=np.int32)
        self._token_ids = np.zeros(tokens, np.int32)
        self._positions = np.zeros(tokens, np.int32)
        self._starts = np.zeros(rows + 1, np.int32)
        self._lengths = np.zeros(rows, np.int32)
        self._logit_rows = np.zeros(tokens, np.int32)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token from the step that was scheduled, in the order of its logits."""
        return self.places.rows[self._first : self._sampled]

    @property
    def decode_tokens(self) -> int:
        """Tokens of the step that belong to sequences that decode; before `commit`."""
        return 0 if self._first else int(self._starts[self.places.decoding])

    @property
    def sampled_positions(self) -> Int32Array:
        """Positions of the tokens that are chosen, in their sequences; one for each of `sampled`, more with drafts."""
        if self._drafts:
            return self._positions[self.sampled_places] + 1
        return self._lengths[self._first : self._sampled]

    @property
    def sampled_places(self) -> Int32Array:
        """The tokens of the step behind which they are chosen."""
        return self._logit_rows[: self._picked]

    @property
    def owners(self) -> Ids | None:
        """Places in `sampled` of the sequences that they are chosen for; None without drafts: one for each."""
        if not self._drafts:
            return None
        counts = [1 + len(draft) for draft in self._drafts]
        return np.repeat(np.arange(self._sampled), counts + [1] * (self._sampled - len(counts)))

    @property
    def sampled_rows(self) -> Ids | None:
        """The rows of the sequences that they are chosen for; None where those are the first ones, one for each."""
        return np.arange(self._first, self._sampled) if self._first else self.owners

    @property
    def reading(self) -> list[tuple[Sequence, float]]:
        """The sequences whose prompt is being read for the first time, and how much of it has been, 0 to 1."""
        places = self.places
        rows = [sequence for sequence in places.rows[places.decoding :] if not sequence.output_tokens]
        return [(s, int(places.computed[s.row]) / len(s.prompt)) for s in rows if s.leader is None]

    def schedule(self, *, prompt_tokens: int | None = None, alone_tokens: int = 0) -> TokenBatch | None:
        """The next step, or None when there is nothing to compute. Its arrays are valid until the next `schedule`.

        Args:
            prompt_tokens: Most tokens of prompts beside sequences that decode, one block at least; None for as many as
                fit.
            alone_tokens: Most tokens of a prompt for which those that decode wait.
        """
        places = self.places
        self.scored, self.pooled, places.copies, self.embeds = [], [], [], False
        places.make_room()
        rows = complete = places.decoding
        tokens, end = 0, self._bounds.step_tokens
        most = end if prompt_tokens is None else max(prompt_tokens - self._waited, self._bounds.block_tokens)
        alone = self._find_whole(alone_tokens)
        self._first = rows if alone else 0
        if alone:
            self._drafts, self._starts[rows] = [], 0
        else:
            tokens = self._place_decoding()
        picked = tokens
        if rows:
            end = min(end, tokens + max(most, alone))
        ending = 0  # tokens of the prompts that end in this step
        while complete == rows and tokens < end and places.begin_prompt(rows):
            sequence = places.rows[rows]
            if self._bounds.whole_prompts and sequence.length > end - tokens:
                break  # it comes in the next step
            fit = self._limit(sequence, end - tokens, ending=ending)
            if sequence.scores is not None:
                self._score(sequence, at=tokens, most=fit)
            if sequence.pool is not None:
                self.embeds = True
                self._pool_prompt(sequence, at=tokens, most=fit)
            taken = self._place_prompt(sequence, at=tokens, most=fit)
            tokens += taken
            if self._lengths[rows] == sequence.length:  # else it is the last row
                self._logit_rows[picked] = tokens - 1
                picked += 1
                complete += 1
                ending += taken if sequence.turn is None else sequence.turn.read
            rows += 1
            self._starts[rows] = tokens
        self._scheduled, self._sampled, self._picked = rows, complete, picked
        first, self._waited = self._first, tokens if alone else 0
        if not rows:
            return None
        return TokenBatch(
            token_ids=self._token_ids[:tokens],
            positions=self._positions[:tokens],
            starts=self._starts[first : rows + 1],
            lengths=self._lengths[first:rows],
            block_tables=places.tables[first:rows],
            logit_rows=self._list_logits(),
            hidden_rows=np.concatenate([self._index[p.place : p.place + p.count] for p in self.pooled])
            if self.pooled
            else None,
        )

    def commit(self, token_ids: Ids) -> list[list[int]] | None:
        """The step was computed and gave `token_ids` to the sequences in `sampled`.

        Returns:
            With drafts the tokens that each sequence gets; None without: one for each.
        """
        places = self.places
        first = self._first
        places.computed[first : self._scheduled] = self._lengths[first : self._scheduled]
        verified = self._verify(token_ids.tolist()) if self._drafts else None
        places.next[first : self._sampled] = token_ids if verified is None else [tokens[-1] for tokens in verified]
        for sequence in places.rows[places.decoding : self._scheduled]:
            places.publish(sequence)
        for sequence in places.rows[places.decoding : self._sampled]:
            for follower in sequence.followers:
                places.add(follower)
            sequence.followers = []
        places.decoding = self._sampled
        return verified

    def _find_whole(self, most: int) -> int:
        """Tokens of the next prompt if they fit into a step, but not beside the sequences that decode; else 0.

        Args:
            most: Of how many. Those that are less than half of a step wait for fewer that decode.
        """
        places, step_tokens = self.places, self._bounds.step_tokens
        row = places.decoding
        if not row or self._waited or not places.begin_prompt(row):
            return 0
        left = places.rows[row].length - int(places.computed[row])
        return left if max(step_tokens - row, step_tokens // 2) < left <= min(most, step_tokens) else 0

    def _limit(self, sequence: Sequence, most: int, *, ending: int) -> int:
        """Tokens of a prompt that may go into a step, of `most` that fit, behind prompts that end in it."""
        if not ending or sequence.length <= self._bounds.step_tokens:
            return most
        return min(most, max(ending, self._bounds.block_tokens))

    def _place_decoding(self) -> int:
        """Put the next token of every decoding row into the step, with what is guessed to follow; return the tokens."""
        places = self.places
        count = places.decoding
        computed = places.computed[:count]
        self._drafts = self._propose() if self._bounds.draft_tokens else []
        if self._drafts:
            return self._place_drafts(computed)
        self._token_ids[:count] = places.next[:count]
        self._positions[:count] = computed
        np.add(computed, 1, out=self._lengths[:count])
        self._starts[: count + 1] = self._index[: count + 1]
        self._logit_rows[:count] = self._index[:count]
        return count

    def _propose(self) -> list[Int32Array]:
        """A guess for every row that decodes; nothing when there is none for any."""
        drafts = []
        places = self.places
        left = self._bounds.step_tokens - places.decoding
        for sequence in places.rows[: places.decoding]:
            draft = self._index[:0]
            if sequence.drafter is not None:
                most = min(left, sequence.max_tokens - sequence.output_tokens - 1)
                draft = sequence.drafter.propose(sequence.tokens[: sequence.length], most=most)
                draft = draft[: self._widen(sequence, len(draft))]
                left -= len(draft)
            drafts.append(draft)
        return drafts if any(map(len, drafts)) else []

    def _widen(self, sequence: Sequence, count: int) -> int:
        """Make room in free blocks for `count` tokens behind a sequence's next one; for how many there is some."""
        places, row = self.places, sequence.row
        while places.room[row] <= places.computed[row] + count and places.can_grow(sequence):
            places.grow(sequence)
        return min(count, int(places.room[row] - places.computed[row]) - 1)

    def _place_drafts(self, computed: Int32Array) -> int:
        """As `_place_decoding`, with the guess behind each row's next token."""
        count = len(computed)
        counts = np.array([1 + len(draft) for draft in self._drafts], np.int32)
        starts = self._starts[: count + 1]
        counts.cumsum(out=starts[1:])
        for row, draft in enumerate(self._drafts):
            self._token_ids[starts[row] + 1 : starts[row + 1]] = draft
        self._token_ids[starts[:-1]] = self.places.next[:count]
        tokens = int(starts[-1])
        self._positions[:tokens] = np.repeat(computed - starts[:-1], counts) + self._index[:tokens]
        np.add(computed, counts, out=self._lengths[:count])
        self._logit_rows[:tokens] = self._index[:tokens]
        return tokens

    def _verify(self, chosen: list[int]) -> list[list[int]]:
        """What was chosen for each row, as far as its guess was right, and one token more."""
        verified, at = [], 0
        for row in range(self._sampled):
            draft = self._drafts[row].tolist() if row < len(self._drafts) else []
            right = 0
            while right < len(draft) and draft[right] == chosen[at + right] and chosen[at + right + 1] >= 0:
                right += 1  # where there is no token to choose, the next step finds that out
            if draft:
                self._settle(self.places.rows[row], drafted=len(draft), accepted=right)
            verified.append(chosen[at : at + right + 1])
            at += 1 + len(draft)
        return verified

    def _settle(self, sequence: Sequence, *, drafted: int, accepted: int) -> None:
        """Take back the tokens that were guessed wrong, and the blocks that only they needed."""
        if sequence.drafter is not None:
            sequence.drafter.learn(drafted=drafted, accepted=accepted)
        self.places.computed[sequence.row] -= drafted - accepted
        self.places.shrink(sequence)

    def _place_prompt(self, sequence: Sequence, *, at: int, most: int) -> int:
        """Put at most `most` of a sequence's tokens into the step; return how many."""
        places, row = self.places, sequence.row
        begin = int(places.computed[row])
        end = min(sequence.length, begin + most)
        old, new = places.pool.blocks_for(begin), places.pool.blocks_for(end)
        places.tables[row, old:new] = sequence.blocks[old:new]
        taken = end - begin
        places.turns.read(sequence, taken, ends=end == sequence.length)
        self._token_ids[at : at + taken] = sequence.tokens[begin:end]
        self._positions[at : at + taken] = np.arange(begin, end)
        self._lengths[row] = end
        return taken

    def _score(self, sequence: Sequence, *, at: int, most: int) -> None:
        """Take note that logits of a prompt are wanted, whose next tokens go into the step at `at`."""
        scores, begin = sequence.scores, int(self.places.computed[sequence.row])
        if scores is not None and (count := scores.count(begin, begin + most)):
            self.scored.append(Scored(scores, begin, count, at))

    def _pool_prompt(self, sequence: Sequence, *, at: int, most: int) -> None:
        """Take note that hidden states of a prompt are wanted, whose next tokens go into the step at `at`."""
        begin = int(self.places.computed[sequence.row])
        pool, end = sequence.pool, min(begin + most, sequence.length)
        if pool is not None and (wanted := pool.wanted(begin, end)):
            self.pooled.append(Pooled(pool, at + wanted[0] - begin, len(wanted)))

    def _list_logits(self) -> Int32Array:
        """The tokens of the step whose logits are wanted."""
        wanted = self.sampled_places
        if not self.scored:
            return wanted
        scored = [self._index[each.place : each.place + each.count] for each in self.scored]
        return np.sort(np.concatenate((wanted, *scored)))
