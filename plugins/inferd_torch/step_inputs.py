"""The inputs of steps with prompts at addresses that never change, so that such steps can be recorded once.

A step is filled up to a number of tokens, and all that hangs on how many sequences it has to the most: tokens that are
none lie behind the others, over one key in the pool's spare block, and nothing reads what becomes of them.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inferd.plugin import TokenBatch, TokenLimits
from inferd_torch.last_tokens import LastTokens
from inferd_torch.plan import Plan, Rows, make_plan
from inferd_torch.pool import Pool
from inferd_torch.sampling import COLUMNS, NO_TOKEN, write_table
from inferd_torch.spans import FIELDS, ROWS, Spans
from inferd_torch.staging import Staging

HOST = torch.device("cpu")


class StepInputs:
    """Room for so many tokens of any sequences, and for one row of logits of each of `rows`.

    Attributes:
        tokens: Most tokens.
        rows: Most rows of logits.
    """

    def __init__(self, *, tokens: int, limits: TokenLimits, pool: Pool, last: LastTokens) -> None:
        most = min(limits.max_sequences, tokens)
        self.tokens, self.rows = tokens, most
        self._limits, self._last = limits, last
        self._spare = pool.blocks
        width = -(-limits.context_tokens // limits.block_tokens)
        spans = min(most, tokens // 2)
        self._staging = Staging(
            {
                "numbers": ((4, tokens + 1), np.int64),  # token ids, positions, slots, origins; the last is none
                "table": ((len(COLUMNS), most), np.float64),
                "wanted": ((most,), np.int64),  # rows whose logits are wanted
                "index": ((most,), np.int64),  # rows that attend alone
                "row_tables": ((most, width), np.int32),
                "lengths": ((most,), np.int32),
                "tiles": ((-(-tokens // ROWS) + spans, FIELDS), np.int32),
                "span_tables": ((max(spans, 1), width), np.int32),
            },
            last.cells.device,
        )
        self._clear(self._staging.take())
        self._staging.send()

    def fits(self, batch: TokenBatch) -> bool:
        """Whether a step has room in it, and wants no more than tokens and logits of its sequences."""
        return len(batch.token_ids) <= self.tokens and len(batch.logit_rows) <= self.rows

    def plan(self) -> Plan:
        """What a step computes; its tensors are views of what is filled, but for the tokens."""
        there = self._staging.there
        known, positions, slots, origins = there["numbers"]
        return Plan(
            token_ids=self._last.join(known, origins),
            positions=positions,
            slots=slots,
            rows=Rows(index=there["index"], tables=there["row_tables"], lengths=there["lengths"]),
            spans=Spans(tiles=there["tiles"], tables=there["span_tables"]),
        )

    @property
    def wanted(self) -> Tensor:
        """The rows whose logits are wanted, shape (rows,)."""
        return self._staging.there["wanted"]

    @property
    def table(self) -> Tensor:
        """What tokens are chosen by, see `inferd_torch.sampling.Draw`."""
        return self._staging.there["table"]

    def fill(self, batch: TokenBatch) -> None:
        """Take the inputs of a checked batch that fits."""
        plan, count = make_plan(batch, self._limits, HOST, by_tables=True), len(batch.token_ids)
        staged = self._staging.take()
        self._clear(staged)
        numbers = staged["numbers"]
        for line, tensor in enumerate((plan.token_ids, plan.positions, plan.slots)):
            numbers[line, :count] = tensor.numpy()
        if batch.origins is not None:
            unknown = batch.origins >= 0
            numbers[0, :count][unknown] = NO_TOKEN
            numbers[3, :count][unknown] = batch.origins[unknown]
        if batch.sampling is not None:
            write_table(batch.sampling, staged["table"][:, : len(batch.logit_rows)])
        staged["wanted"][: len(batch.logit_rows)] = batch.logit_rows
        if plan.rows is not None:
            alone = len(plan.rows.lengths)
            index = np.arange(alone) if plan.rows.index is None else plan.rows.index.numpy()
            staged["index"][:alone] = index
            staged["lengths"][:alone] = plan.rows.lengths.numpy()
            _fill_tables(staged["row_tables"], plan.rows.tables.numpy())
        if plan.spans is not None:
            staged["tiles"][: len(plan.spans.tiles)] = plan.spans.tiles.numpy()
            _fill_tables(staged["span_tables"], plan.spans.tables.numpy())
        self._staging.send()

    def _clear(self, staged: dict[str, NDArray[Any]]) -> None:
        """Have it hold nothing."""
        numbers = staged["numbers"]
        numbers[:2], numbers[2] = 0, self._spare * self._limits.block_tokens
        numbers[3] = self._last.nowhere
        staged["table"][0] = 0
        staged["wanted"][:] = staged["index"][:] = self.tokens
        staged["row_tables"][:], staged["lengths"][:], staged["tiles"][:] = self._spare, 1, 0


def _fill_tables(into: np.ndarray, tables: np.ndarray) -> None:
    """Entries of no block are those of the first: nothing reads them."""
    width = min(tables.shape[1], into.shape[1])
    into[: len(tables), :width] = np.maximum(tables[:, :width], 0)
