"""Rows of a tensor that are read from the file as they are wanted."""

import numpy as np
from numpy.typing import NDArray

from inferd_cpu.finder import Source
from inferd_weights.model_file import ModelFile

Floats = NDArray[np.float32]


class StoredRows:
    """A table of which a step takes a few rows: they stay in the file, in its own format.

    In fp32 such a table can be larger than all other weights together (8 GB for Gemma 3n E2B). The file must stay as it
    is while this object lives, as with all that is memory-mapped.

    Args:
        file: The file, which stays mapped.
        source: The rows, with whole blocks in each.
    """

    def __init__(self, file: ModelFile, source: Source) -> None:
        self._file, self._source = file, source

    def __len__(self) -> int:
        return self._source.shape[0]

    def take(self, numbers: NDArray[np.intp]) -> Floats:
        """The rows with these numbers, shape (rows, columns)."""
        found = self._file.numbers(self._source.tensor, self._source.first + numbers)
        return found.reshape(len(numbers), -1).astype(np.float32, copy=False)
