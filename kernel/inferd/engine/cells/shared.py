"""Memory that a worker shares with one cell: the board, and what the cell writes behind it."""

from __future__ import annotations

import mmap
import os

from inferd.engine.cells.board import Board


class SharedMemory:
    """It has two descriptors, which `close` gives back: Python keeps one of its own for what it maps.

    Args:
        size: In bytes.

    Attributes:
        descriptor: Of the memory.
        board: Its first bytes.

    Raises:
        OSError: There is no memory or no descriptor.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("masks")
        try:
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.board = Board(self._map)

    def read(self, at: int, size: int) -> bytes:
        """A copy of a part of it."""
        return self._map[at : at + size]

    def close(self) -> None:
        """Give it back; it is not used afterwards."""
        self._map.close()
        os.close(self.descriptor)
