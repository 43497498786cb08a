"""What a cell is at, as far as it can tell while it is: in memory that it shares with the worker."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import mmap

BOARD_BYTES: Final = 4096
"""Bytes in front of what else is in the memory."""

_BOARD: Final = struct.Struct("<qq")  # how often the cell began with something; with what, -1 for nothing


class Board:
    """The first bytes of the memory. One writer: the cell; while there is none, the worker.

    Args:
        memory: Shared; zeros, or of a cell that has ended.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._beats = 0

    def begin(self, number: int) -> None:
        """The cell begins with something for an output."""
        self._beats += 1
        _BOARD.pack_into(self._memory, 0, self._beats, number)

    def idle(self) -> None:
        """The cell is at nothing that could take long."""
        self.begin(-1)

    def clear(self) -> None:
        """There is no cell; the one before was at nothing."""
        _BOARD.pack_into(self._memory, 0, 0, -1)

    def read(self) -> tuple[int, int]:
        """How often the cell began with something, and for which output it does; -1 for none."""
        beats, number = _BOARD.unpack_from(self._memory, 0)
        return beats, number
