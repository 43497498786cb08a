"""Weights of all sizes in the native library: every stored format, every packed one, every instruction set."""

from collections.abc import Callable
from typing import Any, Final

import gguf
import numpy as np
import pytest
from native_products import (
    COPIED,
    F16,
    LIBRARY,
    MXFP4,
    NATURAL,
    Q4_0,
    Q8_0,
    W4,
    W4M,
    W8,
    Tensor,
    decode,
    multiply,
    put_scales,
)
from numpy.typing import NDArray

from inferd_weights.quants import FORMATS

Floats = NDArray[np.float32]
EXPONENTS: Final = (-24, -23, -20, -16, -15, -14, -8, 0, 8, 14, 15)
"""Of block scales and minima: all that a half can have, with the borders of what is subnormal."""

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built: make native")


def make_blocks(number: int, n: int, k: int, draw: Callable[..., Floats]) -> Tensor:
    """Random blocks whose fp16 scales and minima are drawn by `draw`, or floats of that size."""
    form, source = FORMATS[number], np.random.default_rng(number)
    if form.block_elements == 1:
        sizes = np.repeat(draw(n * k // 32), 32).reshape(n, k)
        floats = (source.normal(0, 1, (n, k)) * sizes).astype(np.float32)
        if number == F16:
            floats = floats.clip(-65504, 65504)
        raw = gguf.quants.quantize(floats, gguf.GGMLQuantizationType(number)).view(np.uint8)
    else:
        raw = source.integers(0, 256, (n * k // form.block_elements, form.block_bytes), dtype=np.uint8)
        put_scales(number, raw, draw)
    return Tensor(number, raw.reshape(n, -1), k, n, np.empty(0, np.int32))


def drawer(exponent: int, seed: int) -> Callable[..., Floats]:
    """Numbers of either sign from 2^exponent on, below twice that, as a half holds them."""
    source = np.random.default_rng((seed, exponent + 100))

    def draw(count: int) -> Floats:
        sizes = np.minimum(source.uniform(1, 2, count) * 2.0**exponent, 65504)
        return (sizes * source.choice([-1, 1], count)).astype(np.float32)

    return draw


def dequantize(tensor: Tensor) -> Floats:
    """What the reference decoder makes of it: shape (n, k)."""
    numbers = gguf.quants.dequantize(tensor.raw, gguf.GGMLQuantizationType(tensor.number))
    return numbers.reshape(len(tensor.raw), tensor.k)


def measure(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The error relative to the size of what was expected."""
    wide = expected.astype(np.float64)
    return float(np.sqrt(np.mean((found - wide) ** 2) / np.mean(wide**2)))


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].name)
def test_blocks_of_every_scale_are_decoded_bit_by_bit(number: int, exponent: int) -> None:
    """In the mode in which steps are computed, the decoder that packs gives the bits of the reference decoder."""
    tensor = make_blocks(number, 8, 512, drawer(exponent, number))
    expected = dequantize(tensor).reshape(-1)
    assert decode(number, tensor.raw).view(np.uint32).tolist() == expected.view(np.uint32).tolist()


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].name)
def test_weights_of_every_scale_are_multiplied(isa: str, number: int, exponent: int) -> None:
    """Packed weights and products are those of the reference decoder, whatever the scales, but for quantisation."""
    tensor = make_blocks(number, 40, 512, drawer(exponent, number))
    expected = dequantize(tensor)
    x = np.random.default_rng(7).normal(0, 1, (9, 512)).astype(np.float32)
    for weight in {W8, NATURAL.get(number, W8)}:
        products, weights = multiply(isa, weight, tensor, x)
        exact = number in (Q8_0, Q4_0) or (number in (*COPIED, MXFP4) and weight == NATURAL[number])
        assert measure(weights, expected) <= (0 if exact else 0.002 if weight != W8 else 0.01)
        assert measure(products, x.astype(np.float64) @ expected.T.astype(np.float64)) < 0.015


@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].name)
def test_scales_of_all_sizes_beside_each_other(isa: str, number: int) -> None:
    """Blocks of very different scales in one row: each number is right to a part of the largest one of its row."""
    source = np.random.default_rng(number)

    def draw(count: int) -> Floats:
        return np.ldexp(source.uniform(1, 1.9, count), source.integers(-24, 16, count)).astype(np.float32)

    tensor = make_blocks(number, 32, 2048, draw)
    expected = dequantize(tensor)
    for weight in {W8, NATURAL.get(number, W8)}:
        _, weights = multiply(isa, weight, tensor, np.zeros((1, 2048), np.float32))
        error = np.abs(weights - expected).max(axis=1) / np.abs(expected).max(axis=1)
        assert error.max() < 1 / 127


@pytest.mark.parametrize("exponent", [-60, -40, -30, 20, 60])
@pytest.mark.parametrize("weight", [W8, W4, W4M])
def test_floats_beyond_halves_are_packed(isa: str, weight: int, exponent: int) -> None:
    """Weights that are kept as fp32 may lie far outside of what the packed scales can hold."""
    tensor = make_blocks(0, 40, 256, drawer(exponent, weight))
    _, weights = multiply(isa, weight, tensor, np.zeros((1, 256), np.float32))
    assert measure(weights, dequantize(tensor)) < {W8: 0.01, W4: 0.1, W4M: 0.1}[weight]
