"""The native products of every instruction set that runs here, against numpy."""

import ctypes
from ctypes import c_float, c_uint8
from typing import Any, Final

import numpy as np
import pytest
from native_products import (
    BF16,
    COPIED,
    F16,
    F32,
    IQ4_NL,
    LIBRARY,
    MXFP4,
    NATURAL,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q6_K,
    Q8_0,
    W4,
    W4M,
    W8,
    Tensor,
    library,
    multiply,
    put_scales,
)
from numpy.typing import NDArray

from inferd_weights.quants import FORMATS

Floats = NDArray[np.float32]

EXACT: Final = ((Q8_0, W8), (Q4_0, W8), *((number, NATURAL[number]) for number in (*COPIED, MXFP4) if number != Q8_0))
PAIRS: Final = (*EXACT, (Q6_K, W8), (Q5_0, W8), (F16, W8), (BF16, W4), (F32, W4M), (Q8_0, W4M))
CODED: Final = tuple(pair for pair in NATURAL.items() if pair not in EXACT)
"""Formats whose numbers are kept, but for the rounding of scales that are products."""
MULTIPLIED: Final = ((Q8_0, W8), *{weight: (number, weight) for number, weight in reversed(NATURAL.items())}.values())
"""One for each packed format."""

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built: make native")


def make_tensor(number: int, n: int, k: int, *, seed: int = 0) -> Tensor:
    """Random blocks whose scales are of the size that models have."""
    source, form = np.random.default_rng(seed + number), FORMATS[number]
    if form.block_elements == 1:
        floats = source.normal(0, 0.05, (n, k)).astype(np.float32)
        if number == F32:
            raw = floats.view(np.uint8)
        elif number == F16:
            raw = floats.astype(np.float16).view(np.uint8)
        else:
            raw = (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    else:
        blocks = source.integers(0, 256, (n * k // form.block_elements, form.block_bytes), dtype=np.uint8)
        put_scales(number, blocks, lambda count: source.normal(0, 0.01, count).astype(np.float32))
        raw = blocks.reshape(n, -1)
    split = n // 3
    return Tensor(number, raw, k, split, source.permutation(n - split).astype(np.int32))


def round_up(number: int, k: int) -> int:
    """As many inputs at least, in whole blocks."""
    block = max(32, FORMATS[number].block_elements)
    return -(-k // block) * block


def quantize(x: Floats) -> NDArray[np.float64]:
    """Rows as they are after their quantisation to int8, each block of 32 by its own scale."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    safe = np.where(largest > 0, largest, np.float32(1))
    quants = np.rint(blocks * (np.float32(127) / safe))
    scales = largest * np.float32(1 / np.float32(127))
    rounded: NDArray[np.float64] = (quants * scales.astype(np.float64)).reshape(x.shape)
    return rounded


def round_to_bf16(x: Floats, *, ties_up: bool = False) -> NDArray[np.float64]:
    """The nearest numbers that bf16 has; of two that are as near the even one, or the one of larger size."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half = 0x8000 if ties_up else 0x7FFF + ((bits >> 16) & 1)
    return ((bits + half) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def cut_to_bf16(weights: Floats, tensor: Tensor) -> NDArray[np.float64]:
    """Weights of Q8_0 as AMX multiplies them: what bf16 cannot hold is cut off, for which scales make up on average."""
    blocks = tensor.rows.reshape(len(weights), -1, 34)
    scales = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16).astype(np.float32)
    quants = blocks[:, :, 2:].view(np.int8).astype(np.float64)
    larger = scales * (np.float32(1) + np.float32(0.0028))
    base = np.float32(32768 + 128)
    exact = (quants + base) * larger.astype(np.float64) - (base * larger).astype(np.float64)
    bits = exact.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64).reshape(weights.shape)


def multiply_exactly(
    isa: str, weight: int, x: Floats, weights: Floats, tensor: Tensor
) -> tuple[NDArray[np.float64], Any]:
    """The product in fp64 of what an instruction set makes of rows and weights, and the size of its terms."""
    if isa == "amx":
        rows = round_to_bf16(x)
        columns = (cut_to_bf16(weights, tensor) if weight == W8 else round_to_bf16(weights, ties_up=True)).T
    else:
        rows, columns = quantize(x), weights.T.astype(np.float64)
    return rows @ columns, np.abs(rows) @ np.abs(columns)


@pytest.mark.parametrize(("number", "weight"), EXACT, ids=str)
def test_keeps_quants_of_the_file(isa: str, number: int, weight: int) -> None:
    """Formats that are packed as they are come out bit by bit, in the order that was asked for."""
    tensor = make_tensor(number, 70, 256)
    _, weights = multiply(isa, weight, tensor, np.zeros((1, 256), np.float32))
    np.testing.assert_array_equal(weights, tensor.decode())


@pytest.mark.parametrize(("number", "weight"), CODED, ids=str)
def test_keeps_codes_of_the_file(isa: str, number: int, weight: int) -> None:
    """Of formats whose scales are products only those are rounded, to a half: numbers are right to a part of 2048."""
    tensor = make_tensor(number, 70, 512)
    _, weights = multiply(isa, weight, tensor, np.zeros((1, 512), np.float32))
    expected = tensor.decode()
    if number == Q4_K:  # two such products
        assert np.sqrt(np.mean((weights - expected) ** 2) / np.mean(expected**2)) < 0.002
    else:
        np.testing.assert_allclose(weights, expected, rtol=2**-11, atol=2**-25 * 127)


def test_codes_are_for_what_has_such_numbers(isa: str) -> None:
    """A format of codes takes no other types: an error says so, and nothing is packed."""
    for number in (F32, Q4_0, IQ4_NL):
        tensor = make_tensor(number, 8, 64)
        with pytest.raises(AssertionError, match="4"):
            multiply(isa, NATURAL[MXFP4], tensor, np.zeros((1, 64), np.float32))


@pytest.mark.parametrize(("number", "weight"), PAIRS, ids=str)
def test_packs_close_to_the_file(isa: str, number: int, weight: int) -> None:
    """Other formats are packed with an error of a fraction of a percent at 8 bits, and of some percent at 4 bits."""
    tensor = make_tensor(number, 64, 512)
    _, weights = multiply(isa, weight, tensor, np.zeros((1, 512), np.float32))
    expected = tensor.decode()
    error = np.sqrt(np.mean((weights - expected) ** 2) / np.mean(expected**2))
    assert error < {W8: 0.01, W4: 0.1, W4M: 0.1}.get(weight, 0.002)


def test_inputs_that_count_more_lose_less(isa: str) -> None:
    """At 4 bits the weights of inputs that count more are kept better; where all count the same nothing changes."""
    tensor, nothing = make_tensor(F32, 64, 512), np.zeros((1, 512), np.float32)
    heavy = np.arange(512) % 32 == 7  # one in each block
    _, plain = multiply(isa, W4M, tensor, nothing)
    _, same = multiply(isa, W4M, tensor, nothing, counts=np.ones(512, np.float32))
    _, weighed = multiply(isa, W4M, tensor, nothing, counts=np.where(heavy, np.float32(512), np.float32(1)))
    np.testing.assert_array_equal(same, plain)
    errors = [np.mean((found - tensor.decode()) ** 2, axis=0) for found in (plain, weighed)]
    assert errors[1][heavy].mean() < 0.1 * errors[0][heavy].mean()
    assert errors[1].mean() < 1.3 * errors[0].mean()


def test_a_grid_is_found_whatever_counts(isa: str) -> None:
    """Numbers that were quantised to 4 bits before are packed without loss, but for the rounding of scales."""
    stored = make_tensor(Q4_1, 64, 256)
    numbers = stored.decode()
    again = Tensor(F32, numbers.view(np.uint8).reshape(64, -1), 256, 64, np.empty(0, np.int32))
    counts = np.random.default_rng(3).choice(np.array([1, 8, 512], np.float32), 256)
    _, weights = multiply(isa, W4M, again, np.zeros((1, 256), np.float32), counts=counts)
    assert np.sqrt(np.mean((weights - numbers) ** 2) / np.mean(numbers**2)) < 0.002


@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].name)
def test_reads_every_format(isa: str, number: int) -> None:
    """Every format that numpy reads can be packed at 8 bits."""
    tensor = make_tensor(number, 40, 512)
    _, weights = multiply(isa, W8, tensor, np.zeros((1, 512), np.float32))
    expected = tensor.decode()
    assert np.sqrt(np.mean((weights - expected) ** 2) / np.mean(expected**2)) < 0.02


@pytest.mark.parametrize(("number", "weight"), MULTIPLIED, ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 32), (33, 64), (100, 96), (64, 576), (48, 1536), (17, 2080)])
def test_products_are_those_of_numpy(isa: str, number: int, weight: int, n: int, k: int) -> None:
    """For many shapes and numbers of rows, products of rounded rows equal those in fp64 within fp32's rounding."""
    k = round_up(number, k)
    tensor = make_tensor(number, n, k, seed=n)
    source = np.random.default_rng(k)
    for rows in (1, 2, 3, 7, 8, 9, 16, 17, 31, 40):
        x = source.normal(0, 1, (rows, k)).astype(np.float32)
        x[0, :32] = 0
        out, weights = multiply(isa, weight, tensor, x)
        expected, sizes = multiply_exactly(isa, weight, x, weights, tensor)
        np.testing.assert_array_less(np.abs(out - expected), 2e-6 * sizes + 1e-9)


@pytest.mark.parametrize(("number", "weight"), MULTIPLIED, ids=str)
def test_rows_do_not_depend_on_each_other(isa: str, number: int, weight: int) -> None:
    """A row gives the same bits alone, among any number of rows, and on every instruction set with int8 inputs."""
    tensor = make_tensor(number, 96, round_up(number, 608))
    x = np.random.default_rng(1).normal(0, 1, (70, tensor.k)).astype(np.float32)
    expected, _ = multiply("amx" if isa == "amx" else "plain", weight, tensor, x)
    for rows in range(1, 71):
        out, _ = multiply(isa, weight, tensor, x[:rows])
        np.testing.assert_array_equal(out.view(np.uint32), expected[:rows].view(np.uint32))


def test_many_rows_with_many_inputs_do_not_depend_on_each_other(isa: str) -> None:
    """Rows that are worked on in groups, because they fill a cache, give the bits that each gives alone."""
    tensor = make_tensor(Q4_1, 40, 8192)
    x = np.random.default_rng(2).normal(0, 1, (70, 8192)).astype(np.float32)
    whole, _ = multiply(isa, W4M, tensor, x)
    for row in range(0, 70, 3):
        alone, _ = multiply(isa, W4M, tensor, x[row : row + 1])
        np.testing.assert_array_equal(alone[0].view(np.uint32), whole[row].view(np.uint32))


def test_extreme_quants_are_exact(isa: str) -> None:
    """The largest quants of both signs, -128 among them, overflow no sum."""
    blocks = np.empty((8, 34), np.uint8)
    blocks[:, :2] = np.array([1.0], np.float16).view(np.uint8)
    blocks[:, 2:] = np.array([-128, 127, -127, -128, 127, 127, -1, 0], np.int8).view(np.uint8)[:, None]
    tensor = Tensor(Q8_0, blocks, 32, 4, np.arange(4, dtype=np.int32))
    for sign in (1.0, -1.0):
        x = np.full((3, 32), sign * 127, np.float32)
        out, weights = multiply(isa, W8, tensor, x)
        np.testing.assert_array_equal(out, multiply_exactly(isa, W8, x, weights, tensor)[0])


@pytest.mark.parametrize(("number", "weight"), MULTIPLIED, ids=str)
def test_the_largest_sums_are_those_of_plain_products(isa: str, number: int, weight: int) -> None:
    """Where inputs and quants are all as large as can be no sum overflows: its bits are those of plain products.

    Inputs of a block are of one sign or of both, its quants of one code or of the ends of their range.
    """
    tensor = make_tensor(number, 32, round_up(number, 256))
    fills = np.array([0x00, 0xFF, 0x0F, 0xF0, 0x7F, 0x80, 0x88, 0x77], np.uint8)
    blocks = tensor.raw.reshape(-1, tensor.form.block_bytes)
    blocks[:] = fills[np.arange(len(blocks)) % len(fills), None]
    put_scales(number, blocks, lambda count: np.full(count, 1 / 64, np.float32))
    signs = np.array([[1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, 1, -1], [1, 1, -1, -1]], np.float32)
    x = np.tile(signs * 127, (2, tensor.k // 4))  # eight rows: more than AVX2 works on at once
    out, weights = multiply(isa, weight, tensor, x)
    expected, sizes = multiply_exactly(isa, weight, x, weights, tensor)
    np.testing.assert_array_less(np.abs(out - expected), 2e-6 * sizes + 1e-9)
    if isa != "amx":
        plain, _ = multiply("plain", weight, tensor, x)
        np.testing.assert_array_equal(out.view(np.uint32), plain.view(np.uint32))


def test_what_cannot_be_packed_is_told() -> None:
    """Inputs that are not a multiple of 32, and types that are not read, give an error instead of a product."""
    lib, nothing = library(), ctypes.POINTER(c_float)()
    for number, k, expected in ((Q8_0, 33, 1), (F32, 48, 1), (Q4_K, 288, 1), (9, 64, 2), (-1, 64, 2)):
        raw = (c_uint8 * 1)()
        given = lib.inferd_check_linear(b"plain", W8, number, raw, 1, k, 1, 0, None, None, nothing, 0, nothing, nothing)
        assert given == expected
    raw = (c_uint8 * 1)()
    assert lib.inferd_check_linear(b"mmx", W8, F32, raw, 1, 32, 1, 0, None, None, nothing, 0, nothing, nothing) == -1
    assert b"mmx" in lib.inferd_check_isa(b"mmx") or lib.inferd_check_isa(b"mmx")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, 1e-40])
def test_odd_numbers_stay_in_their_row(isa: str, bad: float) -> None:
    """Activations that are not finite, huge or subnormal change no other row."""
    tensor = make_tensor(Q4_1, 64, 96)
    x = np.random.default_rng(2).normal(0, 1, (20, 96)).astype(np.float32)
    expected, _ = multiply(isa, W4M, tensor, x)
    x[7, ::3] = bad
    out, _ = multiply(isa, W4M, tensor, x)
    np.testing.assert_array_equal(np.delete(out, 7, axis=0), np.delete(expected, 7, axis=0))
