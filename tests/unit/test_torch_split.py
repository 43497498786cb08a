"""Attention in parts, and of spans, against plain attention."""

from itertools import product

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from inferd_torch.scoring import Scoring
from inferd_torch.spans import ROWS, Spans, attend_spans, cut_spans
from inferd_torch.split import TILE, attend_parts, attend_split, part_tokens

WIDTH, VALUE_WIDTH, BLOCK_TOKENS, TABLE = 24, 40, 8, 40
LENGTHS = (1, BLOCK_TOKENS, TILE, TILE + 1, 3 * TILE - 1, TABLE * BLOCK_TOKENS)


def make(lengths: tuple[int, ...], heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, a pool of keys and values, shuffled block tables, lengths."""
    torch.manual_seed(3)
    count = len(lengths)
    blocks = count * TABLE
    return (
        torch.randn(count, heads, WIDTH),
        torch.randn(blocks, BLOCK_TOKENS, shared, WIDTH),
        torch.randn(blocks, BLOCK_TOKENS, shared, VALUE_WIDTH),
        torch.randperm(blocks).reshape(count, TABLE).int(),
        torch.tensor(lengths, dtype=torch.int32),
    )


@pytest.mark.parametrize(
    ("heads", "window", "parts"), list(product([(4, 4), (6, 2), (8, 1)], [None, 5, 100], [1, 4, 7]))
)
def test_parts_make_the_whole(heads: tuple[int, int], window: int | None, parts: int) -> None:
    """Attention over parts of the keys gives what attention over all of them gives, whatever is shared or seen."""
    queries, keys, values, tables, lengths = make(LENGTHS, *heads)
    scoring = Scoring(scaling=0.3, window=window)
    given = attend_split(queries, keys, values, tables, lengths, scoring=scoring, parts=parts)
    for row, length in enumerate(LENGTHS):
        first = 0 if window is None else max(0, length - window)
        own_keys, own_values = (pool[tables[row].long()].flatten(0, 1)[first:length] for pool in (keys, values))
        expected = scaled_dot_product_attention(
            queries[row][:, None],
            own_keys.transpose(0, 1),
            own_values.transpose(0, 1),
            scale=scoring.scaling,
            enable_gqa=True,
        )
        torch.testing.assert_close(given[row], expected[:, 0], rtol=0, atol=1e-5)


def test_a_part_without_keys_weighs_nothing() -> None:
    """Where a sequence is shorter than its parts, the empty ones weigh -inf and hold no NaN."""
    queries, keys, values, tables, lengths = make((1, 2 * TILE), 4, 2)
    means, weights = attend_parts(queries, keys, values, tables, lengths, scoring=Scoring(scaling=1.0), parts=3)
    assert torch.isinf(weights).sum(dim=1).tolist() == [[0, 4, 4], [0, 0, 4]]
    assert torch.isfinite(means).all()


def test_parts_are_whole_tiles() -> None:
    """The parts of any number of keys are whole tiles that hold all of them, and none is needlessly large."""
    counts = torch.arange(1, 1000)
    for parts in (1, 2, 5):
        share = part_tokens(counts, parts)
        assert (share % TILE == 0).all()
        assert (share * parts >= counts).all()
        assert (share * parts < counts + TILE * parts).all()


def plainly(queries: Tensor, keys: Tensor, values: Tensor, *, begin: int, scoring: Scoring) -> Tensor:
    """Attention of rows from position `begin` on, in float64 and head by head."""
    mixed = torch.zeros(len(queries), queries.shape[1], values.shape[2], dtype=torch.float64)
    shared = queries.shape[1] // keys.shape[1]
    for row, head in product(range(len(queries)), range(queries.shape[1])):
        end = begin + row + 1
        first = 0 if scoring.window is None else max(0, end - scoring.window)
        own = keys[first:end, head // shared].double()
        scores = own @ queries[row, head].double() * scoring.scaling
        if scoring.softcap is not None:
            scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
        weights = scores.exp()
        total = weights.sum() + (scoring.sinks[head].double().exp() if scoring.sinks is not None else 0.0)
        mixed[row, head] = weights @ values[first:end, head // shared].double() / total
    return mixed.float()


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sunk", [False, True])
def test_spans_and_single_rows_see_what_they_should(window: int | None, softcap: float | None, *, sunk: bool) -> None:
    """Rows of prompts' chunks and single rows attend as plain attention says, with windows, caps and sinks."""
    heads, shared = 4, 2
    lengths, counts = np.array([2, ROWS + 21, 40]), np.array([2, ROWS + 9, 1])
    _, keys, values, tables, _ = make(tuple(lengths), heads, shared)
    scoring = Scoring(scaling=0.3, window=window, softcap=softcap, sinks=torch.linspace(-1, 2, heads) if sunk else None)
    starts = np.cumsum(counts) - counts
    rows = torch.randn(int(counts.sum()), heads, WIDTH)
    tiles = cut_spans(starts[:2], counts[:2], lengths[:2])
    assert tiles[:, 3].sum() == counts[:2].sum()
    given = attend_spans(rows, keys, values, Spans(tiles=torch.from_numpy(tiles), tables=tables), scoring=scoring)
    given[-1:] = attend_split(rows[-1:], keys, values, tables[2:], torch.tensor([40]), scoring=scoring)
    for number, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        own = [pool[tables[number].long()].flatten(0, 1)[:length] for pool in (keys, values)]
        some = slice(starts[number], starts[number] + count)
        expected = plainly(rows[some], *own, begin=int(length - count), scoring=scoring)
        torch.testing.assert_close(given[some], expected, rtol=0, atol=1e-5)
