"""The product with weights of 4 bits on CUDA: `linear.py`'s as a Triton kernel.

A program computes a tile of rows and outputs over a part of the inputs. It reads each word once, takes the numbers of a
run out of it, and multiplies them as numbers of the rows' type with sums in float32; no weight is written anywhere. For
few rows the inputs are cut into parts, so that all of the device reads weights, and a second kernel adds these up.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.packed.layouts import RUN, WIDTH

PROGRAMS_PER_PROCESSOR = 4
FEW_ROWS, MORE_ROWS = 16, 64  # of a tile: what a step has that decodes few sequences, and any other
OUTPUTS = 64  # of a tile
LEAST_WIDTHS = 2  # that a part has
SUMMED = 1024  # outputs of a program of `_sum`
STAGES = {FEW_ROWS: 3, MORE_ROWS: 2}  # tiles that are on their way; so two programs fit beside each other


class TritonProduct:
    """`inferd_torch.packed.linear.Multiply` for one CUDA device with so many multiprocessors."""

    def __init__(self, processors: int) -> None:
        self._programs = processors * PROGRAMS_PER_PROCESSOR

    def __call__(
        self,
        inputs: Tensor,
        words: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bias: Tensor | None,
        *,
        group: int,
    ) -> Tensor:
        """See `inferd_torch.packed.linear.multiply`."""
        parts = 1 if len(inputs) > MORE_ROWS else choose_parts(self._programs, len(words), words.shape[1] // RUN)
        return multiply(inputs, words, scales, zeros, bias, group=group, parts=parts)


def choose_parts(programs: int, outputs: int, widths: int) -> int:
    """In how many parts inputs are cut so that there are about so many programs. Rows do not decide it."""
    return max(1, min(programs // -(-outputs // OUTPUTS), widths // LEAST_WIDTHS))


def multiply(
    inputs: Tensor,
    words: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bias: Tensor | None,
    *,
    group: int,
    parts: int,
) -> Tensor:
    """See `inferd_torch.packed.linear.multiply`; with the inputs in so many parts."""
    inputs = inputs.contiguous()
    (rows, width), outputs = inputs.shape, len(words)
    given = torch.empty((rows, outputs), device=inputs.device, dtype=inputs.dtype)
    sums = given
    if parts > 1:
        sums = torch.empty((parts, rows, outputs), device=inputs.device, dtype=torch.float32)
    tile = FEW_ROWS if rows <= FEW_ROWS else MORE_ROWS
    _multiply[(triton.cdiv(outputs, OUTPUTS), triton.cdiv(rows, tile), parts)](
        inputs,
        words,
        scales,
        words if zeros is None else zeros,
        inputs if bias is None else bias,
        sums,
        rows,
        parts,
        INPUTS=width,
        OUTPUTS=outputs,
        GROUP=group or triton.cdiv(width, WIDTH) * WIDTH,
        POINTED=zeros is not None,
        BIASED=bias is not None and parts == 1,
        RUN=RUN,
        WIDTH=WIDTH,
        ROWS=tile,
        COLUMNS=OUTPUTS,
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


@triton.jit(do_not_specialize=["rows", "parts"])
def _multiply(  # type: ignore[no-untyped-def]
    inputs,
    words,
    scales,
    zeros,
    bias,
    sums,
    rows,
    parts,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    GROUP: tl.constexpr,
    POINTED: tl.constexpr,
    BIASED: tl.constexpr,
    RUN: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    widths: tl.constexpr = (INPUTS + WIDTH - 1) // WIDTH
    groups: tl.constexpr = (INPUTS + GROUP - 1) // GROUP
    part = tl.program_id(2)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    run = tl.arange(0, RUN)
    there, asked = column < OUTPUTS, row < rows
    share = (widths + parts - 1) // parts
    whole = tl.zeros((ROWS, COLUMNS), tl.float32)
    zero = tl.full((COLUMNS,), 8.0, tl.float32)
    for chunk in range(part * share, tl.minimum((part + 1) * share, widths)):
        some = tl.load(
            words + column[:, None] * (widths * RUN) + chunk * RUN + run[None, :], mask=there[:, None], other=0
        )
        for place in tl.static_range(WIDTH // RUN):
            first = chunk * WIDTH + place * RUN
            if place * RUN % GROUP == 0:
                at = column * groups + tl.minimum(first // GROUP, groups - 1)
                scale = tl.load(scales + at, mask=there, other=0.0).to(tl.float32)
                if POINTED:
                    zero = tl.load(zeros + at, mask=there, other=0).to(tl.float32)
            numbers = ((some >> (4 * place)) & 15).to(tl.float32)
            weights = ((numbers - zero[:, None]) * scale[:, None]).to(inputs.dtype.element_ty)
            own = tl.load(
                inputs + row[:, None] * INPUTS + first + run[None, :],
                mask=asked[:, None] & (first + run[None, :] < INPUTS),
                other=0.0,
            )
            whole += tl.dot(own, tl.trans(weights), input_precision="tf32x3")
    if BIASED:
        whole += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)[None, :]
    tl.store(
        sums + (part * rows + row)[:, None] * OUTPUTS + column[None, :],
        whole.to(sums.dtype.element_ty),
        mask=asked[:, None] & there[None, :],
    )


@triton.jit(do_not_specialize=["rows", "parts"])
def _sum(  # type: ignore[no-untyped-def]
    sums,
    bias,
    given,
    rows,
    parts,
    OUTPUTS: tl.constexpr,
    BIASED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < OUTPUTS
    whole = tl.zeros((BLOCK,), tl.float32)
    for part in range(parts):
        whole += tl.load(sums + (part * rows + row) * OUTPUTS + column, mask=there, other=0.0)
    if BIASED:
        whole += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
    tl.store(given + row * OUTPUTS + column, whole.to(given.dtype.element_ty), mask=there)
