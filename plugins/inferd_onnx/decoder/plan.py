"""One step: the batch, checked, and split into runs of the graph.

GroupQueryAttention takes sequences with one token each side by side, whatever their lengths, and prompts from their
first token on, filled up to the longest of them. Several tokens behind others it takes of one sequence alone, unless it
is told how many tokens each has (`counts.py`).

Short prompts are computed together: with 2, 4, 8 and 16 tokens each that takes 0.45, 0.55, 0.76 and 0.77 of the
processor's time that 8 to 32 of them take one after the other (SmolLM2 in 4 bits, an Intel Xeon with AVX-512). From 32
on nothing is gained, as products are bound by arithmetic then, and what is filled up is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TokenBatch, TokenLimits

Indices = NDArray[np.int64]
FILLED_PART: Final = 0.25  # of a run's tokens: so many rows are filled up at most,
FILLED_ROWS: Final = 4  # or so many, which take less than another run
SHORT: Final = 16  # tokens of a prompt that gains by being computed with others
Joins = Literal["none", "first", "any"]


@dataclass(slots=True, kw_only=True)
class Run:
    """Sequences that are computed together.

    Attributes:
        members: Which sequences of the batch, shape (S,).
        rows: Of the batch, shape (S, N); -1 behind the tokens of those that have fewer than others.
        tables: Block tables, shape (S, W).
        begins: Tokens of each sequence before the run, shape (S,).
        lengths: The same after it.
    """

    members: Indices
    rows: Indices
    tables: Indices
    begins: Indices
    lengths: Indices

    @property
    def counts(self) -> Indices:
        """Tokens of each sequence in the run, shape (S,)."""
        return self.lengths - self.begins

    def reorder(self, order: Indices) -> None:
        """Put the sequences in another order."""
        self.members = self.members[order]
        self.rows, self.tables = self.rows[order], self.tables[order]
        self.begins, self.lengths = self.begins[order], self.lengths[order]


def split(batch: TokenBatch, *, most_tokens: int, joins: Joins = "none", place_tokens: int = 0) -> Iterator[Run]:
    """The runs of a checked batch; the sequences of one have at most so many tokens in all, if they are several.

    Args:
        batch: It.
        most_tokens: See above.
        joins: Which short prompts are computed together: those whose tokens are their first ones, or any.
        place_tokens: Most tokens of one of these, what it is filled up with among them.
    """
    counts, lengths = np.diff(batch.starts), batch.lengths.astype(np.int64)
    singles = np.flatnonzero(counts == 1)
    parts = np.cumsum(lengths[singles]) // max(most_tokens, 1) if len(singles) else singles
    groups: list[NDArray[Any]]
    groups = list(_fit(singles, lengths, most_tokens)) if len(parts) and parts[-1] else [singles]
    prompts = np.flatnonzero(counts > 1)
    short = counts[prompts] <= SHORT
    short &= (joins == "any") | ((joins == "first") & (counts[prompts] == lengths[prompts]))
    groups += _join(prompts[short], counts, lengths, most_tokens=most_tokens, place_tokens=place_tokens)
    groups += [prompts[place : place + 1] for place in np.flatnonzero(~short)]
    for some in groups:
        if len(some):
            yield _make_run(batch, some)


def split_equal(batch: TokenBatch, *, most_tokens: int) -> Iterator[Run]:
    """As `split`, for a graph that takes sequences side by side only where they are equally long, before and behind."""
    lengths, counts = batch.lengths.astype(np.int64), np.diff(batch.starts).astype(np.int64)
    shapes = np.stack([lengths, counts], axis=1)
    for length, count in np.unique(shapes, axis=0):
        members = np.flatnonzero((lengths == length) & (counts == count))
        most = max(1, most_tokens // int(length))
        for first in range(0, len(members), most):
            yield _make_run(batch, members[first : first + most])


def split_alone(batch: TokenBatch) -> Iterator[Run]:
    """As `split`, for a graph in which sequences that are computed together change each other's numbers."""
    for member in range(len(batch.lengths)):
        yield _make_run(batch, np.array([member]))


def _make_run(batch: TokenBatch, members: NDArray[np.intp]) -> Run:
    """The run of some sequences."""
    starts, lengths = batch.starts[members].astype(np.int64), batch.lengths[members].astype(np.int64)
    counts = batch.starts[members + 1] - starts
    places = np.arange(counts.max())
    return Run(
        members=members.astype(np.int64),
        rows=np.where(places < counts[:, None], starts[:, None] + places, -1),
        tables=batch.block_tables[members].astype(np.int64),
        begins=lengths - counts,
        lengths=lengths,
    )


def check_batch(batch: TokenBatch, limits: TokenLimits) -> None:
    """Check all that would read or write outside the model or the pool.

    Raises:
        ValueError: The batch is not what `TokenBatch` promises, or exceeds the limits.
    """
    tokens, sequences = len(batch.token_ids), len(batch.lengths)
    _demand_within("number of tokens", np.array([tokens]), 1, limits.max_step_tokens)
    _demand_within("number of sequences", np.array([sequences]), 1, limits.max_sequences)
    counts = np.diff(batch.starts)
    if batch.starts[0] != 0 or batch.starts[-1] != tokens or len(counts) != sequences or (counts < 1).any():
        raise ValueError(f"bad batch: starts {batch.starts.tolist()}; {sequences + 1} must rise from 0 to {tokens}")
    _demand_within("token id", batch.token_ids, 0, limits.vocabulary_size - 1)
    _demand_within("length", batch.lengths, 1, limits.context_tokens)
    expected = np.repeat(batch.lengths - batch.starts[1:], counts) + np.arange(tokens)
    if not np.array_equal(batch.positions, expected) or (expected < 0).any():
        raise ValueError("bad batch: positions are not consecutive up to the sequence's length less 1")
    used, width = -(-batch.lengths // limits.block_tokens), batch.block_tables.shape[1]
    _demand_within("blocks of a sequence", used, 1, width)
    _demand_within("block", batch.block_tables[np.arange(width) < used[:, None]], 0, limits.blocks - 1)
    for what, rows in (("logit row", batch.logit_rows), ("hidden row", batch.hidden_rows)):
        if rows is not None:
            _demand_within(what, rows, 0, tokens - 1)


def _fit(singles: NDArray[np.intp], lengths: Indices, most_tokens: int) -> Iterator[NDArray[np.intp]]:
    begin, taken = 0, 0
    for place, sequence in enumerate(singles):
        if taken + lengths[sequence] > most_tokens and place > begin:
            yield singles[begin:place]
            begin, taken = place, 0
        taken += int(lengths[sequence])
    yield singles[begin:]


def _join(
    prompts: NDArray[np.intp], counts: NDArray[Any], lengths: Indices, *, most_tokens: int, place_tokens: int
) -> Iterator[NDArray[np.intp]]:
    """Prompts that are computed together, the longest first: little of a run is filled up."""
    group: list[int] = []
    for sequence in prompts[np.argsort(-counts[prompts], kind="stable")].tolist():
        joined = np.array([*group, sequence])
        width = int(counts[joined[0]])
        real = int(counts[joined].sum())
        fits = lengths[joined].sum() <= most_tokens and (lengths - counts)[joined].max() + width <= place_tokens
        filled = len(joined) * width - real
        if group and (filled > max(FILLED_PART * real, FILLED_ROWS) or not fits):
            yield np.array(group)
            group = []
        group.append(sequence)
    if group:
        yield np.array(group)


def _demand_within(what: str, numbers: NDArray[np.integer], low: int, high: int) -> None:
    wrong = (numbers < low) | (numbers > high)
    if wrong.any():
        raise ValueError(f"bad batch: {what} {int(numbers[wrong][0])}; it must be from {low} to {high}")
