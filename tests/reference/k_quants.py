"""Tensors in ggml's k-quants, made in the plainest way: the `gguf` package reads these formats and does not write them.

Each function takes rows of floats whose length is a multiple of 256 and gives blocks, shape (blocks, bytes).
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def _half(numbers: Floats) -> tuple[Bytes, Floats]:
    """Numbers as halves, shape (n, 2), and what these are, shape (n, 1)."""
    halves = numbers.astype(np.float16)[:, None]
    return halves.view(np.uint8), halves.astype(np.float32)


def _divide(numbers: Floats, by: Floats) -> Floats:
    """Rounded to whole numbers; 0 where the divisor is 0."""
    quotients: Floats = np.rint(np.divide(numbers, by, out=np.zeros_like(numbers), where=by != 0))
    return quotients


def _pack_pairs(quants: Bytes) -> Bytes:
    """Numbers of 2 bits, 256 a block: four runs of 32 share each run of 32 bytes."""
    runs = quants.reshape(len(quants), 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.bitwise_or.reduce(runs, axis=2).reshape(len(quants), 64)


def _pack_nibbles(quants: Bytes, run: int) -> Bytes:
    """Numbers of 4 bits: two runs share each run of bytes."""
    runs = quants.reshape(len(quants), -1, 2, run)
    return (runs[:, :, 0] | runs[:, :, 1] << 4).reshape(len(quants), 128)


def _pack_bits(bits: Bytes) -> Bytes:
    """Eight runs of 32 single bits share 32 bytes."""
    runs = bits.reshape(len(bits), 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(runs, axis=1)


def _find_lines(rows: Floats, groups: int, steps: int, levels: int) -> tuple[Bytes, Bytes, Bytes, Bytes, Bytes]:
    """Groups of a block as scale * quant - minimum: both halves, scales, minima, quants."""
    x = rows.reshape(-1, groups, 256 // groups)
    low = np.minimum(x.min(axis=2), 0)
    scales, minima = (x.max(axis=2) - low) / np.float32(steps), -low
    d_bytes, d = _half(scales.max(axis=1) / np.float32(levels))
    m_bytes, m = _half(minima.max(axis=1) / np.float32(levels))
    scale_steps, minimum_steps = (_divide(a, b).clip(0, levels) for a, b in ((scales, d), (minima, m)))
    scale, minimum = (d * scale_steps)[:, :, None], (m * minimum_steps)[:, :, None]
    quants = _divide(x + minimum, np.broadcast_to(scale, x.shape)).clip(0, steps)
    taken = (part.astype(np.uint8) for part in (scale_steps, minimum_steps, quants.reshape(-1, 256)))
    return d_bytes, m_bytes, *taken  # type: ignore[return-value]


def _pack_six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4], axis=1)


def _make_q2_k(rows: Floats) -> Bytes:
    d, m, scales, minima, quants = _find_lines(rows, 16, 3, 15)
    return np.concatenate([scales | minima << 4, _pack_pairs(quants), d, m], axis=1)


def _make_q4_k(rows: Floats) -> Bytes:
    d, m, scales, minima, quants = _find_lines(rows, 8, 15, 63)
    return np.concatenate([d, m, _pack_six_bits(scales, minima), _pack_nibbles(quants, 32)], axis=1)


def _make_q5_k(rows: Floats) -> Bytes:
    d, m, scales, minima, quants = _find_lines(rows, 8, 31, 63)
    high, low = _pack_bits(quants >> 4), _pack_nibbles(quants & 15, 32)
    return np.concatenate([d, m, _pack_six_bits(scales, minima), high, low], axis=1)


def _find_scales(rows: Floats, most: int, levels: int) -> tuple[Bytes, NDArray[np.int8], NDArray[np.int8]]:
    """Groups of 16 as scale * quant about 0: halves, scales, quants."""
    x = rows.reshape(-1, 16, 16)
    peaks = np.take_along_axis(x, np.abs(x).argmax(axis=2)[:, :, None], axis=2)
    scales = -peaks / np.float32(most)
    d_bytes, d = _half(np.abs(scales[:, :, 0]).max(axis=1) / np.float32(levels))
    steps = _divide(scales[:, :, 0], np.broadcast_to(d, scales.shape[:2])).clip(-levels, levels)
    quants = _divide(x, np.broadcast_to((d * steps)[:, :, None], x.shape)).clip(-most, most - 1)
    return d_bytes, steps.astype(np.int8), quants.reshape(-1, 256).astype(np.int8)


def _make_q3_k(rows: Floats) -> Bytes:
    d, scales, quants = _find_scales(rows, 4, 31)
    raised, steps = (quants + 4).astype(np.uint8), (scales + 32).astype(np.uint8)
    high = np.bitwise_or.reduce((steps >> 4).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=1)
    low = steps[:, :8] & 15 | (steps[:, 8:] & 15) << 4
    return np.concatenate([_pack_bits(raised >> 2), _pack_pairs(raised & 3), low, high, d], axis=1)


def _make_q6_k(rows: Floats) -> Bytes:
    d, scales, quants = _find_scales(rows, 32, 127)
    raised = (quants + 32).astype(np.uint8)
    return np.concatenate([_pack_nibbles(raised & 15, 64), _pack_pairs(raised >> 4), scales.view(np.uint8), d], axis=1)


MAKERS: Mapping[str, Callable[[Floats], Bytes]] = {
    "Q2_K": _make_q2_k,
    "Q3_K": _make_q3_k,
    "Q4_K": _make_q4_k,
    "Q5_K": _make_q5_k,
    "Q6_K": _make_q6_k,
}
"""What makes each format."""
