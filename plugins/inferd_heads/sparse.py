"""Rows with few numbers each: which columns, and what stands there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_PRODUCTS: Final = 1 << 21
"""Numbers that are computed at once, 8 MiB of them: what is more is computed in parts."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its columns, rising, and a value for each; and what was read for it."""

    columns: NDArray[np.intp]
    values: Floats
    words: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Several rows, one after the other."""

    columns: NDArray[np.intp]
    values: Floats
    lengths: NDArray[np.intp]

    @classmethod
    def join(cls, rows: Sequence[Row]) -> "Rows":
        """Put some together."""
        lengths = np.array([len(row.columns) for row in rows], np.intp)
        return cls(np.concatenate([row.columns for row in rows]), np.concatenate([row.values for row in rows]), lengths)


def group(rows: Sequence[Row], labels: int) -> Iterator[Sequence[Row]]:
    """The rows in groups whose products with so many labels are not more than `MOST_PRODUCTS`, or one row's."""
    begin = taken = 0
    for at, row in enumerate(rows):
        size = len(row.columns) * labels
        if at > begin and taken + size > MOST_PRODUCTS:
            yield rows[begin:at]
            begin, taken = at, 0
        taken += size
    yield rows[begin:]


def multiply(rows: Sequence[Row], weights: Floats, bias: Floats) -> Floats:
    """What the weights, [columns, labels], and the bias make of the rows: [rows, labels].

    A row gives the same numbers, bit for bit, whatever rows it is computed with.
    """
    return np.concatenate([_multiply(Rows.join(some), weights, bias) for some in group(rows, len(bias))])


def _multiply(rows: Rows, weights: Floats, bias: Floats) -> Floats:
    made = np.zeros((len(rows.lengths), len(bias)), np.float32)
    if not len(rows.columns):
        return made + bias
    filled = np.flatnonzero(rows.lengths)
    begins = (np.cumsum(rows.lengths) - rows.lengths)[filled]
    made[filled] = np.add.reduceat(weights[rows.columns] * rows.values[:, None], begins, axis=0)
    return made + bias


def gradients(rows: Rows, slopes: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The gradient of the weights, of those columns alone that the rows have: the columns, and [columns, labels].

    Args:
        rows: The rows.
        slopes: By how much the loss rises with each number of each row, [rows, labels].
    """
    if not len(rows.columns):
        return rows.columns, np.zeros((0, slopes.shape[1]), np.float32)
    order = np.argsort(rows.columns, kind="stable")
    columns, values = rows.columns[order], rows.values[order, None]
    owners = np.repeat(np.arange(len(rows.lengths)), rows.lengths)[order]
    begins = np.flatnonzero(np.diff(columns, prepend=-1))
    made = np.empty((len(begins), slopes.shape[1]), np.float32)
    width = max(1, MOST_PRODUCTS // len(columns))
    for at in range(0, slopes.shape[1], width):
        some = slice(at, at + width)
        made[:, some] = np.add.reduceat(slopes[owners, some] * values, begins, axis=0)
    return columns[begins], made
