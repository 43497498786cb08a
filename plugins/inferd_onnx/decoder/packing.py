"""Weights as MatMulNBits takes them: blocks of 32 numbers along the inputs, each with a scale.

Source: ONNX Runtime's ContribOperators.md, com.microsoft.MatMulNBits. Of 8 bits the numbers mean -128 to 127; of 4 bits
they mean -8 to 7, or 0 to 15 beside a zero point of each block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd_onnx.decoder.sources import Weight

BLOCK = 32
SLAB_NUMBERS = 1 << 21  # that are unpacked at once
EXACT = {"Q4_0": 4, "Q8_0": 8}
"""Formats whose blocks are those of the operator, so that nothing is rounded, by their bits."""
Q4_0_BYTES, Q8_0_BYTES, SCALE_BYTES = 18, 34, 2  # of a block
HALF = BLOCK // 2
MIDDLE = {4: 8, 8: 128}


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A packed matrix: numbers (N, blocks, bytes of a block), scales (N * blocks,), zero points (N, …) or None."""

    bits: int
    outputs: int
    inputs: int
    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None


def choose_bits(weights: Sequence[Weight], setting: str) -> int:
    """Bits of a matrix that is packed from these: by "auto" 4 where that is exact for all of them, else 8."""
    if setting != "auto":
        return {"4bit": 4, "8bit": 8}[setting]
    return 4 if all(EXACT.get(weight.kind) == 4 for weight in weights) else 8  # noqa: PLR2004 - bits


def packed_bytes(outputs: int, inputs: int, bits: int) -> int:
    """What a packed matrix takes; zero points are counted whether or not it has them."""
    blocks = -(-inputs // BLOCK)
    return outputs * (blocks * (BLOCK * bits // 8 + 4) + -(-blocks * bits // 8))


def pack(weights: Sequence[Weight], bits: int) -> Packed:
    """Pack matrices with the same inputs, one below the other."""
    inputs = weights[0].sizes[1]
    outputs, blocks = sum(weight.sizes[0] for weight in weights), -(-inputs // BLOCK)
    numbers = np.empty((outputs, blocks, BLOCK * bits // 8), np.uint8)
    scales = np.empty((outputs, blocks), np.float32)
    exact = all(EXACT.get(weight.kind) == bits for weight in weights)
    zeros = None if exact or bits == 8 else np.zeros((outputs, blocks + blocks % 2), np.uint8)  # noqa: PLR2004 - bits
    slab, row = max(1, SLAB_NUMBERS // inputs), 0
    for weight in weights:
        for begin in range(0, weight.sizes[0], slab):
            end = min(begin + slab, weight.sizes[0])
            to = slice(row, row + end - begin)
            row += end - begin
            if exact:
                numbers[to], scales[to] = _take(weight.raw(begin, end), blocks, bits)
            elif zeros is None:
                numbers[to], scales[to] = _round_even(_blocks(weight.rows(begin, end)))
            else:
                numbers[to], scales[to], zeros[to, :blocks] = _round_range(_blocks(weight.rows(begin, end)))
    return Packed(bits, outputs, inputs, numbers, scales.reshape(-1), None if zeros is None else _join(zeros))


def _blocks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (N, K) as blocks (N, blocks, 32); the last one filled up with zeros."""
    missing = -rows.shape[1] % BLOCK
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)))
    return rows.reshape(len(rows), -1, BLOCK)


def _take(raw: NDArray[np.uint8], blocks: int, bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Of GGUF's own blocks the numbers and the scales."""
    raw = np.ascontiguousarray(raw).reshape(len(raw), blocks, Q4_0_BYTES if bits == 4 else Q8_0_BYTES)  # noqa: PLR2004
    scales = np.ascontiguousarray(raw[..., :SCALE_BYTES]).view(np.float16)[..., 0].astype(np.float32)
    held = raw[..., SCALE_BYTES:]
    if bits == 8:  # noqa: PLR2004 - bits
        return held ^ np.uint8(128), scales  # from int8 to what is 128 more
    return _join(
        np.concatenate([held & np.uint8(15), held >> np.uint8(4)], axis=-1)
    ), scales  # the second half is in the upper bits


def _round_even(blocks: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    scales = np.abs(blocks).max(axis=-1) / 127
    numbers = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None]) + MIDDLE[8]
    return numbers.astype(np.uint8), scales


def _round_range(blocks: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """4 bits from the smallest number of a block, or 0, to the largest, or 0."""
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    scales = (high - low) / 15
    some = np.where(scales == 0, 1, scales)
    zeros = np.rint(-low / some)
    numbers = np.clip(np.rint(blocks / some[..., None]) + zeros[..., None], 0, 15)
    return _join(numbers.astype(np.uint8)), scales, zeros.astype(np.uint8)


def _join(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two numbers of 4 bits in a byte, the first one in the lower bits."""
    joined: NDArray[np.uint8] = numbers[..., 0::2] | numbers[..., 1::2] << np.uint8(4)
    return joined
