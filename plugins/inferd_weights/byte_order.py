"""Numbers of big-endian files in the order of this reader: those that tensors have, and in blocks the scales."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd_weights.quants import Format

Bytes = NDArray[np.uint8]
_WHOLE: Final = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of a number
_SCALES: Final = {"Q4_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,), "MXFP4": (), "NVFP4": ()}  # of two bytes

SWAPPED: Final = frozenset({*_WHOLE, *_SCALES})
"""Formats that are known in big-endian files: those that the public converter of byte orders takes."""


def swap(form: Format, raw: Bytes) -> Bytes:
    """A copy of blocks, shape (blocks, block bytes), in the other order."""
    if (width := _WHOLE.get(form.name)) is not None:
        return np.ascontiguousarray(raw.reshape(-1, width)[:, ::-1]).reshape(raw.shape)
    swapped = raw.copy()
    for at in _SCALES[form.name]:
        swapped[:, at], swapped[:, at + 1] = raw[:, at + 1], raw[:, at]
    return swapped
