"""Cells that do the same work for one task after the other."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.cells.channel import ClosedError, LateError

if TYPE_CHECKING:
    from inferd.engine.cells.cell import Cell, Cells

MOST: Final = 4
"""Cells that work at once; a task that finds all of them at work waits for one."""

_IDLE: Final = 1  # cells that are kept for the next task


class DiedError(Exception):
    """The cell ended while it worked; says how."""


class Pool:
    """Asks cells of one role. May be called from any thread.

    Args:
        cells: Starts them.
        role: What they do.
        greeting: What each is told first; None for nothing.
    """

    def __init__(self, cells: Cells, role: str, *, greeting: Any = None) -> None:
        self._cells = cells
        self._role = role
        self._greeting = greeting
        self._changed = threading.Condition()
        self._idle: list[Cell] = []
        self._working = 0

    def ask(self, message: Any, data: bytes = b"", *, timeout_s: float) -> tuple[Any, bytes]:
        """What a cell answers. It is killed if it does not in time, and asked again, another one, if it dies.

        Raises:
            LateError: It did not, or all cells were at work for so long.
            DiedError: The second one died, too.
            CellError: There is none.
        """
        with suppress(DiedError):
            return self._ask(message, data, timeout_s)
        return self._ask(message, data, timeout_s)

    def warm(self) -> None:
        """Have a cell ready for the first task.

        Raises:
            CellError: There is none.
        """
        self._give_back(self._take(0))

    def close(self) -> None:
        """End the cells that are not at work."""
        with self._changed:
            cells, self._idle = self._idle, []
        for cell in cells:
            cell.kill()

    def _ask(self, message: Any, data: bytes, timeout_s: float) -> tuple[Any, bytes]:
        cell = self._take(timeout_s)
        good = False
        try:
            cell.channel.send(message, data, timeout_s=timeout_s)
            answer, more = cell.channel.receive(timeout_s=timeout_s)
            good = not answer.get("memory")  # what it took once, it may keep
        except ClosedError:
            raise DiedError(cell.end()) from None
        finally:
            self._give_back(cell if good else None)
            if not good:
                cell.end()
        return answer, more

    def _take(self, timeout_s: float) -> Cell:
        """A cell that does nothing, or a new one."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while self._working >= MOST:
                if not self._changed.wait(until - time.monotonic()):
                    raise LateError
            self._working += 1
            if self._idle:
                return self._idle.pop()
        try:
            cell = self._cells.spawn(self._role)
            if self._greeting is not None:
                cell.channel.send(self._greeting)
        except BaseException as error:
            self._give_back(None)
            if isinstance(error, ClosedError):
                raise DiedError("it did not start") from None
            raise
        return cell

    def _give_back(self, cell: Cell | None) -> None:
        """Let the next task have a cell, or the room of one."""
        with self._changed:
            self._working -= 1
            self._changed.notify()
            if cell is not None and len(self._idle) < _IDLE:
                self._idle.append(cell)
                return
        if cell is not None:
            cell.end()
