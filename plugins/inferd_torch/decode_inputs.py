"""The inputs of pure decode steps at addresses that never change, so that such steps can be recorded once.

All that a step needs of the host is one array of pinned memory, which crosses to the device in one copy: tokens,
positions, slots, lengths, what tokens are chosen by, and of block tables only what is not there yet.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inferd.plugin import TokenBatch
from inferd_torch.last_tokens import LastTokens
from inferd_torch.plan import Plan, Rows, find_slots
from inferd_torch.pool import Pool
from inferd_torch.sampling import COLUMNS, NO_TOKEN, write_table
from inferd_torch.staging import Staging

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
        self._staging = Staging(
            {
                "numbers": (
                    (4, rows),
                    np.int64,
                ),  # token ids (-1 for those of the step before), positions, slots, origins
                "table": ((len(COLUMNS), rows), np.float64),
                "places": ((self._changes,), np.int64),  # where the tables change,
                "blocks": ((self._changes,), np.int32),  # and what they hold there
                "lengths": ((rows,), np.int32),  # like those of other steps: kernels know one kind
            },
            device,
        )
        # Behind the tables is a cell for changes that are none.
        self._known = np.full(rows * width + 1, self._spare, np.int32)  # what the tables on the device hold
        self._tables = torch.from_numpy(self._known).to(device, copy=True)
        self._shape = rows, width
        for staged in self._staging.here:
            staged["places"][:] = len(self._known) - 1
            self._fill_spare(staged, 0)
        self._staging.send()

    def plan(self, rows: int) -> Plan:
        """What a step over the first `rows` computes; its tensors are views of what is filled, but for the tokens."""
        known, positions, slots, origins = self._staging.there["numbers"][:, :rows]
        token_ids = self._tokens.join(known, origins)
        tables = self._tables[:-1].view(self._shape)
        at = Rows(index=None, tables=tables[:rows], lengths=self._staging.there["lengths"][:rows])
        return Plan(token_ids=token_ids, positions=positions, slots=slots, rows=at)

    def table(self, rows: int) -> torch.Tensor:
        """What tokens of the first `rows` are chosen by, see `inferd_torch.sampling.Draw`."""
        table: torch.Tensor = self._staging.there["table"][:, :rows]
        return table

    def settle(self) -> None:
        """Put what has changed into the tables: computed on the device, as a part of the step."""
        self._tables.scatter_(0, self._staging.there["places"], self._staging.there["blocks"])

    def fill(self, batch: TokenBatch) -> None:
        """Take the inputs of a checked batch of single tokens, at most `rows` of them."""
        count, staged = len(batch.token_ids), self._staging.take()
        staged["numbers"][0, :count] = batch.token_ids
        staged["numbers"][3, :count] = self._tokens.nowhere
        if batch.origins is not None:
            unknown = batch.origins >= 0
            staged["numbers"][0, :count][unknown] = NO_TOKEN
            staged["numbers"][3, :count][unknown] = batch.origins[unknown]
        staged["numbers"][1, :count] = batch.positions
        staged["numbers"][2, :count] = find_slots(batch, self._block_tokens)
        staged["lengths"][:count] = batch.lengths
        self._fill_spare(staged, count)
        if batch.sampling is not None:
            write_table(batch.sampling, staged["table"][:, :count])
        else:
            staged["table"][0] = 0
        self._fill_tables(staged, batch.block_tables)
        self._staging.send()

    def doubt(self) -> None:
        """The last step may not have settled: what the tables on the device hold is not known any more."""
        self._known[:] = -1

    def _fill_tables(self, staged: dict[str, NDArray[Any]], tables: NDArray[np.int32]) -> None:
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
            staged["places"][:changed] = lacking * width + columns
            staged["blocks"][:changed] = blocks
        staged["places"][changed:] = len(self._known) - 1

    def _fill_spare(self, staged: dict[str, NDArray[Any]], first: int) -> None:
        staged["numbers"][:2, first:] = 0
        staged["numbers"][2, first:] = self._spare * self._block_tokens
        staged["numbers"][3, first:] = self._tokens.nowhere
        staged["lengths"][first:] = 1
        staged["table"][0, first:] = 0
