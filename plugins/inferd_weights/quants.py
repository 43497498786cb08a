"""Stored number formats and how their blocks become fp32, vectorised.

The layouts are those of ggml (`ggml-common.h`); a block is a run of numbers along a row that share scales. In every
function below n is the number of blocks; `raw` has shape (n, block bytes); the result has shape (n, block elements).
The order of the floating-point operations is that of ggml, so that results are equal bit by bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inferd_weights import quants_small as small

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_NIBBLES = np.array([0, 4], np.uint8)
_PAIRS = np.array([0, 2, 4, 6], np.uint8)
_BITS = np.arange(8, dtype=np.uint8)
_LOW_1, _LOW_2, _LOW_4, _HIGH_4 = np.uint8(1), np.uint8(3), np.uint8(15), np.uint8(4)


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored: blocks of `block_elements` numbers in `block_bytes` bytes, and how to decode them."""

    name: str
    block_elements: int
    block_bytes: int
    decode: Callable[[Bytes], Floats]


def _half(raw: Bytes, at: int) -> Floats:
    """The fp16 at byte `at` of each block, shape (n, 1)."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes, run: int) -> Bytes:
    """Low halves of `run` bytes, then their high halves, and so on: shape (n, 2 * bytes)."""
    parts = raw.reshape(len(raw), -1, 1, run) >> _NIBBLES[:, None]
    return (parts & _LOW_4).reshape(len(raw), -1)


def _fifth_bits(raw: Bytes) -> Bytes:
    """32 bits in 4 bytes, each moved to bit 4: shape (n, 32)."""
    bits = (raw[:, :, None] >> _BITS) & _LOW_1
    return (bits << _HIGH_4).reshape(len(raw), 32)


def _scaled(scale: Floats, quants: NDArray[np.integer]) -> Floats:
    """Quants times their scale, with one new array."""
    out = quants.astype(np.float32)
    out *= scale
    return out


def _decode_f32(raw: Bytes) -> Floats:
    return raw.view(np.float32)


def _decode_f16(raw: Bytes) -> Floats:
    return raw.view(np.float16).astype(np.float32)


def _decode_bf16(raw: Bytes) -> Floats:
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _decode_q4_0(raw: Bytes) -> Floats:
    return _scaled(_half(raw, 0), _nibbles(raw[:, 2:], 16).view(np.int8) - np.int8(8))


def _decode_q4_1(raw: Bytes) -> Floats:
    out = _scaled(_half(raw, 0), _nibbles(raw[:, 4:], 16))
    out += _half(raw, 2)
    return out


def _decode_q5_0(raw: Bytes) -> Floats:
    quants = _nibbles(raw[:, 6:], 16) | _fifth_bits(raw[:, 2:6])
    return _scaled(_half(raw, 0), quants.view(np.int8) - np.int8(16))


def _decode_q5_1(raw: Bytes) -> Floats:
    out = _scaled(_half(raw, 0), _nibbles(raw[:, 8:], 16) | _fifth_bits(raw[:, 4:8]))
    out += _half(raw, 2)
    return out


def _decode_q8_0(raw: Bytes) -> Floats:
    return _scaled(_half(raw, 0), raw[:, 2:].view(np.int8))


def _pairs(raw: Bytes) -> Bytes:
    """The four 2-bit fields of each of 32 bytes, lowest fields first: shape (n, 4 * bytes)."""
    parts = raw.reshape(len(raw), -1, 1, 32) >> _PAIRS[:, None]
    return (parts & _LOW_2).reshape(len(raw), -1)


def _grouped(scales: Floats, quants: NDArray[np.integer]) -> Floats:
    """Groups of quants times their scales: shape (n, groups, quants in a group)."""
    groups = quants.reshape(len(quants), scales.shape[1], -1)
    return _scaled(scales[:, :, None], groups)


def _decode_q2_k(raw: Bytes) -> Floats:
    packed = raw[:, :16]
    out = _grouped(_half(raw, 80) * (packed & 15), _pairs(raw[:, 16:80]))
    out -= (_half(raw, 82) * (packed >> 4))[:, :, None]
    return out.reshape(-1, 256)


def _decode_q3_k(raw: Bytes) -> Floats:
    low = _nibbles(raw[:, 96:104], 8)
    high = ((raw[:, None, 104:108] >> _PAIRS[:, None]) & 3).reshape(-1, 16)
    scales = (low | (high << 4)).view(np.int8) - np.int8(32)
    # A clear bit of the mask takes 4 away: bit b of byte l belongs to the b-th run of 32 numbers.
    mask = ((raw[:, None, :32] >> _BITS[:, None]) & 1).reshape(-1, 256)
    quants = (_pairs(raw[:, 32:96]) | (mask << 2)).view(np.int8) - np.int8(4)
    return _grouped(_half(raw, 108) * scales, quants).reshape(-1, 256)


def _six_bit_scales(raw: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of 6 bits each, from 12 bytes: shapes (n, 8)."""
    first, second, third = raw[:, :4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minima


def _decode_k_with_minima(raw: Bytes, quants: Bytes) -> Floats:
    scales, minima = _six_bit_scales(raw[:, 4:16])
    out = _grouped(_half(raw, 0) * scales, quants)
    out -= (_half(raw, 2) * minima)[:, :, None]
    return out.reshape(-1, 256)


def _decode_q4_k(raw: Bytes) -> Floats:
    return _decode_k_with_minima(raw, _nibbles(raw[:, 16:144], 32))


def _decode_q5_k(raw: Bytes) -> Floats:
    fifth = ((raw[:, None, 16:48] >> _BITS[:, None]) & _LOW_1).reshape(-1, 256)
    return _decode_k_with_minima(raw, _nibbles(raw[:, 48:176], 32) | (fifth << _HIGH_4))


def _decode_q6_k(raw: Bytes) -> Floats:
    quants = (_nibbles(raw[:, :128], 64) | (_pairs(raw[:, 128:192]) << 4)).view(np.int8) - np.int8(32)
    return _grouped(_half(raw, 208) * raw[:, 192:208].view(np.int8), quants).reshape(-1, 256)


FORMATS: Mapping[int, Format] = {
    0: Format("F32", 1, 4, _decode_f32),
    1: Format("F16", 1, 2, _decode_f16),
    2: Format("Q4_0", 32, 18, _decode_q4_0),
    3: Format("Q4_1", 32, 20, _decode_q4_1),
    6: Format("Q5_0", 32, 22, _decode_q5_0),
    7: Format("Q5_1", 32, 24, _decode_q5_1),
    8: Format("Q8_0", 32, 34, _decode_q8_0),
    10: Format("Q2_K", 256, 84, _decode_q2_k),
    11: Format("Q3_K", 256, 110, _decode_q3_k),
    12: Format("Q4_K", 256, 144, _decode_q4_k),
    13: Format("Q5_K", 256, 176, _decode_q5_k),
    14: Format("Q6_K", 256, 210, _decode_q6_k),
    16: Format("IQ2_XXS", 256, 66, small.decode_iq2_xxs),
    17: Format("IQ2_XS", 256, 74, small.decode_iq2_xs),
    18: Format("IQ3_XXS", 256, 98, small.decode_iq3_xxs),
    19: Format("IQ1_S", 256, 50, small.decode_iq1_s),
    20: Format("IQ4_NL", 32, 18, small.decode_iq4_nl),
    21: Format("IQ3_S", 256, 110, small.decode_iq3_s),
    22: Format("IQ2_S", 256, 82, small.decode_iq2_s),
    23: Format("IQ4_XS", 256, 136, small.decode_iq4_xs),
    29: Format("IQ1_M", 256, 56, small.decode_iq1_m),
    30: Format("BF16", 1, 2, _decode_bf16),
    34: Format("TQ1_0", 256, 54, small.decode_tq1_0),
    35: Format("TQ2_0", 256, 66, small.decode_tq2_0),
    39: Format("MXFP4", 32, 17, small.decode_mxfp4),
    40: Format("NVFP4", 64, 36, small.decode_nvfp4),
}
"""Formats by their number in the file."""

UNSUPPORTED: Mapping[int, str] = {
    9: "Q8_1",
    15: "Q8_K",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    41: "Q1_0",
}
"""Names of formats that exist and are not supported, for errors."""
