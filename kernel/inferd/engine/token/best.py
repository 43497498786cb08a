"""The best logits of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inferd.plugin.session import Float32Array


def find_best(logits: Float32Array, width: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The ids of each row's best `width` logits and all that equal the last of them, best first; of equals, lowest id.

    Args:
        logits: Shape (R, V).
        width: From 1 to V.

    Returns:
        Ids, shape (R, W) with W >= `width`, and whether each place holds one; the others are 0.
    """
    rows, size = logits.shape
    if width == size:
        return np.argsort(-logits, axis=1, kind="stable"), np.ones(logits.shape, np.bool_)
    edge = np.partition(logits, size - width, axis=1)[:, size - width]
    row, ids = np.nonzero(logits >= edge[:, None])
    counts = np.bincount(row, minlength=rows)
    place = np.arange(len(ids)) - np.repeat(counts.cumsum() - counts, counts)
    found = np.zeros((rows, counts.max()), np.intp)
    values = np.full(found.shape, -np.inf, np.float32)
    found[row, place], values[row, place] = ids, logits[row, ids]
    order = np.argsort(-values, axis=1, kind="stable")  # stable: lowest id first among equals, padding last
    return np.take_along_axis(found, order, axis=1), np.arange(found.shape[1]) < counts[:, None]
