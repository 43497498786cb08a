"""Keys and values of sequences, each in one piece: what attention reads and writes.

An anonymous mapping, of which only pages that were touched are there. So a place may be as long as the longest
sequence, though most are short; what is no longer needed is given back to the system page by page.
"""

import mmap
from typing import Any

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
MAP_NORESERVE = 0x4000  # of Linux's mmap(2): most of it is never touched; Python 3.11 has no name for it


class Area:
    """Places for sequences: an array (layers * 2, places, heads, tokens, width) of numbers, keys and values in turn.

    Attributes:
        numbers: That array.
    """

    def __init__(
        self, *, layers: int, places: int, heads: int, tokens: int, width: int, dtype: type[np.floating[Any]]
    ) -> None:
        shape = (layers * 2, places, heads, tokens, width)
        count = int(np.prod(shape, dtype=np.int64))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._mapping = mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags=flags)
        self.numbers = np.frombuffer(self._mapping, dtype).reshape(shape)
        self._row_bytes = width * np.dtype(dtype).itemsize
        self._token_count = tokens

    def pointer(self, part: int, place: int) -> int:
        """The address of a layer's keys or values from a place on."""
        address: int = self.numbers[part, place].ctypes.data
        return address

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a place to another."""
        self.numbers[:, target, :, :tokens] = self.numbers[:, source, :, :tokens]

    def release(self, place: int, tokens: int) -> None:
        """Give back the memory of a place behind its first tokens; they read as zeros afterwards."""
        parts, places, heads, _, _ = self.numbers.shape
        whole_bytes = self._token_count * self._row_bytes
        for part in range(parts):
            for head in range(heads):
                begin = ((part * places + place) * heads + head) * whole_bytes
                first = -(-(begin + tokens * self._row_bytes) // PAGE_BYTES) * PAGE_BYTES
                end = (begin + whole_bytes) // PAGE_BYTES * PAGE_BYTES
                if first < end:
                    self._mapping.madvise(mmap.MADV_DONTNEED, first, end - first)
