"""Which tokens the next step computes. Owns all sequences and their KV blocks; touches no tensor."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from inferd.engine.blocks import BlockPool
from inferd.engine.sequence import WAITING, Sequence
from inferd.plugin import TokenBatch

if TYPE_CHECKING:
    from inferd.engine.embedding import PromptPool
    from inferd.engine.limits import Bounds
    from inferd.engine.sampler import Ids, Sampler
    from inferd.engine.scores import PromptScores
    from inferd.plugin.session import Int32Array

NO_BLOCK = -1
"""What a block table holds behind its last block."""

_rank = attrgetter("rank")


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
    """One token budget per step: running sequences first, then prompts that were begun, then new ones by rank.

    A sequence is admitted when there are blocks for all its tokens and one more, and grows from then on. Where no
    block is free, the sequence that ranks last gives its own back and waits to compute them again: so the one that
    ranks first always goes on, and since it fits the pool alone, all come to their end.

    The sequences that run have a row each in preallocated tables, those that decode before those that are being read,
    so that a decoding step is a few array operations, however many sequences there are.

    One writer: the thread that runs the steps. `schedule`, then `commit`; `remove` only between steps.

    Attributes:
        pool: The KV blocks.
        copies: KV blocks to copy before the step that was scheduled, each from its first to its second.
        preempted: How often a sequence lost its blocks.
        scored: Whose prompts are scored in the step that was scheduled.
        pooled: Whose prompts are embedded in the step that was scheduled.
    """

    def __init__(self, *, bounds: Bounds, sampler: Sampler) -> None:
        self.pool = BlockPool(blocks=bounds.blocks, block_tokens=bounds.block_tokens)
        self.copies: list[tuple[int, int]] = []
        self.preempted = 0
        self.scored: list[Scored] = []
        self.pooled: list[Pooled] = []
        self._bounds = bounds
        self._sampler = sampler
        self._waiting: list[Sequence] = []  # by rank
        self._rows: list[Sequence] = []
        self._decoding = 0  # the first rows, whose tokens are all computed but the last
        self._scheduled = 0  # the first rows, which are in the step
        self._sampled = 0  # the first rows, which get a token from the step
        self._picked = 0  # tokens of the step behind which a token is chosen
        self._drafts: list[Int32Array] = []  # by row, where a sequence that decodes has one
        self._allocate_tables()

    def _allocate_tables(self) -> None:
        rows, tokens = self._bounds.rows, self._bounds.step_tokens
        width = self.pool.blocks_for(self._bounds.sequence_tokens)
        self._index = np.arange(tokens + 1, dtype=np.int32)
        # by row
        self._computed = np.zeros(rows, np.int32)  # tokens whose KV exists
        self._room = np.zeros(rows, np.int32)  # tokens whose KV its blocks can hold
        self._next = np.zeros(rows, np.int32)  # the token to compute when decoding
        self._tables = np.full((rows, width), NO_BLOCK, np.int32)
        # of the step
        self._token_ids = np.zeros(tokens, np.int32)
        self._positions = np.zeros(tokens, np.int32)
        self._starts = np.zeros(rows + 1, np.int32)
        self._lengths = np.zeros(rows, np.int32)
        self._logit_rows = np.zeros(tokens, np.int32)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token from the step that was scheduled, in the order of its logits."""
        return self._rows[: self._sampled]

    @property
    def sampled_positions(self) -> Int32Array:
        """Positions of the tokens that are chosen, in their sequences; one for each of `sampled`, more with drafts."""
        return self._positions[self.sampled_places] + 1 if self._drafts else self._lengths[: self._sampled]

    @property
    def sampled_places(self) -> Int32Array:
        """The tokens of the step behind which they are chosen."""
        return self._logit_rows[: self._picked]

    @property
    def sampled_rows(self) -> Ids | None:
        """Places in `sampled` of their sequences; None without drafts: one for each."""
        if not self._drafts:
            return None
        counts = [1 + len(draft) for draft in self._drafts]
        return np.repeat(np.arange(self._sampled), counts + [1] * (self._sampled - len(counts)))

    @property
    def decoding(self) -> int:
        """Sequences that get a token from every step."""
        return self._decoding

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have a row."""
        return list(self._rows)

    @property
    def reading(self) -> list[tuple[Sequence, float]]:
        """The sequences whose prompt is being read for the first time, and how much of it has been, 0 to 1."""
        rows = [sequence for sequence in self._rows[self._decoding :] if not sequence.output_tokens]
        return [(s, int(self._computed[s.row]) / len(s.prompt)) for s in rows if s.leader is None]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits the bounds. Its followers come after it when its prompt has been read."""
        insort(self._waiting, sequence, key=_rank)

    def remove(self, sequence: Sequence, *, failed: bool = False) -> None:
        """Forget a sequence and free its place and its blocks.

        Args:
            sequence: It need not have a place yet.
            failed: What it computed is not to be trusted, and found by nobody.
        """
        if sequence.row == WAITING:
            place = bisect_left(self._waiting, sequence.rank, key=_rank)
            if self._waiting[place : place + 1] == [sequence]:  # else it waits for its leader
                del self._waiting[place]
            return
        if failed or sequence.chain is None or not sequence.chain.lasting:
            self.pool.withdraw(sequence.blocks)
        else:
            self._publish(sequence)
        self._vacate(sequence)

    def schedule(self, *, prompt_tokens: int | None = None) -> TokenBatch | None:
        """The next step, or None when there is nothing to compute. Its arrays are valid until the next `schedule`.

        Args:
            prompt_tokens: Most tokens of prompts beside sequences that decode, one block at least; None for as many as
                fit.
        """
        self.copies, self.scored, self.pooled = [], [], []
        self._make_room()
        rows = self._decoding
        tokens = picked = self._place_decoding()
        end = self._bounds.step_tokens
        if tokens and prompt_tokens is not None:
            end = min(end, tokens + max(prompt_tokens, self._bounds.block_tokens))
        complete = rows
        while tokens < end and (rows < len(self._rows) or self._admit()):
            if self._rows[rows].scores is not None:
                self._score(rows, at=tokens, most=end - tokens)
            if self._rows[rows].pool is not None:
                self._pool_prompt(rows, at=tokens, most=end - tokens)
            tokens += self._place_prompt(rows, at=tokens, most=end - tokens)
            if self._lengths[rows] == self._rows[rows].length:  # else it is the last row: the budget is used up
                self._logit_rows[picked] = tokens - 1
                picked += 1
                complete += 1
            rows += 1
            self._starts[rows] = tokens
        self._scheduled, self._sampled, self._picked = rows, complete, picked
        if not rows:
            return None
        return TokenBatch(
            token_ids=self._token_ids[:tokens],
            positions=self._positions[:tokens],
            starts=self._starts[: rows + 1],
            lengths=self._lengths[:rows],
            block_tables=self._tables[:rows],
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
        self._computed[: self._scheduled] = self._lengths[: self._scheduled]
        verified = self._verify(token_ids.tolist()) if self._drafts else None
        self._next[: self._sampled] = token_ids if verified is None else [tokens[-1] for tokens in verified]
        for sequence in self._rows[self._decoding : self._scheduled]:
            self._publish(sequence)
        for sequence in self._rows[self._decoding : self._sampled]:
            for follower in sequence.followers:
                self.add(follower)
            sequence.followers = []
        self._decoding = self._sampled
        return verified

    def _place_decoding(self) -> int:
        """Put the next token of every decoding row into the step, with what is guessed to follow; return the tokens."""
        count = self._decoding
        computed = self._computed[:count]
        self._drafts = self._propose() if self._bounds.draft_tokens else []
        if self._drafts:
            return self._place_drafts(computed)
        self._token_ids[:count] = self._next[:count]
        self._positions[:count] = computed
        np.add(computed, 1, out=self._lengths[:count])
        self._starts[: count + 1] = self._index[: count + 1]
        self._logit_rows[:count] = self._index[:count]
        return count

    def _propose(self) -> list[Int32Array]:
        """A guess for every row that decodes; nothing when there is none for any."""
        drafts = []
        left = self._bounds.step_tokens - self._decoding
        for row, sequence in enumerate(self._rows[: self._decoding]):
            draft = self._index[:0]
            if sequence.drafter is not None:
                most = min(left, sequence.max_tokens - sequence.output_tokens - 1)
                draft = sequence.drafter.propose(sequence.tokens[: sequence.length], most=most)
                draft = draft[: self._widen(row, len(draft))]
                left -= len(draft)
            drafts.append(draft)
        return drafts if any(map(len, drafts)) else []

    def _widen(self, row: int, count: int) -> int:
        """Make room in free blocks for `count` tokens behind a row's next one; for how many there is some."""
        while self._room[row] <= self._computed[row] + count and self.pool.free:
            self._grow(self._rows[row])
        return min(count, int(self._room[row] - self._computed[row]) - 1)

    def _place_drafts(self, computed: Int32Array) -> int:
        """As `_place_decoding`, with the guess behind each row's next token."""
        count = len(computed)
        counts = np.array([1 + len(draft) for draft in self._drafts], np.int32)
        starts = self._starts[: count + 1]
        counts.cumsum(out=starts[1:])
        for row, draft in enumerate(self._drafts):
            self._token_ids[starts[row] + 1 : starts[row + 1]] = draft
        self._token_ids[starts[:-1]] = self._next[:count]
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
                self._settle(row, drafted=len(draft), accepted=right)
            verified.append(chosen[at : at + right + 1])
            at += 1 + len(draft)
        return verified

    def _settle(self, row: int, *, drafted: int, accepted: int) -> None:
        """Take back the tokens that were guessed wrong, and the blocks that only they needed."""
        sequence = self._rows[row]
        if sequence.drafter is not None:
            sequence.drafter.learn(drafted=drafted, accepted=accepted)
        self._computed[row] -= drafted - accepted
        used = self.pool.blocks_for(int(self._computed[row]))
        self._tables[row, used:] = NO_BLOCK
        self.pool.release(sequence.blocks[used:])
        del sequence.blocks[used:]
        self._room[row] = used * self.pool.block_tokens

    def _place_prompt(self, row: int, *, at: int, most: int) -> int:
        """Put at most `most` of a row's tokens into the step; return how many."""
        sequence = self._rows[row]
        begin = int(self._computed[row])
        end = min(sequence.length, begin + most)
        old, new = self.pool.blocks_for(begin), self.pool.blocks_for(end)
        self._tables[row, old:new] = sequence.blocks[old:new]
        taken = end - begin
        self._token_ids[at : at + taken] = sequence.tokens[begin:end]
        self._positions[at : at + taken] = np.arange(begin, end)
        self._lengths[row] = end
        return taken

    def _score(self, row: int, *, at: int, most: int) -> None:
        """Take note that logits of a prompt are wanted, whose next tokens go into the step at `at`."""
        scores, begin = self._rows[row].scores, int(self._computed[row])
        if scores is not None and (count := scores.count(begin, begin + most)):
            self.scored.append(Scored(scores, begin, count, at))

    def _pool_prompt(self, row: int, *, at: int, most: int) -> None:
        """Take note that hidden states of a prompt are wanted, whose next tokens go into the step at `at`."""
        sequence, begin = self._rows[row], int(self._computed[row])
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

    def _make_room(self) -> None:
        """Give each decoding sequence the block that its next token needs; where none is free, preempt."""
        full = np.flatnonzero(self._computed[: self._decoding] >= self._room[: self._decoding])
        growing = [self._rows[row] for row in full.tolist()]
        if len(growing) > self.pool.free:
            growing.sort(key=_rank)
        for sequence in growing:
            while sequence.row != WAITING and not self.pool.free:
                self._preempt(max(self._rows, key=_rank))
            if sequence.row != WAITING:
                self._publish(sequence)
                self._grow(sequence)

    def _grow(self, sequence: Sequence) -> None:
        """Give a sequence its next block."""
        block = self.pool.take()
        self._tables[sequence.row, len(sequence.blocks)] = block
        self._room[sequence.row] += self.pool.block_tokens
        sequence.blocks.append(block)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a sequence's row and blocks; it waits to compute its tokens again, as far as they are not found."""
        self._publish(sequence)
        self._vacate(sequence)
        sequence.preemptions += 1
        self.preempted += 1
        self.add(sequence)

    def _admit(self) -> bool:
        """Give the waiting sequence of the first rank a row; False when there is none or no place for it."""
        if not self._waiting or len(self._rows) == self._bounds.rows or not self.pool.free:
            return False
        sequence = self._waiting[0]
        found = self._find(sequence)
        need = self.pool.blocks_for(sequence.length)
        with_spare = min(need + 1, self.pool.blocks_for(sequence.most_tokens))
        if self.pool.free - self.pool.idle(found) < with_spare - len(found):
            return False
        del self._waiting[0]
        self.pool.share(found)
        sequence.blocks = [*found, *(self.pool.take() for _ in range(need - len(found)))]
        row = sequence.row = len(self._rows)
        self._rows.append(sequence)
        begin = self._begin(sequence, found=len(found))
        self._computed[row] = begin
        self._room[row] = need * self.pool.block_tokens
        self._tables[row, : self.pool.blocks_for(begin)] = sequence.blocks[: self.pool.blocks_for(begin)]
        self._sampler.assign(
            row,
            sequence.sampling,
            rules=sequence.rules,
            tokens=sequence.tokens[: sequence.length],
            prompt_tokens=len(sequence.prompt),
        )
        return True

    def _find(self, sequence: Sequence) -> list[int]:
        """Cached blocks of a sequence's tokens; its last token is computed in any case, for its logits."""
        whole = sequence.scores is not None or (sequence.pool is not None and sequence.pool.whole)
        if sequence.chain is None or whole:
            return []
        most = (sequence.length - 1) // self.pool.block_tokens
        return self.pool.find(sequence.chain.digests(sequence.tokens, most))

    def _begin(self, sequence: Sequence, *, found: int) -> int:
        """The first token that an admitted sequence computes, with `found` blocks from the cache."""
        tokens = found * self.pool.block_tokens
        if sequence.chain is not None:
            sequence.chain.published = found
        leader, last = sequence.leader, len(sequence.prompt) - 1
        if leader is None and not sequence.preemptions:
            sequence.cached_tokens = tokens
        if leader is None or leader.row == WAITING or self._computed[leader.row] <= last:
            return tokens
        if found != last // self.pool.block_tokens or tokens == last:
            return tokens
        # The rest of the prompt is in a block that its leader goes on to write: take over a copy.
        self.copies.append((leader.blocks[found], sequence.blocks[found]))
        return last

    def _publish(self, sequence: Sequence) -> None:
        """Let the full blocks of a running sequence be found."""
        chain = sequence.chain
        if chain is None:
            return
        full = int(self._computed[sequence.row]) // self.pool.block_tokens
        for place in range(chain.published, full):
            self.pool.publish(sequence.blocks[place], chain.digest(sequence.tokens, place))
        chain.published = full

    def _vacate(self, sequence: Sequence) -> None:
        """Free a sequence's row and its blocks."""
        row = sequence.row
        self._tables[row, : len(sequence.blocks)] = NO_BLOCK
        self.pool.release(sequence.blocks)
        sequence.row, sequence.blocks = WAITING, []
        if row < self._decoding:  # keep the decoding rows together, then all rows
            self._decoding -= 1
            self._move(self._decoding, row)
            row = self._decoding
        self._move(len(self._rows) - 1, row)
        self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        """Move what a row holds to another row that holds nothing any more."""
        if source == target:
            return
        sequence = self._rows[target] = self._rows[source]
        sequence.row = target
        self._sampler.move(source, target)
        for column in (self._computed, self._room, self._next):
            column[target] = column[source]
        self._tables[target] = self._tables[source]
        self._tables[source] = NO_BLOCK
