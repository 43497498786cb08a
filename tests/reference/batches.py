"""Batches for sessions, from a plain list of sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inferd.plugin import TokenBatch


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens of one sequence in one step: `ids`, of which the first is at position `past`, over KV `blocks`."""

    ids: Sequence[int]
    blocks: Sequence[int]
    past: int = 0


def make_batch(runs: Sequence[Run], *, every_row: bool = False) -> TokenBatch:
    """The batch of these runs; logits are wanted of each run's last row, or of every row."""
    ends = np.cumsum([len(run.ids) for run in runs])
    tables = np.full((len(runs), max(len(run.blocks) for run in runs)), -1, np.int32)
    for table, run in zip(tables, runs, strict=True):
        table[: len(run.blocks)] = run.blocks
    return TokenBatch(
        token_ids=np.concatenate([run.ids for run in runs]).astype(np.int32),
        positions=np.concatenate([np.arange(run.past, run.past + len(run.ids)) for run in runs]).astype(np.int32),
        starts=np.concatenate([[0], ends]).astype(np.int32),
        lengths=np.array([run.past + len(run.ids) for run in runs], np.int32),
        block_tables=tables,
        logit_rows=(np.arange(ends[-1]) if every_row else ends - 1).astype(np.int32),
    )
