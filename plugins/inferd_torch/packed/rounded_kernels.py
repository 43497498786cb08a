"""Products with weights of fp8 on CUDA: `rounded.py`'s as Triton kernels.

`WideProduct` is for devices that do not multiply such numbers: they are widened as they are read, bit by bit, since not
every device knows their type. `round_rows` makes rows what the others multiply, in one pass.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.packed.kernels import FEW_ROWS, MORE_ROWS, OUTPUTS, PROGRAMS_PER_PROCESSOR, SUMMED, _sum, choose_parts
from inferd_torch.packed.rounded import KIND, LARGEST, LEAST

TILE = 128  # inputs that are read together
STAGES = {FEW_ROWS: 3, MORE_ROWS: 2}
WIDE = 4096  # from this width on a row is rounded by more threads
LIFT = 2.0**120  # between the exponents of e4m3 and float32: 127 - 7


class WideProduct:
    """`inferd_torch.packed.rounded.MultiplyRounded` for one CUDA device with so many multiprocessors."""

    def __init__(self, processors: int) -> None:
        self._programs = processors * PROGRAMS_PER_PROCESSOR

    def __call__(self, inputs: Tensor, numbers: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        """See `inferd_torch.packed.rounded.multiply_wide`."""
        outputs, width = numbers.shape
        parts = 1 if len(inputs) > MORE_ROWS else choose_parts(self._programs, outputs, -(-width // TILE))
        return multiply(inputs, numbers, scales, bias, parts=parts)


def multiply(inputs: Tensor, numbers: Tensor, scales: Tensor, bias: Tensor | None, *, parts: int) -> Tensor:
    """See `inferd_torch.packed.rounded.multiply_wide`; with the inputs in so many parts."""
    inputs = inputs.contiguous()
    (rows, width), outputs = inputs.shape, len(numbers)
    given = torch.empty((rows, outputs), device=inputs.device, dtype=inputs.dtype)
    sums = given
    if parts > 1:
        sums = torch.empty((parts, rows, outputs), device=inputs.device, dtype=torch.float32)
    tile = FEW_ROWS if rows <= FEW_ROWS else MORE_ROWS
    _widen[(triton.cdiv(outputs, OUTPUTS), triton.cdiv(rows, tile), parts)](
        inputs,
        numbers.view(torch.uint8),
        scales,
        inputs if bias is None else bias,
        sums,
        rows,
        parts,
        INPUTS=width,
        OUTPUTS=outputs,
        BIASED=bias is not None and parts == 1,
        TILE=TILE,
        ROWS=tile,
        COLUMNS=OUTPUTS,
        LIFT=LIFT,
        num_stages=STAGES[tile],
    )
    if parts > 1:
        _sum[(rows, triton.cdiv(outputs, SUMMED))](
            sums,
            inputs if bias is None else bias,
            given,
            rows,
            parts,
            OUTPUTS=outputs,
            BIASED=bias is not None,
            BLOCK=SUMMED,
        )
    return given


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """See `inferd_torch.packed.rounded.round_rows`."""
    rows = rows.contiguous()
    count, width = rows.shape
    numbers = torch.empty((count, width), device=rows.device, dtype=KIND)
    scales = torch.empty((count, 1), device=rows.device, dtype=torch.float32)
    padded = triton.next_power_of_2(width)
    _round[(count,)](
        rows,
        numbers,
        scales,
        WIDTH=width,
        PADDED=padded,
        LARGEST=LARGEST,
        LEAST=LEAST,
        num_warps=16 if padded > 2 * WIDE else 8 if padded >= WIDE else 4,
    )
    return numbers, scales


@triton.jit(do_not_specialize=["rows", "parts"])
def _widen(  # type: ignore[no-untyped-def]
    inputs,
    numbers,
    scales,
    bias,
    sums,
    rows,
    parts,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BIASED: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LIFT: tl.constexpr,
) -> None:
    tiles: tl.constexpr = (INPUTS + TILE - 1) // TILE
    part = tl.program_id(2)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there, asked = column < OUTPUTS, row < rows
    share = (tiles + parts - 1) // parts
    whole = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(part * share, tl.minimum((part + 1) * share, tiles)):
        place = tile * TILE + tl.arange(0, TILE)
        known = place < INPUTS
        bits = tl.load(
            numbers + column[:, None] * INPUTS + place[None, :], mask=there[:, None] & known[None, :], other=0
        ).to(tl.int32)
        wide = (((bits & 127) << 20) | ((bits & 128) << 24)).to(tl.float32, bitcast=True) * LIFT
        own = tl.load(inputs + row[:, None] * INPUTS + place[None, :], mask=asked[:, None] & known[None, :], other=0.0)
        whole += tl.dot(own, tl.trans(wide.to(inputs.dtype.element_ty)), input_precision="tf32x3")
    whole *= tl.load(scales + column, mask=there, other=0.0)[None, :]
    if BIASED:
        whole += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)[None, :]
    tl.store(
        sums + (part * rows + row)[:, None] * OUTPUTS + column[None, :],
        whole.to(sums.dtype.element_ty),
        mask=asked[:, None] & there[None, :],
    )


@triton.jit
def _round(  # type: ignore[no-untyped-def]
    rows,
    numbers,
    scales,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    LARGEST: tl.constexpr,
    LEAST: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    kept = columns < WIDTH
    wide = tl.load(rows + row * WIDTH + columns, mask=kept, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(wide), 0) / LARGEST, LEAST)
    small = tl.minimum(tl.maximum(wide / scale, -LARGEST), LARGEST)
    tl.store(scales + row, scale)
    tl.store(numbers + row * WIDTH + columns, small.to(numbers.dtype.element_ty), mask=kept)
