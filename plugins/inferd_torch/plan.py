"""One step: the batch, checked, and what every layer needs to know of it, worked out once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inferd.plugin import TokenBatch, TokenLimits
from inferd_torch.capacity import GATHERED_TOKENS
from inferd_torch.sending import send
from inferd_torch.spans import Spans, cut_spans

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that attend together: of S sequences N rows each, over at most L keys.

    Attributes:
        rows: Rows of the step, shape (S, N).
        slots: Where the keys of each sequence lie in the pool, in tokens, shape (S, L). Behind its end, its first one.
        positions: Of the rows, shape (S, N).
        reach: The last position that each row sees, shape (S, N); None where that is its own.
    """

    rows: Tensor
    slots: Tensor
    positions: Tensor
    reach: Tensor | None = None
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """Which keys a row sees: those up to its reach, with a window only so many before it; shape (S, 1, N, L)."""
        if window not in self._masks:
            keys, rows = torch.arange(self.slots.shape[1], device=self.slots.device), self.positions[:, None, :, None]
            seen = keys <= (rows if self.reach is None else self.reach[:, None, :, None])
            self._masks[window] = seen if window is None else seen & (keys > rows - window)
        return self._masks[window]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Single rows of S sequences that attend by block tables.

    Attributes:
        index: Rows of the step, shape (S,); None for all, in order.
        tables: Block tables, shape (S, W), int32.
        lengths: Keys of each, shape (S,), int32.
    """

    index: Tensor | None
    tables: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a step is to compute.

    Attributes:
        token_ids: Shape (T,).
        positions: Shape (T,).
        slots: Where in the pool each token's key and value go, counted in tokens; shape (T,).
        rows: Single rows that attend by block tables, or None.
        spans: Several rows of a sequence that attend by block tables, or None.
        groups: The other rows.
        turned: Positions in time, rows and columns, shape (3, T); None where they are the tokens' own.
        embedded: What goes into the first layer, shape (T, width); None for what the tokens stand for.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: Rows | None
    spans: Spans | None = None
    groups: tuple[Group, ...] = ()
    turned: Tensor | None = None
    embedded: Tensor | None = None


def make_plan(
    batch: TokenBatch, limits: TokenLimits, device: torch.device, *, by_tables: bool, reach: Indices | None = None
) -> Plan:
    """Plan a checked batch.

    Args:
        batch: It.
        limits: Of the session.
        device: Of the session.
        by_tables: Rows attend by block tables, and none are gathered but those that see later ones.
        reach: The last position that each row sees, shape (T,); None where that is its own.
    """
    size = limits.block_tokens
    starts, lengths = batch.starts.astype(np.int64), batch.lengths.astype(np.int64)
    counts, tables = np.diff(starts), batch.block_tables.astype(np.int64)
    sequences, positions = np.repeat(np.arange(len(counts)), counts), batch.positions.astype(np.int64)
    singles = np.flatnonzero(counts == 1)
    several = np.flatnonzero(counts > 1)
    gathered = several if not by_tables else several[:0]
    if by_tables and reach is not None:
        beyond = np.add.reduceat(reach != positions, starts[:-1]) > 0
        gathered, several = several[beyond[several]], several[~beyond[several]]
    rows = spans = None
    if by_tables and len(singles):
        rows = Rows(
            index=None if len(singles) == len(sequences) else send(starts[singles], device),
            tables=send(batch.block_tables[singles].astype(np.int32), device),
            lengths=send(batch.lengths[singles].astype(np.int32), device),
        )
    if by_tables and len(several):
        spans = Spans(
            tiles=send(cut_spans(starts[several], counts[several], lengths[several]), device),
            tables=send(batch.block_tables[several].astype(np.int32), device),
        )
    groups = []
    shared = () if by_tables else _share(singles, lengths)
    for some in (*shared, *(np.array([sequence]) for sequence in gathered)):
        places = np.arange(lengths[some].max())
        places = np.where(places < lengths[some, None], places, 0)
        group_rows = starts[some, None] + np.arange(counts[some[0]])
        groups.append(
            Group(
                rows=send(group_rows, device),
                slots=send(tables[some[:, None], places // size] * size + places % size, device),
                positions=send(positions[group_rows], device),
                reach=None if reach is None else send(reach[group_rows], device),
            )
        )
    return Plan(
        token_ids=send(batch.token_ids.astype(np.int64), device),
        positions=send(positions, device),
        slots=send(find_slots(batch, size), device),
        rows=rows,
        spans=spans,
        groups=tuple(groups),
    )


def find_slots(batch: TokenBatch, block_tokens: int) -> Indices:
    """Where each token's key and value go, counted in tokens of the pool; shape (T,)."""
    sequences = np.repeat(np.arange(len(batch.lengths)), np.diff(batch.starts))
    blocks = batch.block_tables[sequences, batch.positions // block_tokens].astype(np.int64)
    slots: Indices = blocks * block_tokens + batch.positions % block_tokens
    return slots


def check_batch(batch: TokenBatch, limits: TokenLimits) -> None:
    """Check all that would read or write outside the model or the pool.

    Raises:
        ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits.
    """
    tokens, sequences = len(batch.token_ids), len(batch.lengths)
    _demand_within("number of tokens", np.array([tokens]), 1, limits.max_step_tokens + 1)
    _demand_within("number of sequences", np.array([sequences]), 1, limits.max_sequences + 1)
    counts = np.diff(batch.starts)
    if batch.starts[0] != 0 or batch.starts[-1] != tokens or len(counts) != sequences or (counts < 1).any():
        raise ValueError(f"bad batch: starts {batch.starts.tolist()}; {sequences + 1} must rise from 0 to {tokens}")
    _demand_within("token id", batch.token_ids, 0, limits.vocabulary_size)
    _demand_within("length", batch.lengths, 1, limits.context_tokens + 1)
    expected = np.repeat(batch.lengths - batch.starts[1:], counts) + np.arange(tokens)
    if not np.array_equal(batch.positions, expected) or (expected < 0).any():
        raise ValueError("bad batch: positions are not consecutive up to the sequence's length less 1")
    used = -(-batch.lengths // limits.block_tokens)
    width = batch.block_tables.shape[1]
    _demand_within("blocks of a sequence", used, 1, width + 1)
    _demand_within("block", batch.block_tables[np.arange(width) < used[:, None]], 0, limits.blocks)
    for what, rows, end in (
        ("logit row", batch.logit_rows, tokens),
        ("hidden row", batch.hidden_rows, tokens),
        ("shown row", batch.shown, len(batch.logit_rows)),
    ):
        if rows is not None:
            _demand_within(what, rows, 0, end)
    if batch.origins is not None:
        _demand_within("origin", batch.origins, -1, limits.max_step_tokens)


def _share(singles: NDArray[np.intp], lengths: Indices) -> Iterator[NDArray[np.intp]]:
    """The longest first, so that little is padded, and not too many at once."""
    singles = singles[np.argsort(-lengths[singles], kind="stable")]
    while len(singles):
        fit = max(1, GATHERED_TOKENS // int(lengths[singles[0]]))
        yield singles[:fit]
        singles = singles[fit:]


def _demand_within(what: str, numbers: NDArray[np.integer], low: int, end: int) -> None:
    wrong = (numbers < low) | (numbers >= end)
    if wrong.any():
        raise ValueError(f"bad batch: {what} {int(numbers[wrong][0])}; it must be from {low} to {end - 1}")
