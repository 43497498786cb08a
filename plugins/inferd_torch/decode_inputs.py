"""The inputs of pure decode steps at addresses that never change, so that such steps can be recorded once.

All that a step needs of the host is one array of pinned memory, which crosses to the device in one copy: tokens,
positions, slots, lengths, what tokens are chosen by, and of block tables only what is not there yet.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from inferd.plugin import TokenBatch
from inferd_torch.last_tokens import LastTokens
from inferd_torch.plan import Plan, Rows, find_slots
from inferd_torch.pool import Pool
from inferd_torch.sampling import COLUMNS, NO_TOKEN, write_table

CHANGES = 4  # entries of block tables for each row that cross with a step; where there are more, all tables do


class DecodeInputs:
    """Room for one token of each of `rows` sequences with `width` blocks. A step over fewer rows has the first of it.

    Rows that a batch leaves free compute token 0 over one key, and write it into the pool's spare block.

    Args:
        rows: Most sequences.
        width: Blocks of a sequence.
        pool: The KV blocks.
        tokens: Those of the step before.

    Attributes:
        rows: Most sequences.
        whole: How often all tables crossed to the device.
    """

    def __init__(self, *, rows: int, width: int, pool: Pool, tokens: LastTokens) -> None:
        device = tokens.cells.device
        self.rows = rows
        self.whole = 0
        self._tokens = tokens
        self._spare = pool.blocks
        self._block_tokens = pool.block_tokens
        self._changes = CHANGES * rows
        self._there = _Layout(rows, self._changes, device)
        # By turns: one is filled while the other may still be on its way.
        self._staged = [_Staged(rows, self._changes, device) for _ in range(2)]
        # Behind the tables is a cell for changes that are none.
        self._known = np.full(rows * width + 1, self._spare, np.int32)  # what the tables on the device hold
        self._tables = torch.from_numpy(self._known).to(device, copy=True)
        self._shape = rows, width
        for staged in self._staged:
            staged.places[:] = len(self._known) - 1
            self._fill_spare(staged, 0)
        self._staged[0].send(self._there)

    def plan(self, rows: int) -> Plan:
        """What a step over the first `rows` computes; its tensors are views of what is filled, but for the tokens."""
        known, positions, slots, origins = self._there.numbers[:, :rows]
        token_ids = self._tokens.join(known, origins)
        tables = self._tables[:-1].view(self._shape)
        at = Rows(index=None, tables=tables[:rows], lengths=self._there.lengths[:rows])
        return Plan(token_ids=token_ids, positions=positions, slots=slots, rows=at)

    def table(self, rows: int) -> torch.Tensor:
        """What tokens of the first `rows` are chosen by, see `inferd_torch.sampling.Draw`."""
        table: torch.Tensor = self._there.table[:, :rows]
        return table

    def settle(self) -> None:
        """Put what has changed into the tables: computed on the device, as a part of the step."""
        self._tables.scatter_(0, self._there.places, self._there.blocks)

    def fill(self, batch: TokenBatch) -> None:
        """Take the inputs of a checked batch of single tokens, at most `rows` of them."""
        count, staged = len(batch.token_ids), self._staged[0]
        self._staged.reverse()
        staged.wait()
        staged.numbers[0, :count] = batch.token_ids
        staged.numbers[3, :count] = self._tokens.nowhere
        if batch.origins is not None:
            unknown = batch.origins >= 0
            staged.numbers[0, :count][unknown] = NO_TOKEN
            staged.numbers[3, :count][unknown] = batch.origins[unknown]
        staged.numbers[1, :count] = batch.positions
        staged.numbers[2, :count] = find_slots(batch, self._block_tokens)
        staged.lengths[:count] = batch.lengths
        self._fill_spare(staged, count)
        if batch.sampling is not None:
            write_table(batch.sampling, staged.table[:, :count])
        else:
            staged.table[0] = 0
        self._fill_tables(staged, batch.block_tables)
        staged.send(self._there)

    def doubt(self) -> None:
        """The last step may not have settled: what the tables on the device hold is not known any more."""
        self._known[:] = -1

    def _fill_tables(self, staged: "_Staged", tables: NDArray[np.int32]) -> None:
        """Note what the tables on the device lack; entries of no block stay as they are, nothing reads them."""
        rows, width = self._shape
        count, known = len(tables), min(tables.shape[1], width)
        own = self._known[:-1].reshape(rows, width)[:count, :known]
        new = tables[:, :known]
        lacking, columns = ((own != new) & (new >= 0)).nonzero()
        blocks = new[lacking, columns]
        own[lacking, columns] = blocks
        changed = len(blocks)
        if changed > self._changes:
            np.maximum(self._known, 0, out=self._known)
            self._tables.copy_(torch.from_numpy(self._known))
            self.whole += 1
            changed = 0
        else:
            staged.places[:changed] = lacking * width + columns
            staged.blocks[:changed] = blocks
        staged.places[changed:] = len(self._known) - 1

    def _fill_spare(self, staged: "_Staged", first: int) -> None:
        staged.numbers[:2, first:] = 0
        staged.numbers[2, first:] = self._spare * self._block_tokens
        staged.numbers[3, first:] = self._tokens.nowhere
        staged.lengths[first:] = 1
        staged.table[0, first:] = 0


class _Layout:
    """What crosses with a step, as views of one array of 8-byte words.

    Attributes:
        words: All of it.
        numbers: Token ids (-1 for those of the step before), positions, slots and origins, shape (4, R), int64.
        table: What tokens are chosen by, shape (5, R), float64.
        places: Where the tables change, shape (C,), int64.
        blocks: What they hold there, shape (C,), int32.
        lengths: Keys of each row, shape (R,), int32, like those of other steps: kernels know one kind.
    """

    def __init__(self, rows: int, changes: int, device: torch.device, *, pinned: bool = False) -> None:
        sizes = [4 * rows, len(COLUMNS) * rows, changes, -(-changes // 2), -(-rows // 2)]
        self.words = torch.zeros(sum(sizes), dtype=torch.int64, device=device, pin_memory=pinned)
        numbers, table, self.places, blocks, lengths = torch.split(self.words, sizes)
        self.numbers = numbers.view(4, rows)
        self.table = table.view(torch.float64).view(len(COLUMNS), rows)
        self.blocks = blocks.view(torch.int32)[:changes]
        self.lengths = lengths.view(torch.int32)[:rows]


class _Staged:
    """The same on the host, as arrays to fill; pinned where the device is a GPU."""

    def __init__(self, rows: int, changes: int, device: torch.device) -> None:
        self._sent = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        layout = _Layout(rows, changes, torch.device("cpu"), pinned=self._sent is not None)
        self._words = layout.words
        self.numbers, self.lengths, self.table = layout.numbers.numpy(), layout.lengths.numpy(), layout.table.numpy()
        self.places, self.blocks = layout.places.numpy(), layout.blocks.numpy()

    def send(self, there: _Layout) -> None:
        """Have it copied; what is computed from then on finds it there."""
        there.words.copy_(self._words, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def wait(self) -> None:
        """Wait until what was sent last has been copied."""
        if self._sent is not None:
            self._sent.synchronize()
