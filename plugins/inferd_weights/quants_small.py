"""Formats of ggml of one to four bits: vectors from lists (IQ1 to IQ3), IQ4, ternary (TQ), FP4 (MXFP4, NVFP4).

As in quants.py: `raw` has shape (n, block bytes), the result (n, block elements), and the order of the operations is
that of ggml.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd_weights import grids

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_BITS: Final = np.arange(8, dtype=np.uint8)
_HALVES: Final = np.array([0, 4], np.uint8)
# Seven signs and their parity, which is the eighth.
_SIGNS: Final = np.array([n | (n.bit_count() & 1) << 7 for n in range(128)], np.uint8)
_IQ4: Final = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_FP4: Final = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)  # twice what they are
_DELTA: Final = np.float32(0.125)


def _half(raw: Bytes, at: int) -> Floats:
    """The fp16 at byte `at` of each block, shape (n, 1)."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def _words(raw: Bytes) -> NDArray[np.uint16]:
    return np.ascontiguousarray(raw).view(np.uint16)


def _doubles(raw: Bytes) -> NDArray[np.uint32]:
    return np.ascontiguousarray(raw).view(np.uint32)


def _nibbles(raw: Bytes) -> Bytes:
    """The low and the high half of each byte: shape (n, 2 * bytes)."""
    halves: Bytes = (raw[:, :, None] >> _HALVES) & np.uint8(15)
    return halves.reshape(len(raw), -1)


def _signs(bits: Bytes) -> Floats:
    """A sign for each bit: shape (n, bytes, 8)."""
    return np.where((bits[:, :, None] >> _BITS) & np.uint8(1), np.float32(-1), np.float32(1))


def _seven_signs(packed: NDArray[np.uint32]) -> Bytes:
    """Four times seven signs and their parity, from the low 28 bits: shape (n, 4 * numbers)."""
    places = (packed[:, :, None] >> np.array([0, 7, 14, 21], np.uint32)) & np.uint32(127)
    signs: Bytes = _SIGNS[places]
    return signs.reshape(len(packed), -1)


def _take(grid: grids.Grid, places: NDArray[np.integer], scales: Floats, signs: Floats) -> Floats:
    """Vectors times signs and scales; as many numbers share a scale as there are for each. shape (n, numbers)."""
    n = len(places)
    vectors = grid.vectors[places].astype(np.float32).reshape(n, scales.shape[1], -1)
    out: Floats = scales[:, :, None] * vectors
    out *= signs.reshape(out.shape)
    return out.reshape(n, -1)


def decode_iq2_xxs(raw: Bytes) -> Floats:
    """IQ2_XXS."""
    packed = _doubles(raw[:, 2:]).reshape(len(raw), 8, 2)
    scales = _half(raw, 0) * (np.float32(0.5) + (packed[..., 1] >> np.uint32(28)).astype(np.float32)) * np.float32(0.25)
    places = np.ascontiguousarray(packed[..., 0]).view(np.uint8)
    return _take(grids.IQ2_XXS, places, scales, _signs(_seven_signs(packed[..., 1])))


def _quarter_scales(raw: Bytes, packed: Bytes) -> Floats:
    scales: Floats = _half(raw, 0) * (np.float32(0.5) + _nibbles(packed)) * np.float32(0.25)
    return scales


def decode_iq2_xs(raw: Bytes) -> Floats:
    """IQ2_XS."""
    packed = _words(raw[:, 2:66])
    signs = _signs(_SIGNS[packed >> np.uint16(9)])
    return _take(grids.IQ2_XS, packed & np.uint16(511), _quarter_scales(raw, raw[:, 66:74]), signs)


def decode_iq2_s(raw: Bytes) -> Floats:
    """IQ2_S."""
    high = ((raw[:, 66:74, None] >> np.array([0, 2, 4, 6], np.uint8)) & np.uint8(3)).reshape(len(raw), -1)
    places = raw[:, 2:34] | high.astype(np.uint16) << np.uint16(8)
    return _take(grids.IQ2_S, places, _quarter_scales(raw, raw[:, 74:82]), _signs(raw[:, 34:66]))


def decode_iq3_xxs(raw: Bytes) -> Floats:
    """IQ3_XXS."""
    packed = _doubles(raw[:, 66:98])
    scales = _half(raw, 0) * (np.float32(0.5) + (packed >> np.uint32(28)).astype(np.float32)) * np.float32(0.5)
    return _take(grids.IQ3_XXS, raw[:, 2:66], scales, _signs(_seven_signs(packed)))


def decode_iq3_s(raw: Bytes) -> Floats:
    """IQ3_S."""
    high = ((raw[:, 66:74, None] >> _BITS) & np.uint8(1)).reshape(len(raw), -1)
    places = raw[:, 2:66] | high.astype(np.uint16) << np.uint16(8)
    scales = _half(raw, 0) * (1 + 2 * _nibbles(raw[:, 106:110]))
    return _take(grids.IQ3_S, places, scales, _signs(raw[:, 74:106]))


def _take_shifted(places: NDArray[np.integer], scales: Floats, deltas: Floats) -> Floats:
    """Vectors of IQ1_S, moved by a delta each, times scales; a scale for as many numbers as there are for each."""
    n = len(places)
    vectors = grids.IQ1_S.vectors[places].astype(np.float32) + deltas[:, :, None]
    out: Floats = scales[:, :, None] * vectors.reshape(n, scales.shape[1], -1)
    return out.reshape(n, -1)


def decode_iq1_s(raw: Bytes) -> Floats:
    """IQ1_S."""
    high = _words(raw[:, 34:50])
    scales = _half(raw, 0) * (2 * ((high >> np.uint16(12)) & np.uint16(7)) + 1)
    deltas = np.where(high & np.uint16(0x8000), -_DELTA, _DELTA).repeat(4, axis=1)
    upper = ((high[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & np.uint16(7)).reshape(len(raw), -1)
    return _take_shifted(raw[:, 2:34] | upper << np.uint16(8), scales, deltas)


def decode_iq1_m(raw: Bytes) -> Floats:
    """IQ1_M: the scale of a block is spread over four numbers."""
    packed = _words(raw[:, 48:56])
    spread = (packed & np.uint16(0xF000)) >> np.array([12, 8, 4, 0], np.uint16)
    scale = np.bitwise_or.reduce(spread, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    parts = ((packed[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & np.uint16(7)).reshape(len(raw), -1)
    high = _nibbles(raw[:, 32:48])
    places = raw[:, :32] | (high & np.uint8(7)).astype(np.uint16) << np.uint16(8)
    return _take_shifted(places, scale * (2 * parts + 1), np.where(high & np.uint8(8), -_DELTA, _DELTA))


def _half_nibbles(raw: Bytes) -> Bytes:
    """Of each run of 16 bytes the low halves, then the high ones: shape (n, 2 * bytes)."""
    runs = raw.reshape(len(raw), -1, 1, 16) >> _HALVES[:, None]
    return (runs & np.uint8(15)).reshape(len(raw), -1)


def decode_iq4_nl(raw: Bytes) -> Floats:
    """IQ4_NL."""
    out: Floats = _half(raw, 0) * _IQ4[_half_nibbles(raw[:, 2:18])]
    return out


def decode_iq4_xs(raw: Bytes) -> Floats:
    """IQ4_XS."""
    high = (_words(raw[:, 2:4]) >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & np.uint8(3)
    scales = (_nibbles(raw[:, 4:8]) | high << np.uint8(4)).view(np.int8) - np.int8(32)
    values = _IQ4[_half_nibbles(raw[:, 8:136])].reshape(len(raw), 8, 32)
    return ((_half(raw, 0) * scales.astype(np.float32))[:, :, None] * values).reshape(len(raw), -1)


def decode_tq1_0(raw: Bytes) -> Floats:
    """TQ1_0: five ternary digits in a byte, which is their number times 256 over 243."""
    powers = np.array([1, 3, 9, 27, 81], np.uint8)
    runs = ((raw[:, :32], 5), (raw[:, 32:48], 5), (raw[:, 48:52], 4))
    digits = [(run[:, None, :] * powers[:count, None]).reshape(len(raw), -1) for run, count in runs]
    quants = ((np.concatenate(digits, axis=1).astype(np.uint16) * 3) >> 8).astype(np.int8) - np.int8(1)
    out: Floats = _half(raw, 52) * quants.astype(np.float32)
    return out


def decode_tq2_0(raw: Bytes) -> Floats:
    """TQ2_0."""
    fields = raw[:, :64].reshape(len(raw), -1, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    quants = (fields & np.uint8(3)).reshape(len(raw), -1).astype(np.int8) - np.int8(1)
    out: Floats = _half(raw, 64) * quants.astype(np.float32)
    return out


def decode_mxfp4(raw: Bytes) -> Floats:
    """MXFP4 of the OCP microscaling formats: a power of two for 32 numbers; half of it, for values that are doubled."""
    exponents = raw[:, :1].astype(np.uint32)
    normal = exponents > 1  # the two below are too small for an exponent of fp32
    bits = np.where(normal, (exponents - np.uint32(1)) << np.uint32(23), np.uint32(1 << 21) << exponents)
    out: Floats = bits.astype(np.uint32).view(np.float32) * _FP4[_half_nibbles(raw[:, 1:17])]
    return out


def decode_nvfp4(raw: Bytes) -> Floats:
    """NVFP4: an unsigned E4M3 number for 16 numbers each."""
    packed = raw[:, :4]
    exponents, mantissas = (packed >> np.uint8(3)) & np.uint8(15), (packed & np.uint8(7)).astype(np.float32)
    normal = (1 + mantissas / np.float32(8)) * np.exp2(exponents.astype(np.float32) - np.float32(7))
    scales = np.where(exponents == 0, mantissas * np.float32(2**-9), normal) * np.float32(0.5)
    scales = np.where(packed == np.uint8(0x7F), np.float32(0), scales)  # not a number
    runs = raw[:, 4:36].reshape(len(raw), 4, 1, 8) >> _HALVES[:, None]
    values = _FP4[(runs & np.uint8(15)).reshape(len(raw), 4, 16)]
    out: Floats = (scales[:, :, None] * values).reshape(len(raw), -1).astype(np.float32)
    return out
