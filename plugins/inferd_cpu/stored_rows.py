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
        count, self._columns = source.shape
        self._form = source.tensor.format
        blocks = file.blocks(source.tensor)
        each = self._columns // self._form.block_elements
        self._rows = blocks[source.first * each : (source.first + count) * each].reshape(count, -1)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, numbers: NDArray[np.intp]) -> Floats:
        """The rows with these numbers, shape (rows, columns)."""
        blocks = self._rows[numbers].reshape(-1, self._form.block_bytes)
        return self._form.decode(blocks).reshape(len(numbers), self._columns).astype(np.float32, copy=False)
