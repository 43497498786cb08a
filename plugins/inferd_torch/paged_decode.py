"""Attention of single rows on CUDA: the parts of `split.py` as a Triton kernel.

A program computes one part of the keys of one sequence for all query heads that share a key head: keys and values are
read once, tile by tile, with a running maximum (online softmax, arXiv:1805.02867).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.split import TILE, combine

MIN_DOT = 16  # rows and columns that Triton's product of matrices needs
PROGRAMS_PER_PROCESSOR = 2
MAX_PARTS = 64


class PagedDecode:
    """`inferd_torch.attention.AttendRows` for one CUDA device with so many multiprocessors."""

    def __init__(self, processors: int) -> None:
        self._programs = processors * PROGRAMS_PER_PROCESSOR

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        tables: Tensor,
        lengths: Tensor,
        *,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        """Attend, in as many parts as the device can compute side by side and the longest sequence can have."""
        most = -(-tables.shape[1] * keys.shape[1] // TILE)
        parts = max(1, min(self._programs // (len(queries) * keys.shape[2]), most, MAX_PARTS))
        means, weights = attend_parts(
            queries, keys, values, tables, lengths, scaling=scaling, window=window, parts=parts
        )
        return combine(means, weights).to(values.dtype)


def attend_parts(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scaling: float,
    window: int | None,
    parts: int,
) -> tuple[Tensor, Tensor]:
    """See `inferd_torch.split.attend_parts`."""
    queries = queries.contiguous()
    count, heads, width = queries.shape
    block_tokens, shared, value_width = keys.shape[1], keys.shape[2], values.shape[3]
    means = torch.empty((count, heads, parts, value_width), device=queries.device, dtype=torch.float32)
    weights = torch.empty((count, heads, parts), device=queries.device, dtype=torch.float32)
    together = heads // shared
    _attend_part[(count, shared, parts)](
        queries,
        keys,
        values,
        tables,
        lengths,
        means,
        weights,
        tables.stride(0),
        scaling,
        0 if window is None else window,
        PARTS=parts,
        TOGETHER=together,
        WIDTH=width,
        VALUE_WIDTH=value_width,
        BLOCK_TOKENS=block_tokens,
        TILE=TILE,
        PADDED_TOGETHER=max(MIN_DOT, triton.next_power_of_2(together)),
        PADDED_WIDTH=max(MIN_DOT, triton.next_power_of_2(width)),
        PADDED_VALUE_WIDTH=max(MIN_DOT, triton.next_power_of_2(value_width)),
    )
    return means, weights


@triton.jit
def _attend_part(  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a launch names them
    queries,
    keys,
    values,
    tables,
    lengths,
    means,
    weights,
    table_stride,
    scaling,
    window,
    PARTS: tl.constexpr,
    TOGETHER: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE: tl.constexpr,
    PADDED_TOGETHER: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,
    PADDED_VALUE_WIDTH: tl.constexpr,
) -> None:
    sequence, shared, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads_shared = tl.num_programs(1)
    length = tl.load(lengths + sequence)
    first = length * 0
    if window > 0:
        first = tl.maximum(length - window, 0)
    share = (length - first + PARTS * TILE - 1) // (PARTS * TILE) * TILE
    begin = first + part * share
    end = tl.minimum(begin + share, length)
    rows = tl.arange(0, PADDED_TOGETHER)
    columns = tl.arange(0, PADDED_WIDTH)
    value_columns = tl.arange(0, PADDED_VALUE_WIDTH)
    head = (sequence * heads_shared + shared) * TOGETHER + rows
    query = tl.load(
        queries + head[:, None] * WIDTH + columns[None, :],
        mask=(rows[:, None] < TOGETHER) & (columns[None, :] < WIDTH),
        other=0.0,
    )
    highest = tl.full((PADDED_TOGETHER,), float("-inf"), tl.float32)
    total = tl.zeros((PADDED_TOGETHER,), tl.float32)
    mixed = tl.zeros((PADDED_TOGETHER, PADDED_VALUE_WIDTH), tl.float32)
    for start in range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        seen = positions < end
        block = tl.load(tables + sequence * table_stride + positions // BLOCK_TOKENS, mask=seen, other=0).to(tl.int64)
        cell = (block * BLOCK_TOKENS + positions % BLOCK_TOKENS) * heads_shared + shared
        key = tl.load(
            keys + cell[:, None] * WIDTH + columns[None, :],
            mask=seen[:, None] & (columns[None, :] < WIDTH),
            other=0.0,
        )
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
        scores = tl.where(seen[None, :], scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1))
        fading = tl.exp(highest - risen)
        shares = tl.exp(scores - risen[:, None])
        value = tl.load(
            values + cell[:, None] * VALUE_WIDTH + value_columns[None, :],
            mask=seen[:, None] & (value_columns[None, :] < VALUE_WIDTH),
            other=0.0,
        )
        mixed = mixed * fading[:, None] + tl.dot(shares.to(value.dtype), value, input_precision="ieee")
        total = total * fading + tl.sum(shares, 1)
        highest = risen
    kept = rows < TOGETHER
    place = head * PARTS + part
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    tl.store(weights + place, tl.where(empty, float("-inf"), highest + tl.log(divisor)), mask=kept)
    tl.store(
        means + place[:, None] * VALUE_WIDTH + value_columns[None, :],
        mixed / divisor[:, None],
        mask=kept[:, None] & (value_columns[None, :] < VALUE_WIDTH),
    )
