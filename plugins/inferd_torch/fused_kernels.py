"""What lies between the products of a decoder's layer, on CUDA: each step of `fused.py` as one Triton kernel.

They read and write every number once. Sizes of a layer are constants, what changes from step to step is not specialised
on: a model has one variant of each.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inferd_torch.fused import Rotation

GATED = 1024  # numbers of a program of `_gate`
WIDE = 4096  # from this width on a row is computed by more threads


class TritonSteps:
    """`inferd_torch.fused.Steps` for a CUDA device."""

    def norm(self, hidden: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """See `TorchSteps.norm`."""
        rows, width = hidden.shape
        normed = torch.empty_like(hidden)
        padded = triton.next_power_of_2(width)
        _norm[(rows,)](
            hidden,
            hidden if added is None else added,
            weight,
            normed,
            epsilon,
            ADDS=added is not None,
            WIDTH=width,
            PADDED=padded,
            num_warps=8 if padded >= WIDE else 4,
        )
        return normed

    def rotate(self, projected: Tensor, rotation: Rotation, keys: Tensor, values: Tensor) -> Tensor:
        """See `TorchSteps.rotate`."""
        r = rotation
        queries = torch.empty((len(projected), r.heads, r.width), device=projected.device, dtype=projected.dtype)
        _rotate[(len(projected), r.heads + 2 * r.shared)](
            projected,
            queries,
            keys,
            values,
            r.slots,
            r.positions,
            r.cosines,
            r.sines,
            projected if r.query_norm is None else r.query_norm,
            projected if r.key_norm is None else r.key_norm,
            r.epsilon,
            NORMS=r.query_norm is not None,
            HEADS=r.heads,
            SHARED=r.shared,
            HALF=r.width // 2,
            PADDED_HALF=triton.next_power_of_2(r.width // 2),
            num_warps=1,
        )
        return queries

    def gate(self, projected: Tensor) -> Tensor:
        """See `TorchSteps.gate`."""
        rows, width = len(projected), projected.shape[1] // 2
        gated = torch.empty((rows, width), device=projected.device, dtype=projected.dtype)
        _gate[(rows, triton.cdiv(width, GATED))](projected, gated, WIDTH=width, BLOCK=GATED)
        return gated


@triton.jit
def _norm(  # type: ignore[no-untyped-def]
    hidden,
    added,
    weight,
    normed,
    epsilon,
    ADDS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
) -> None:
    columns = tl.arange(0, PADDED)
    kept = columns < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + columns
    kind = hidden.dtype.element_ty
    row = tl.load(hidden + place, mask=kept, other=0.0)
    if ADDS:
        row = (row.to(tl.float32) + tl.load(added + place, mask=kept, other=0.0).to(tl.float32)).to(kind)
        tl.store(hidden + place, row, mask=kept)
    numbers = row.to(tl.float32)
    variance = tl.sum(numbers * numbers, 0) / WIDTH
    scaled = (numbers * tl.rsqrt(variance + epsilon)).to(kind).to(tl.float32)
    weights = tl.load(weight + columns, mask=kept, other=0.0).to(tl.float32)
    tl.store(normed + place, (weights * scaled).to(kind), mask=kept)


@triton.jit(do_not_specialize_on_alignment=["slots", "positions"])
def _rotate(  # type: ignore[no-untyped-def]
    projected,
    queries,
    keys,
    values,
    slots,
    positions,
    cosines,
    sines,
    query_norm,
    key_norm,
    epsilon,
    NORMS: tl.constexpr,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
) -> None:
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, PADDED_HALF)
    kept = columns < HALF
    place = (token * (HEADS + 2 * SHARED) + head) * (2 * HALF) + columns
    kind = projected.dtype.element_ty
    one = tl.load(projected + place, mask=kept, other=0.0)
    two = tl.load(projected + place + HALF, mask=kept, other=0.0)
    slot = tl.load(slots + token).to(tl.int64)
    if head >= HEADS + SHARED:
        target = values + (slot * SHARED + head - HEADS - SHARED) * (2 * HALF) + columns
        tl.store(target, one.to(values.dtype.element_ty), mask=kept)
        tl.store(target + HALF, two.to(values.dtype.element_ty), mask=kept)
    else:
        left, right = one.to(tl.float32), two.to(tl.float32)
        if NORMS:
            norm = query_norm
            if head >= HEADS:
                norm = key_norm
            scale = tl.rsqrt((tl.sum(left * left, 0) + tl.sum(right * right, 0)) / (2 * HALF) + epsilon)
            left = (left * scale).to(kind).to(tl.float32)
            right = (right * scale).to(kind).to(tl.float32)
            left = (left * tl.load(norm + columns, mask=kept, other=0.0).to(tl.float32)).to(kind).to(tl.float32)
            right = (right * tl.load(norm + HALF + columns, mask=kept, other=0.0).to(tl.float32)).to(kind)
            right = right.to(tl.float32)
        angle = tl.load(positions + token).to(tl.int64) * HALF + columns
        cosine = tl.load(cosines + angle, mask=kept, other=0.0)
        sine = tl.load(sines + angle, mask=kept, other=0.0)
        turned, other = left * cosine - right * sine, right * cosine + left * sine
        if head < HEADS:
            target = queries + (token * HEADS + head) * (2 * HALF) + columns
            tl.store(target, turned.to(queries.dtype.element_ty), mask=kept)
            tl.store(target + HALF, other.to(queries.dtype.element_ty), mask=kept)
        else:
            target = keys + (slot * SHARED + head - HEADS) * (2 * HALF) + columns
            tl.store(target, turned.to(keys.dtype.element_ty), mask=kept)
            tl.store(target + HALF, other.to(keys.dtype.element_ty), mask=kept)


@triton.jit
def _gate(projected, gated, WIDTH: tl.constexpr, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kept = columns < WIDTH
    gate = tl.load(projected + row * (2 * WIDTH) + columns, mask=kept, other=0.0).to(tl.float32)
    up = tl.load(projected + row * (2 * WIDTH) + WIDTH + columns, mask=kept, other=0.0).to(tl.float32)
    kind = gated.dtype.element_ty
    opened = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32)
    tl.store(gated + row * WIDTH + columns, (opened * up).to(kind), mask=kept)
