"""Weights as they lie on disk, mapped and not read: rows are made numbers when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Unpack = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One weight.

    Attributes:
        name: In its file.
        kind: Format of its numbers, for example "Q4_0" or "BF16".
        sizes: Its shape; of a matrix outputs and inputs.
        data: As stored, one row for each of the first size.
        unpack: From stored rows to numbers.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    data: NDArray[Any]
    unpack: Unpack

    def raw(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Rows as they are stored, (rows, bytes)."""
        rows: NDArray[np.uint8] = np.asarray(self.data[begin:end])
        return rows

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Rows as numbers."""
        return self.unpack(self.data[begin:end]).reshape(end - begin, *self.sizes[1:])

    def whole(self) -> NDArray[np.float32]:
        """All of it."""
        return np.ascontiguousarray(self.unpack(self.data).reshape(self.sizes))

    def pick(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Some rows of a matrix, in this order."""
        return self.unpack(self.data[rows]).reshape(len(rows), *self.sizes[1:])
