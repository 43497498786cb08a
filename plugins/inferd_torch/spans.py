"""Attention of spans, several rows of a sequence each, by block tables: what a chunk of a prompt does.

The rows of all spans are cut into tiles of at most `ROWS`, each of which attends alone over the pool: there is no mask
and nothing is gathered, and how long prompts are changes no shape. `attend_spans` states in torch what
`paged_prefill.py` computes on CUDA; the two are compared by tests.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inferd_torch.scoring import Scoring

ROWS = 64  # of a tile, at most
FIELDS = 4  # what is told of a tile, see `Spans`


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Which rows attend, and over what.

    Attributes:
        tiles: Shape (N, 4), int32: the table of each tile, its first row of the step, the position of that row, and
            how many rows it has; one of no rows is none.
        tables: Block tables, shape (S, W), int32.
    """

    tiles: Tensor
    tables: Tensor


def cut_spans(starts: NDArray[np.int64], counts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """The tiles of spans, those that see most keys first: they take longest.

    Args:
        starts: The first row of each, shape (S,).
        counts: How many rows each has, shape (S,).
        lengths: Keys of each, its own rows among them, shape (S,).
    """
    tiles = -(-counts // ROWS)
    tables = np.repeat(np.arange(len(counts)), tiles)
    begin = (np.arange(len(tables)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * ROWS
    positions = (lengths - counts)[tables] + begin
    cut = np.stack((tables, starts[tables] + begin, positions, np.minimum(counts[tables] - begin, ROWS)), axis=1)
    return cut[np.argsort(-positions, kind="stable")].astype(np.int32)


def attend_spans(queries: Tensor, keys: Tensor, values: Tensor, spans: Spans, *, scoring: Scoring) -> Tensor:
    """Paged attention of spans of queries (T, H, D); see `inferd_torch.attention.AttendSpans`."""
    mixed = queries.new_zeros((*queries.shape[:2], values.shape[-1]), dtype=values.dtype)
    block_tokens, shared = keys.shape[1], keys.shape[2]
    for table, row, position, count in spans.tiles.tolist():
        if not count:
            continue
        places = torch.arange(position + count, device=keys.device)
        slots = spans.tables[table, places // block_tokens].long() * block_tokens + places % block_tokens
        own = torch.arange(position, position + count, device=keys.device)[:, None]
        seen = places <= own
        if scoring.window is not None:
            seen &= places > own - scoring.window
        mixed[row : row + count] = attend_seen(
            queries[row : row + count].reshape(count, shared, -1, queries.shape[-1]),
            keys.flatten(0, 1)[slots],
            values.flatten(0, 1)[slots],
            seen,
            scoring=scoring,
        )
    return mixed


def attend_seen(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor, *, scoring: Scoring) -> Tensor:
    """Attention of queries (N, G, R, D) over keys (L, G, D) and values (L, G, E) as `seen` (N, L) says -> (N, GR, E).

    Each row sees a key.
    """
    scores = scoring.of(torch.einsum("ngrd,lgd->grnl", queries.float(), keys.float()))
    scores = scores.masked_fill_(~seen, float("-inf"))
    if scoring.sinks is None:
        shares = scores.softmax(dim=-1)
    else:
        sinks = scoring.sinks.float().reshape(*scores.shape[:2], 1, 1)
        shares = torch.cat((scores, sinks.expand(*scores.shape[:3], 1)), dim=-1).softmax(dim=-1)[..., :-1]
    return torch.einsum("grnl,lge->ngre", shares, values.float()).flatten(1, 2).to(values.dtype)
