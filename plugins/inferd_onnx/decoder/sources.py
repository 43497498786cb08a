"""Weights as they lie on disk, mapped and not read: rows are made numbers when they are asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd_weights.model_file import ModelFile, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One weight.

    Attributes:
        file: That it is in.
        tensor: Where it lies there.
    """

    file: ModelFile
    tensor: Tensor

    @property
    def name(self) -> str:
        """In its file."""
        return self.tensor.name

    @property
    def kind(self) -> str:
        """Format of its numbers, for example "Q4_0" or "BF16"."""
        return self.tensor.format.name

    @property
    def sizes(self) -> tuple[int, ...]:
        """Its shape; of a matrix outputs and inputs."""
        return self.tensor.shape

    def raw(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Rows as they are stored, (rows, bytes)."""
        return self.file.rows(self.tensor, slice(begin, end)).reshape(end - begin, -1)

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Rows as numbers."""
        return self.file.numbers(self.tensor, slice(begin, end)).reshape(end - begin, *self.sizes[1:])

    def whole(self) -> NDArray[np.float32]:
        """All of it."""
        return self.file.numbers(self.tensor).reshape(self.sizes)

    def pick(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Some rows of a matrix, in this order."""
        return self.file.numbers(self.tensor, rows).reshape(len(rows), *self.sizes[1:])
