"""Attention of spans on CUDA: the tiles of `spans.py`, one program for each tile and query head.

Flash attention (arXiv:2205.14135) over the paged pool: keys and values are read tile by tile by the block table, with a
running maximum; query heads that share a key head run beside each other, so that they find it in the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.paged_decode import HALF_BYTES, choose_stages
from inferd_torch.scoring import Scoring
from inferd_torch.spans import FIELDS, ROWS, Spans

MIN_DOT = 16
STAGES = 2
GROUPED = 9  # from here on four warps multiply together
WIDE_BYTES, WIDER_BYTES = 256, 512  # of a key, padded: with more, fewer are read together, by more threads


class PagedPrefill:
    """`inferd_torch.attention.AttendSpans` for a CUDA device of such a capability (its first number)."""

    def __init__(self, capability: int = GROUPED) -> None:
        self._capability = capability

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, spans: Spans, *, scoring: Scoring) -> Tensor:
        """Attend; rows of no span are left as they were."""
        queries = queries.contiguous()
        _, heads, width = queries.shape
        block_tokens, shared, value_width = keys.shape[1], keys.shape[2], values.shape[3]
        mixed = torch.empty((*queries.shape[:2], value_width), device=queries.device, dtype=values.dtype)
        padded, padded_value = (max(MIN_DOT, triton.next_power_of_2(n)) for n in (width, value_width))
        tile, warps = choose_tile(max(padded, padded_value), queries.element_size(), self._capability)
        _attend_tile[(heads, len(spans.tiles))](
            queries,
            keys,
            values,
            spans.tables,
            spans.tiles,
            queries if scoring.sinks is None else scoring.sinks,
            mixed,
            spans.tables.stride(0),
            scoring.window or 0,
            float(scoring.scaling),
            float(scoring.softcap or 0.0),
            CAPPED=scoring.softcap is not None,
            SUNK=scoring.sinks is not None,
            FIELDS=FIELDS,
            HEADS=heads,
            SHARED=shared,
            WIDTH=width,
            VALUE_WIDTH=value_width,
            BLOCK_TOKENS=block_tokens,
            ROWS=ROWS,
            TILE=tile,
            PADDED_WIDTH=padded,
            PADDED_VALUE_WIDTH=padded_value,
            num_warps=warps,
            num_stages=choose_stages(queries.element_size(), STAGES),
        )
        return mixed


def choose_tile(width: int, number_bytes: int, capability: int) -> tuple[int, int]:
    """How many keys are read together, of so many numbers each, and by how many warps: so that all stays in registers.

    Of float32 few are: each product is three, of parts of numbers that are held beside them.

    Args:
        width: Numbers of a key, padded.
        number_bytes: Of each.
        capability: Of the device, its first number.
    """
    row_bytes = width * number_bytes
    if number_bytes > HALF_BYTES:
        return 16, 8
    if row_bytes <= WIDE_BYTES:
        return 64, 8 if row_bytes == WIDE_BYTES and capability < GROUPED else 4
    return (32, 8) if row_bytes <= WIDER_BYTES else (16, 8)


@triton.jit(do_not_specialize=["table_stride", "window"], do_not_specialize_on_alignment=["tables", "tiles"])
def _attend_tile(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    tables,
    tiles,
    sinks,
    mixed,
    table_stride,
    window,
    scaling,
    softcap,
    CAPPED: tl.constexpr,
    SUNK: tl.constexpr,
    FIELDS: tl.constexpr,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,
    PADDED_VALUE_WIDTH: tl.constexpr,
) -> None:
    head, tile = tl.program_id(0), tl.program_id(1)
    shared = head // (HEADS // SHARED)
    table = tables + tl.load(tiles + tile * FIELDS).to(tl.int64) * table_stride
    first = tl.load(tiles + tile * FIELDS + 1)
    position = tl.load(tiles + tile * FIELDS + 2)
    count = tl.load(tiles + tile * FIELDS + 3)
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, PADDED_WIDTH)
    value_columns = tl.arange(0, PADDED_VALUE_WIDTH)
    place = (first + rows).to(tl.int64) * HEADS + head
    query = tl.load(
        queries + place[:, None] * WIDTH + columns[None, :],
        mask=(rows[:, None] < count) & (columns[None, :] < WIDTH),
        other=0.0,
    )
    own = position + tl.minimum(rows, count - 1)
    end = position + count
    begin = position * 0
    if window > 0:
        begin = tl.maximum(position - window + 1, 0) // TILE * TILE
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    whole = tl.zeros((ROWS, PADDED_VALUE_WIDTH), tl.float32)
    for start in range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        known = positions < end
        block = tl.load(table + positions // BLOCK_TOKENS, mask=known, other=0).to(tl.int64)
        cell = (block * BLOCK_TOKENS + positions % BLOCK_TOKENS) * SHARED + shared
        key = tl.load(
            keys + cell[:, None] * WIDTH + columns[None, :],
            mask=known[:, None] & (columns[None, :] < WIDTH),
            other=0.0,
        )
        scores = tl.dot(query, tl.trans(key), input_precision="tf32x3") * scaling
        if CAPPED:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        seen = positions[None, :] <= own[:, None]
        if window > 0:
            seen = seen & (positions[None, :] > own[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(risen == float("-inf"), 0.0, risen)  # a window that begins behind this tile
        fading = tl.exp(highest - base)
        shares = tl.exp(scores - base[:, None])
        value = tl.load(
            values + cell[:, None] * VALUE_WIDTH + value_columns[None, :],
            mask=known[:, None] & (value_columns[None, :] < VALUE_WIDTH),
            other=0.0,
        )
        whole = whole * fading[:, None] + tl.dot(shares.to(value.dtype), value, input_precision="tf32x3")
        total = total * fading + tl.sum(shares, 1)
        highest = risen
    if SUNK:
        total += tl.exp(tl.load(sinks + head).to(tl.float32) - highest)
    tl.store(
        mixed + place[:, None] * VALUE_WIDTH + value_columns[None, :],
        (whole / total[:, None]).to(mixed.dtype.element_ty),
        mask=(rows[:, None] < count) & (value_columns[None, :] < VALUE_WIDTH),
    )
