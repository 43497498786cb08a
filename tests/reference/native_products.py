"""One product of the native library by the kernels of one instruction set, for tests."""

import functools
from collections.abc import Callable
from ctypes import CDLL, POINTER, c_char_p, c_float, c_int, c_size_t, c_uint8, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import inferd_cpu
from inferd_cpu.native import Native
from inferd_weights.quants import FORMATS, Format

Floats = NDArray[np.float32]

LIBRARY: Final = Path(inferd_cpu.__file__).with_name("_native.so")
SETS: Final = ("plain", "avx2", "avx512", "amx", "neon")
W8, W4, W4M = 0, 1, 2
IQ4, FP4, IQ3_XXS, IQ3_S, IQ2 = 3, 4, 5, 6, 7
HALVED_FP4, HALVED_Q3, HALVED_IQ2 = 8, 9, 10  # with a scale for each 16 inputs
NATURAL: Final = {
    **dict.fromkeys((2, 34, 35), W4),
    **dict.fromkeys((3, 12), W4M),
    **dict.fromkeys((20, 23), IQ4),
    **dict.fromkeys((16, 19), IQ2),
    **dict.fromkeys((17, 22, 29), HALVED_IQ2),
    39: FP4,
    18: IQ3_XXS,
    21: IQ3_S,
    40: HALVED_FP4,
    11: HALVED_Q3,
}
"""Packed formats of less than 8 bits, by the format in the file."""
COPIED: Final = (2, 3, 8, 20, 34, 35, 40)
"""Formats whose scales the packed format of theirs keeps bit by bit, whatever they are."""
F32, F16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 3, 6, 8, 12, 14, 30
HALVES: Final = {
    2: (0,),
    3: (0, 2),
    6: (0,),
    7: (0, 2),
    8: (0,),
    10: (80, 82),
    11: (108,),
    12: (0, 2),
    13: (0, 2),
    14: (208,),
    **dict.fromkeys((16, 17, 18, 19, 20, 21, 22, 23), (0,)),
    34: (52,),
    35: (64,),
}
"""Where the blocks of a format have their fp16 scales and minima."""
IQ1_M, IQ4_NL, MXFP4, NVFP4 = 29, 20, 39, 40


def put_scales(number: int, blocks: NDArray[np.uint8], draw: Callable[[int], Floats]) -> None:
    """Set the scales and minima of blocks of a format, shape (blocks, bytes), to what is drawn, as it holds them."""
    for at in HALVES.get(number, ()):
        blocks[:, at : at + 2] = draw(len(blocks)).astype(np.float16)[:, None].view(np.uint8)
    if number == IQ1_M:  # four bits of a half in each of four numbers
        halves = draw(len(blocks)).astype(np.float16)[:, None].view(np.uint16)
        parts = (halves >> np.array([0, 4, 8, 12], np.uint16)) & np.uint16(15)
        words = blocks[:, 48:56].copy().view(np.uint16) & np.uint16(0xFFF) | parts << np.uint16(12)
        blocks[:, 48:56] = words.view(np.uint8)
    if number == MXFP4:
        blocks[:, 0] = np.frexp(np.abs(draw(len(blocks))))[1] + 127
    if number == NVFP4:  # its range is short: a sixteenth to sixteen, whatever is drawn
        blocks[:, :4] = np.clip(np.frexp(np.abs(draw(len(blocks) * 4)))[1], -4, 4).reshape(-1, 4) + 7 << 3


@functools.cache
def library() -> CDLL:
    """The library with its entry points for tests."""
    lib = Native("plain").library  # which has set the lists of vectors
    lib.inferd_check_isa.restype = c_char_p
    floats = POINTER(c_float)
    lib.inferd_check_linear.argtypes = (
        *(c_char_p, c_int, c_int, POINTER(c_uint8), c_int, c_int, c_int, c_size_t, POINTER(c_int)),
        *(c_void_p, floats, c_int, floats, floats),
    )
    return lib


def is_missing(isa: str) -> str:
    """Why an instruction set does not run here, or ""."""
    missing: bytes | None = library().inferd_check_isa(isa.encode())
    return "" if missing is None else f"{isa}: {missing.decode()}"


@dataclass(frozen=True)
class Tensor:
    """A tensor as a file holds it, with an order for the rows after the first `split` of them."""

    number: int
    raw: NDArray[np.uint8]
    """Shape (n, bytes of a row)."""
    k: int
    split: int
    order: NDArray[np.int32]

    @property
    def form(self) -> Format:
        """Its format."""
        return FORMATS[self.number]

    @property
    def rows(self) -> NDArray[np.uint8]:
        """Its rows in the order of packing."""
        return np.concatenate([self.raw[: self.split], self.raw[self.split :][self.order]])

    def decode(self) -> Floats:
        """Its numbers by numpy in the order of packing: shape (n, k)."""
        return self.form.decode(self.rows.reshape(-1, self.form.block_bytes)).reshape(len(self.raw), self.k)


def multiply(
    isa: str, weight: int, tensor: Tensor, x: Floats, *, counts: Floats | None = None
) -> tuple[Floats, Floats]:
    """The product of rows with the tensor, shape (rows, n), and the weights as they were packed, shape (n, k)."""
    n, row_bytes = tensor.raw.shape
    out, weights = np.full((len(x), n), np.nan, np.float32), np.empty((n, tensor.k), np.float32)
    floats, numbers = POINTER(c_float), POINTER(c_int)
    error = library().inferd_check_linear(
        *(isa.encode(), weight, tensor.number, tensor.raw.ctypes.data_as(POINTER(c_uint8)), n, tensor.k),
        *(tensor.split, row_bytes, tensor.order.ctypes.data_as(numbers)),
        *(None if counts is None else counts.ctypes.data, x.ctypes.data_as(floats), len(x)),
        *(out.ctypes.data_as(floats), weights.ctypes.data_as(floats)),
    )
    assert error == 0, error
    return out, weights


def decode(number: int, raw: NDArray[np.uint8]) -> Floats:
    """The numbers of blocks, one after the other, by the decoder that packs them, in the mode that steps are in."""
    out = np.full(raw.size // FORMATS[number].block_bytes * FORMATS[number].block_elements, np.nan, np.float32)
    check = library().inferd_check_decode
    check.argtypes = (c_int, POINTER(c_uint8), c_size_t, POINTER(c_float))
    blocks = out.size // max(32, FORMATS[number].block_elements)
    given = raw.ctypes.data_as(POINTER(c_uint8)), blocks, out.ctypes.data_as(POINTER(c_float))
    assert check(number, *given) == 0
    return out
