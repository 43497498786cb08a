"""Cells that do the same work for one task after the other."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from inferd.engine.cells.cell import START_TIMEOUT_S
from inferd.engine.leash import Leash
from inferd.plugin.channel import ClosedError

if TYPE_CHECKING:
    from inferd.engine.cells.cell import Cell, Cells

_IDLE: Final = 1  # cells that are kept for the next task


class DiedError(Exception):
    """The cell ended while it worked; says how."""


class Pool:
    """Asks cells of one role, as many at once as it is asked to. May be called from any thread.

    Args:
        cells: Starts them.
        role: What they do.
        greeting: What each is told first; None for nothing.
    """

    def __init__(self, cells: Cells, role: str, *, greeting: Any = None) -> None:
        self._cells = cells
        self._role = role
        self._greeting = greeting
        self._lock = threading.Lock()
        self._idle: list[Cell] = []

    def ask(
        self, message: Any, data: bytes = b"", *, timeout_s: float, leash: Leash | None = None
    ) -> tuple[Any, bytes]:
        """What a cell answers. It is killed if it does not in time, and asked again, another one, if it dies.

        Args:
            message: What it is asked.
            data: Bytes with it.
            timeout_s: Longest time, from when there is a cell.
            leash: Ends the work before; None for none.

        Raises:
            LateError: It did not answer in time.
            DiedError: The second one died, too, or nobody wants the answer any more.
            CellError: There is none.
        """
        leash = leash or Leash()
        with suppress(DiedError):
            return self._ask(message, data, timeout_s, leash)
        return self._ask(message, data, timeout_s, leash)

    def warm(self) -> None:
        """Have a cell ready for the first task.

        Raises:
            CellError: There is none.
        """
        self._give_back(self._take())

    def close(self) -> None:
        """End the cells that are not at work."""
        with self._lock:
            cells, self._idle = self._idle, []
        for cell in cells:
            cell.kill()

    def _ask(self, message: Any, data: bytes, timeout_s: float, leash: Leash) -> tuple[Any, bytes]:
        if leash.cut:
            raise DiedError("nobody waits for it any more")
        cell = self._take()
        good = False
        try:
            leash.hold(cell)
            until = time.monotonic() + timeout_s
            cell.channel.send(message, data, timeout_s=timeout_s)
            answer, more = cell.channel.receive(timeout_s=max(0.0, until - time.monotonic()))
            good = not answer.get("memory")  # what it took once, it may keep
        except ClosedError:
            raise DiedError(cell.end()) from None
        finally:
            leash.hold(None)
            if good and not leash.cut:
                self._give_back(cell)
            else:
                cell.end()
        return answer, more

    def _take(self) -> Cell:
        """A cell that does nothing, or a new one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        cell = self._cells.spawn(self._role)
        try:
            if self._greeting is not None:
                cell.channel.send(self._greeting, timeout_s=START_TIMEOUT_S)
        except ClosedError:
            raise DiedError(cell.end()) from None
        except BaseException:
            cell.end()
            raise
        return cell

    def _give_back(self, cell: Cell) -> None:
        """Let the next task have a cell."""
        with self._lock:
            if len(self._idle) < _IDLE:
                self._idle.append(cell)
                return
        cell.end()
