"""Which tokens the next step computes. Owns all sequences and their KV blocks; touches no tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inferd.engine.blocks import BlockPool
from inferd.engine.sequence import WAITING, Sequence
from inferd.plugin import TokenBatch

if TYPE_CHECKING:
    from inferd.engine.limits import Bounds
    from inferd.engine.sampler import Ids, Sampler
    from inferd.plugin.session import Int32Array

NO_BLOCK = -1
"""What a block table holds behind its last block."""


class Batcher:
    """One token budget per step: running sequences first, then prompts that were begun, then new ones as they came.

    A sequence is admitted when all blocks that it can ever need are free: it then runs to its end, so that nothing is
    preempted and nothing can wait for itself. The sequences that run have a row each in preallocated tables, those that
    decode before those whose prompt is being read, so that a decoding step is a few array operations, however many
    sequences there are.

    One writer: the thread that runs the steps. `schedule`, then `commit`; `remove` only between steps.
    """

    def __init__(self, *, bounds: Bounds, sampler: Sampler) -> None:
        self.pool = BlockPool(blocks=bounds.blocks, block_tokens=bounds.block_tokens)
        self._bounds = bounds
        self._sampler = sampler
        self._waiting: dict[int, Sequence] = {}  # by handle, in order of arrival
        self._rows: list[Sequence] = []
        self._decoding = 0  # the first rows, which have their whole prompt behind them
        self._sampled = 0  # the first rows, which get a token from the step that was scheduled
        self._allocate_tables()

    def _allocate_tables(self) -> None:
        rows, tokens = self._bounds.rows, self._bounds.step_tokens
        width = self.pool.blocks_for(self._bounds.sequence_tokens)
        self._index = np.arange(tokens + 1, dtype=np.int32)
        # by row
        self._computed = np.zeros(rows, np.int32)  # tokens whose KV exists
        self._next = np.zeros(rows, np.int32)  # the token to compute when decoding
        self._tables = np.full((rows, width), NO_BLOCK, np.int32)
        # of the step
        self._token_ids = np.zeros(tokens, np.int32)
        self._positions = np.zeros(tokens, np.int32)
        self._starts = np.zeros(rows + 1, np.int32)
        self._lengths = np.zeros(rows, np.int32)
        self._logit_rows = np.zeros(rows, np.int32)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token from the step that was scheduled, in the order of its logits."""
        return self._rows[: self._sampled]

    @property
    def sampled_positions(self) -> Int32Array:
        """Positions of those tokens in their sequences."""
        return self._lengths[: self._sampled]

    @property
    def running(self) -> list[Sequence]:
        """The sequences that have a row."""
        return list(self._rows)

    @property
    def reading(self) -> list[tuple[Sequence, float]]:
        """The sequences whose prompt is being read, and how much of it has been, 0 to 1."""
        return [(s, int(self._computed[s.row]) / len(s.prompt)) for s in self._rows[self._decoding :]]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that fits the bounds."""
        self._waiting[sequence.handle] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its place and its blocks."""
        if sequence.row == WAITING:
            del self._waiting[sequence.handle]
            return
        row, held = sequence.row, len(sequence.blocks)
        self._tables[row, :held] = NO_BLOCK
        self.pool.release(sequence.blocks, promised=self.pool.blocks_for(sequence.most_tokens) - held)
        sequence.row, sequence.blocks = WAITING, []
        if row < self._decoding:  # keep the decoding rows together, then all rows
            self._decoding -= 1
            self._move(self._decoding, row)
            row = self._decoding
        self._move(len(self._rows) - 1, row)
        self._rows.pop()

    def schedule(self) -> TokenBatch | None:
        """The next step, or None when there is nothing to compute. Its arrays are valid until the next `schedule`."""
        decoding = self._decoding
        self._place_decoding()
        rows, tokens, complete = decoding, decoding, decoding
        while tokens < self._bounds.step_tokens and (rows < len(self._rows) or self._admit()):
            tokens += self._place_prompt(rows, at=tokens)
            if self._lengths[rows] == len(self._rows[rows].prompt):  # else it is the last row: the budget is used up
                self._logit_rows[rows] = tokens - 1
                complete += 1
            rows += 1
            self._starts[rows] = tokens
        self._sampled = complete
        if not rows:
            return None
        return TokenBatch(
            token_ids=self._token_ids[:tokens],
            positions=self._positions[:tokens],
            starts=self._starts[: rows + 1],
            lengths=self._lengths[:rows],
            block_tables=self._tables[:rows],
            logit_rows=self._logit_rows[:complete],
        )

    def commit(self, token_ids: Ids) -> None:
        """The step was computed and gave `token_ids` to the sequences in `sampled`."""
        rows = len(self._rows)
        self._computed[:rows] = self._lengths[:rows]
        self._next[: self._sampled] = token_ids
        self._decoding = self._sampled

    def _place_decoding(self) -> None:
        """Put the next token of every decoding row into the step."""
        count, block_tokens = self._decoding, self._bounds.block_tokens
        computed = self._computed[:count]
        for row in np.flatnonzero(computed % block_tokens == 0).tolist():
            self._grow(self._rows[row], 1)
        self._token_ids[:count] = self._next[:count]
        self._positions[:count] = computed
        np.add(computed, 1, out=self._lengths[:count])
        self._starts[: count + 1] = self._index[: count + 1]
        self._logit_rows[:count] = self._index[:count]

    def _place_prompt(self, row: int, *, at: int) -> int:
        """Put as much of a row's prompt into the step as the budget allows; return its tokens."""
        sequence = self._rows[row]
        begin = int(self._computed[row])
        end = min(len(sequence.prompt), begin + self._bounds.step_tokens - at)
        self._grow(sequence, self.pool.blocks_for(end) - len(sequence.blocks))
        taken = end - begin
        self._token_ids[at : at + taken] = sequence.prompt[begin:end]
        self._positions[at : at + taken] = np.arange(begin, end)
        self._lengths[row] = end
        return taken

    def _admit(self) -> bool:
        """Give the sequence that has waited longest a row; False when there is none or no place for it."""
        sequence = next(iter(self._waiting.values()), None)
        if sequence is None or len(self._rows) == self._bounds.rows:
            return False
        if not self.pool.promise(self.pool.blocks_for(sequence.most_tokens)):
            return False
        del self._waiting[sequence.handle]
        sequence.row = len(self._rows)
        self._computed[sequence.row] = 0
        self._sampler.assign(sequence.row, sequence.sampling)
        self._rows.append(sequence)
        return True

    def _grow(self, sequence: Sequence, count: int) -> None:
        """Give a sequence its next blocks, of those that were promised at its admission."""
        for _ in range(count):
            block = self.pool.take()
            self._tables[sequence.row, len(sequence.blocks)] = block
            sequence.blocks.append(block)

    def _move(self, source: int, target: int) -> None:
        """Move what a row holds to another row that holds nothing any more."""
        if source == target:
            return
        sequence = self._rows[target] = self._rows[source]
        sequence.row = target
        self._sampler.move(source, target)
        self._computed[target] = self._computed[source]
        self._next[target] = self._next[source]
        self._tables[target] = self._tables[source]
        self._tables[source] = NO_BLOCK
