"""What is done for one task, on a leash: when nobody wants it any more, it ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.engine.cells.cell import Cell


class Leash:
    """May be used from any thread.

    Args:
        apart: See below.

    Attributes:
        apart: Foreign code runs for it in cells only, where it costs nobody else: workers have died of the task.
        cut: Nobody wants it any more.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self.apart = apart
        self.cut = False
        self._cell: Cell | None = None
        self._lock = threading.Lock()

    def hold(self, cell: Cell | None) -> None:
        """It is this cell that works now; None for none."""
        with self._lock:
            self._cell = cell
            if self.cut and cell is not None:
                cell.kill()

    def pull(self) -> None:
        """End what is done, now and from now on."""
        with self._lock:
            self.cut = True
            if self._cell is not None:
                self._cell.kill()
