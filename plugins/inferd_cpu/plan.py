"""One step: the batch, checked, and what every layer needs to know of it, worked out once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenBatch, TokenLimits

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that attend together: of S sequences N rows each. L is the most keys that are taken of one of them.

    Attributes:
        rows: Rows of the step, shape (S, N).
        blocks: KV blocks of each sequence, from the first that a row sees, shape (S, blocks); behind a sequence's last
            one any valid block.
        keys: L.
        first_keys: The position of the first of these keys, shape (S,).
        positions: Those of the rows, shape (S, N).
        masked_from: All rows see all keys of these blocks before this one.
        mask: Added to the scores of the keys from `masked_from` to L: 0, or -inf for those that a row must not see;
            shape (S, N, L - masked_from).
    """

    rows: Indices
    blocks: Indices
    keys: int
    first_keys: Indices
    positions: Indices
    masked_from: int
    mask: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a step is to compute.

    Attributes:
        token_ids: Shape (T,).
        positions: Shape (T,).
        slots: Where in the pool each token's key and value go, counted in tokens; shape (T,).
        window_slots: The same in the pool of layers with a window, where there is one.
        groups: By the window of layers, 0 for none: every row is in one of a window's.
        logit_rows: Shape (R,).
        tables: The blocks of each row's sequence, shape (T, blocks).
        starts: Where each sequence's rows begin, and the end of all; shape (S + 1,).
        sequence_tables: The blocks of each sequence, shape (S, blocks).
        sequence_window_tables: The same in the pool of layers with a window, where there is one.
        block_tokens: Tokens in a block.
        beyond: Whose sequences rotate as those beyond the border do, shape (T,); None where all rotate alike.
    """

    token_ids: Indices
    positions: Indices
    slots: Indices
    window_slots: Indices
    groups: Mapping[int, tuple[Group, ...]]
    logit_rows: Indices
    tables: Indices
    starts: Indices
    sequence_tables: NDArray[np.int32]
    sequence_window_tables: NDArray[np.int32]
    block_tokens: int
    beyond: NDArray[np.bool_] | None

    def slots_before(self, back: int) -> tuple[Indices, NDArray[np.bool_]]:
        """Where the token is that comes `back` before each, and whether there is one; shapes (T,)."""
        positions = self.positions - back
        kept = np.maximum(positions, 0)
        blocks = np.take_along_axis(self.tables, kept[:, None] // self.block_tokens, axis=1)[:, 0]
        return blocks * self.block_tokens + kept % self.block_tokens, positions >= 0


def make_plan(
    batch: TokenBatch,
    limits: TokenLimits,
    *,
    gathered_blocks: int,
    scores_per_head: int,
    windows: Iterable[int] = (0,),
    causal: bool = True,
    reach: Callable[[], NDArray[np.int64] | None] = lambda: None,
) -> Plan:
    """Check a batch and plan its step, for layers with these windows; if not `causal`, rows see those behind them.

    `reach` gives the last position that each row sees, shape (T,); None where that is its own. It is called for a batch
    that was checked.

    A group gathers at most `gathered_blocks` blocks and has at most `scores_per_head` scores in each head, so that the
    workspace holds them. Both permit at least one row of the longest sequence.

    Raises:
        ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits.
    """
    check_batch(batch, limits)
    if not causal:
        check_whole(batch)
    starts, lengths = batch.starts.astype(np.intp), batch.lengths.astype(np.intp)
    positions = batch.positions.astype(np.intp)
    sequences = np.repeat(np.arange(len(lengths)), np.diff(starts))
    tables = batch.block_tables[sequences].astype(np.intp)
    windowed = batch.block_tables if batch.window_tables is None else batch.window_tables
    bounds = _Bounds(limits.block_tokens, gathered_blocks, scores_per_head, causal)
    reached = reach()
    seen = (positions if reached is None else reached.astype(np.intp)) + 1
    if not causal:
        seen = lengths[sequences]
    return Plan(
        token_ids=batch.token_ids.astype(np.intp),
        positions=positions,
        slots=_find_slots(batch.block_tables[sequences], positions, limits.block_tokens),
        window_slots=_find_slots(windowed[sequences], positions, limits.block_tokens),
        groups={
            window: tuple(
                _make_group(batch, windowed if window else batch.block_tables, rows, sequences, bounds, window, seen)
                for rows in _share_rows(starts, lengths, bounds)
            )
            for window in windows
        },
        logit_rows=batch.logit_rows.astype(np.intp),
        tables=tables,
        starts=starts,
        sequence_tables=batch.block_tables,
        sequence_window_tables=windowed,
        block_tokens=limits.block_tokens,
        beyond=batch.beyond[sequences] if limits.border_tokens and batch.beyond is not None else None,
    )


def _find_slots(tables: NDArray[np.int32], positions: Indices, block_tokens: int) -> Indices:
    """Where tokens are in a pool, counted in tokens; `tables` has the blocks of each one's sequence."""
    blocks = np.take_along_axis(tables, positions[:, None] // block_tokens, axis=1)[:, 0].astype(np.intp)
    return np.asarray(blocks * block_tokens + positions % block_tokens, np.intp)


@dataclass(frozen=True, slots=True)
class _Bounds:
    block_tokens: int
    gathered_blocks: int
    scores_per_head: int
    causal: bool

    def blocks(self, keys: int) -> int:
        return -(-keys // self.block_tokens)


def _share_rows(starts: Indices, lengths: Indices, bounds: _Bounds) -> Iterator[Indices]:
    """The rows of each group, shape (S, N).

    Single rows of several sequences go together, the longest first, so that little is padded; the rows of a longer run
    go alone, in pieces.
    """
    counts = np.diff(starts)
    singles = np.flatnonzero(counts == 1)
    singles = singles[np.argsort(-lengths[singles], kind="stable")]
    while len(singles):
        keys = int(lengths[singles[0]])
        fit = max(1, min(bounds.gathered_blocks // bounds.blocks(keys), bounds.scores_per_head // keys))
        yield starts[singles[:fit], None]
        singles = singles[fit:]
    for sequence in np.flatnonzero(counts > 1):
        fit = max(1, bounds.scores_per_head // int(lengths[sequence]))
        for first in range(starts[sequence], starts[sequence + 1], fit):
            yield np.arange(first, min(first + fit, starts[sequence + 1]))[None, :]


def _make_group(  # noqa: PLR0917 - all of one step
    batch: TokenBatch,
    block_tables: NDArray[np.int32],
    rows: Indices,
    sequences: Indices,
    bounds: _Bounds,
    window: int,
    all_seen: Indices,
) -> Group:
    seen, at = all_seen[rows], batch.positions[rows].astype(np.intp)
    first = np.zeros_like(seen)
    if window and bounds.causal:
        first = np.maximum(at + 1 - window, 0)
    elif window:  # one half of it is behind a token
        first, seen = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, seen)
    skipped = first.min(axis=1) // bounds.block_tokens  # blocks of each sequence that no row sees
    begin = skipped[:, None] * bounds.block_tokens
    seen, first = seen - begin, first - begin
    keys, masked_from = int(seen.max()), 0 if first.any() else int(seen.min())
    places = np.arange(masked_from, keys)
    visible = (places < seen[:, :, None]) & (places >= first[:, :, None])
    tables = block_tables[sequences[rows[:, 0]]]
    chosen = np.minimum(skipped[:, None] + np.arange(bounds.blocks(keys)), tables.shape[1] - 1)
    blocks = np.take_along_axis(tables, chosen, axis=1).astype(np.intp)
    mask = np.where(visible, np.float32(0), np.float32(-np.inf))
    return Group(
        rows=rows,
        blocks=np.maximum(blocks, 0),
        keys=keys,
        first_keys=begin[:, 0],
        positions=at,
        masked_from=masked_from,
        mask=mask,
    )


def check_batch(batch: TokenBatch, limits: TokenLimits) -> None:
    """Check that a batch is what `TokenBatch` promises and within the limits.

    Raises:
        ValueError: It is not; the message has the figure.
    """
    tokens, sequences = len(batch.token_ids), len(batch.lengths)
    _demand(1 <= tokens <= limits.max_step_tokens, f"{tokens} tokens; a step takes 1 to {limits.max_step_tokens}")
    _demand(sequences <= limits.max_sequences, f"{sequences} sequences; a step takes at most {limits.max_sequences}")
    shapes = (batch.positions.shape, batch.starts.shape, batch.block_tables.shape[:1])
    _demand(
        shapes == ((tokens,), (sequences + 1,), (sequences,)),
        f"positions, starts and block_tables of shapes {shapes} for {tokens} tokens of {sequences} sequences",
    )
    counts = np.diff(batch.starts)
    _demand(
        batch.starts[0] == 0 and batch.starts[-1] == tokens and bool((counts > 0).all()),
        f"starts {batch.starts.tolist()}; they must rise from 0 to {tokens}",
    )
    _demand_within("token id", batch.token_ids, 0, limits.vocabulary_size)
    _demand_within("length", batch.lengths, 1, limits.context_tokens + 1)
    expected = np.repeat(batch.lengths - batch.starts[1:], counts) + np.arange(tokens)
    _demand(
        bool((batch.positions == expected).all()) and bool((batch.positions >= 0).all()),
        "positions are not consecutive up to the sequence's length less 1",
    )
    width = batch.block_tables.shape[1]
    used = -(-batch.lengths // limits.block_tokens)
    _demand(int(used.max()) <= width, f"block tables of {width} blocks for sequences of {int(used.max())}")
    _demand_within("block", batch.block_tables[np.arange(width) < used[:, None]], 0, limits.blocks)
    if limits.window_blocks:
        check_windows(batch, limits)
    if limits.border_tokens:
        check_beyond(batch, limits)
    _demand_within("logit row", batch.logit_rows, 0, tokens)
    if batch.hidden_rows is not None:
        _demand_within("hidden row", batch.hidden_rows, 0, tokens)


def check_whole(batch: TokenBatch) -> None:
    """Check that all of each sequence is in a batch.

    Raises:
        ValueError: A part is not.
    """
    whole = (np.diff(batch.starts) == batch.lengths).all()
    _demand(bool(whole), "a part of a sequence, whose tokens see all others")


def check_windows(batch: TokenBatch, limits: TokenLimits) -> None:
    """Check that the tables of layers with a window have what the tokens of a step see.

    Raises:
        ValueError: They have not.
    """
    tables = batch.window_tables
    _demand(
        tables is not None and tables.shape == batch.block_tables.shape,
        f"window tables of shape {None if tables is None else tables.shape} beside block tables of"
        f" {batch.block_tables.shape}",
    )
    first = np.maximum(batch.positions[batch.starts[:-1]] + 1 - limits.window_tokens, 0) // limits.block_tokens
    used = -(-batch.lengths // limits.block_tokens)
    at = np.arange(batch.block_tables.shape[1])
    seen = (at >= first[:, None]) & (at < used[:, None])
    _demand_within("window block", np.asarray(tables)[seen], 0, limits.window_blocks)


def check_beyond(batch: TokenBatch, limits: TokenLimits) -> None:
    """Check that a step says of each sequence whether it is longer than the border, and of no long one that it is not.

    Raises:
        ValueError: It does not.
    """
    beyond, border = batch.beyond, limits.border_tokens
    _demand(
        beyond is not None and beyond.shape == batch.lengths.shape,
        f"beyond of shape {None if beyond is None else beyond.shape} for {len(batch.lengths)} sequences",
    )
    wrong = batch.lengths[(batch.lengths > border) & ~np.asarray(beyond)]
    _demand(not len(wrong), f"a sequence of {wrong[:1]} tokens that is not said to be beyond the border, {border}")


def check_pairs(pairs: Sequence[tuple[int, int]], limits: TokenLimits) -> None:
    """Check that pairs of blocks are in one pool each, those of windows numbered behind the others.

    Raises:
        ValueError: They are not.
    """
    end = limits.blocks + limits.window_blocks
    for pair in pairs:
        for block in pair:
            if not 0 <= block < end:
                raise ValueError(f"bad pair: block {block}; it must be from 0 to {end - 1}")
        if (pair[0] < limits.blocks) != (pair[1] < limits.blocks):
            raise ValueError(f"bad pair: {pair}; one block is of the pool of windows, whose first is {limits.blocks}")


def _demand_within(what: str, numbers: NDArray[np.int32], low: int, end: int) -> None:
    wrong = (numbers < low) | (numbers >= end)
    if wrong.any():
        raise ValueError(f"bad batch: {what} {int(numbers[wrong][0])}; it must be from {low} to {end - 1}")


def _demand(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not condition:
        raise ValueError(f"bad batch: {otherwise}")
