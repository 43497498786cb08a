"""The inputs of a pure decode step at addresses that never change, so that the step can be recorded once."""

import numpy as np
import torch

from inferd.plugin import TokenBatch
from inferd_torch.plan import Plan, Rows, find_slots
from inferd_torch.pool import Pool


class DecodeInputs:
    """Room for one token of each of `rows` sequences with `width` blocks; one array, so that one copy fills it.

    Rows that a batch leaves free compute token 0 over one key in the pool's spare block.

    Attributes:
        rows: Most sequences.
        plan: What a step over all rows computes; its tensors are views of the array.
    """

    def __init__(self, *, rows: int, width: int, pool: Pool, device: torch.device) -> None:
        self.rows = rows
        self._spare = pool.blocks
        self._block_tokens = pool.block_tokens
        longs = 3 * rows  # behind them lengths and tables, int32 like those of other steps: kernels know one kind
        self._staged = torch.zeros(
            longs + -(-(1 + width) * rows // 2), dtype=torch.int64, pin_memory=device.type == "cuda"
        )
        self._array = torch.empty_like(self._staged, device=device)
        self._numbers = self._staged[:longs].numpy().reshape(3, rows)
        staged = self._staged[longs:].numpy().view(np.int32)
        self._lengths, self._tables = staged[:rows], staged[rows : (1 + width) * rows].reshape(rows, width)
        token_ids, positions, slots = self._array[:longs].reshape(3, rows)
        there = self._array[longs:].view(torch.int32)
        at = Rows(index=None, tables=there[rows : (1 + width) * rows].reshape(rows, width), lengths=there[:rows])
        self.plan = Plan(token_ids=token_ids, positions=positions, slots=slots, rows=at)
        self._fill_spare(0)
        self._array.copy_(self._staged)

    def fill(self, batch: TokenBatch) -> None:
        """Take the inputs of a checked batch of single tokens, at most `rows` of them."""
        count, width = batch.block_tables.shape
        known = min(width, self._tables.shape[1])
        self._numbers[0, :count] = batch.token_ids
        self._numbers[1, :count] = batch.positions
        self._numbers[2, :count] = find_slots(batch, self._block_tokens)
        self._lengths[:count] = batch.lengths
        self._tables[:count, :known] = np.maximum(batch.block_tables[:, :known], 0)
        self._fill_spare(count)
        self._array.copy_(self._staged)

    def _fill_spare(self, first: int) -> None:
        self._numbers[:2, first:] = 0
        self._numbers[2, first:] = self._spare * self._block_tokens
        self._lengths[first:] = 1
        self._tables[first:] = self._spare
