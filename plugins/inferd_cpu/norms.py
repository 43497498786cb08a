"""Norms over the last axis, and the product of rows with a matrix."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MAX_SINGLE_ROWS = 2  # up to here reading the weights once a row is faster than one product, which first rearranges them


def normalize(
    numbers: Floats,
    weight: Floats | None,
    bias: Floats | None = None,
    *,
    kind: Literal["rms", "layer"],
    epsilon: float,
    out: Floats,
) -> Floats:
    """RMS norm (arXiv:1910.07467) or layer norm (arXiv:1607.06450), into `out`, which may be `numbers`."""
    if kind == "layer":
        np.subtract(numbers, numbers.mean(axis=-1, keepdims=True), out=out)
        numbers = out
    square = np.vecdot(numbers, numbers)[..., None] / np.float32(numbers.shape[-1])
    np.divide(numbers, np.sqrt(square + np.float32(epsilon)), out=out)
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out


def multiply(rows: Floats, matrix: Floats, bias: Floats | None = None, *, out: Floats) -> Floats:
    """Set `out` to `rows` times the transposed matrix, and add the bias."""
    if len(rows) <= MAX_SINGLE_ROWS:
        for row, result in zip(rows, out, strict=True):
            np.matmul(matrix, row, out=result)
    else:
        np.matmul(rows, matrix.T, out=out)
    if bias is not None:
        out += bias
    return out
