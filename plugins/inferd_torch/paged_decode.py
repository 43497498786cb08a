"""Attention of single rows on CUDA: the parts of `split.py` as a Triton kernel, and one that combines them.

A program computes one part of the keys of one sequence for all query heads that share a key head: keys and values are
read once, tile by tile, with a running maximum (online softmax, arXiv:1805.02867). All numbers that change from step to
step are arguments at run time, and none is specialised on: a model has one variant of each kernel for each shape of its
layers, and the first step of each kind, at load, compiles it. Products of float32 are three of tf32, whose sum is as
exact and needs no register for each number.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.scoring import Scoring
from inferd_torch.split import TILE

MIN_DOT = 16  # rows and columns that Triton's product of matrices needs
PROGRAMS_PER_PROCESSOR = 2
MAX_PARTS = 64
STAGES = 3
HALF_BYTES = 2  # of a number of those that models are served in
COMBINED = 16  # parts that are added up together


class PagedDecode:
    """`inferd_torch.attention.AttendRows` for one CUDA device with so many multiprocessors."""

    def __init__(self, processors: int) -> None:
        self._programs = processors * PROGRAMS_PER_PROCESSOR

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor, *, scoring: Scoring
    ) -> Tensor:
        """Attend, in as many parts as the device can compute side by side and the longest sequence can have."""
        most = -(-tables.shape[1] * keys.shape[1] // TILE)
        parts = max(1, min(self._programs // (len(queries) * keys.shape[2]), most, MAX_PARTS))
        means, weights = attend_parts(queries, keys, values, tables, lengths, scoring=scoring, parts=parts)
        return combine(means, weights, scoring.sinks, dtype=values.dtype)


def attend_parts(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    *,
    scoring: Scoring,
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
        parts,
        scoring.window or 0,
        float(scoring.scaling),
        float(scoring.softcap or 0.0),
        CAPPED=scoring.softcap is not None,
        TOGETHER=together,
        WIDTH=width,
        VALUE_WIDTH=value_width,
        BLOCK_TOKENS=block_tokens,
        TILE=TILE,
        PADDED_TOGETHER=max(MIN_DOT, triton.next_power_of_2(together)),
        PADDED_WIDTH=max(MIN_DOT, triton.next_power_of_2(width)),
        PADDED_VALUE_WIDTH=max(MIN_DOT, triton.next_power_of_2(value_width)),
        num_stages=choose_stages(queries.element_size(), STAGES),
    )
    return means, weights


def choose_stages(number_bytes: int, most: int) -> int:
    """How many tiles are on their way at a time: with float32 one, of which wide heads fill the shared memory."""
    return 1 if number_bytes > HALF_BYTES else most


def combine(means: Tensor, weights: Tensor, sinks: Tensor | None, *, dtype: torch.dtype) -> Tensor:
    """See `inferd_torch.split.combine`; the whole as numbers of `dtype`."""
    count, heads, parts, value_width = means.shape
    mixed = torch.empty((count, heads, value_width), device=means.device, dtype=dtype)
    _combine[(count * heads,)](
        means,
        weights,
        weights if sinks is None else sinks,
        mixed,
        parts,
        SUNK=sinks is not None,
        HEADS=heads,
        VALUE_WIDTH=value_width,
        PADDED_VALUE_WIDTH=triton.next_power_of_2(value_width),
        MOST_PARTS=MAX_PARTS,
        TOGETHER=COMBINED,
    )
    return mixed


@triton.jit(do_not_specialize=["table_stride", "parts", "window"], do_not_specialize_on_alignment=["tables", "lengths"])
def _attend_part(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    tables,
    lengths,
    means,
    weights,
    table_stride,
    parts,
    window,
    scaling,
    softcap,
    CAPPED: tl.constexpr,
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
    share = (length - first + parts * TILE - 1) // (parts * TILE) * TILE
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
        scores = tl.dot(query, tl.trans(key), input_precision="tf32x3") * scaling
        if CAPPED:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1))
        fading = tl.exp(highest - risen)
        shares = tl.exp(scores - risen[:, None])
        value = tl.load(
            values + cell[:, None] * VALUE_WIDTH + value_columns[None, :],
            mask=seen[:, None] & (value_columns[None, :] < VALUE_WIDTH),
            other=0.0,
        )
        mixed = mixed * fading[:, None] + tl.dot(shares.to(value.dtype), value, input_precision="tf32x3")
        total = total * fading + tl.sum(shares, 1)
        highest = risen
    kept = rows < TOGETHER
    place = head * parts + part
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    tl.store(weights + place, tl.where(empty, float("-inf"), highest + tl.log(divisor)), mask=kept)
    tl.store(
        means + place[:, None] * VALUE_WIDTH + value_columns[None, :],
        mixed / divisor[:, None],
        mask=kept[:, None] & (value_columns[None, :] < VALUE_WIDTH),
    )


@triton.jit(do_not_specialize=["parts"])
def _combine(  # type: ignore[no-untyped-def]
    means,
    weights,
    sinks,
    mixed,
    parts,
    SUNK: tl.constexpr,
    HEADS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PADDED_VALUE_WIDTH: tl.constexpr,
    MOST_PARTS: tl.constexpr,
    TOGETHER: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    places = tl.arange(0, MOST_PARTS)
    known = tl.load(weights + row * parts + places, mask=places < parts, other=float("-inf"))
    highest = tl.max(known, 0)
    if SUNK:
        sink = tl.load(sinks + row % HEADS).to(tl.float32)
        highest = tl.maximum(highest, sink)
    total = tl.sum(tl.exp(known - highest), 0)
    if SUNK:
        total += tl.exp(sink - highest)
    columns = tl.arange(0, PADDED_VALUE_WIDTH)
    whole = tl.zeros((PADDED_VALUE_WIDTH,), tl.float32)
    for start in range(0, parts, TOGETHER):
        some = start + tl.arange(0, TOGETHER)
        shares = tl.exp(tl.load(weights + row * parts + some, mask=some < parts, other=float("-inf")) - highest)
        mean = tl.load(
            means + (row * parts + some)[:, None] * VALUE_WIDTH + columns[None, :],
            mask=(some[:, None] < parts) & (columns[None, :] < VALUE_WIDTH),
            other=0.0,
        )
        whole += tl.sum(shares[:, None] * mean, 0)
    tl.store(
        mixed + row * VALUE_WIDTH + columns,
        (whole / total).to(mixed.dtype.element_ty),
        mask=columns < VALUE_WIDTH,
    )
