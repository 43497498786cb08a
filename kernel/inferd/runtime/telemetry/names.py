"""Names as labels: so many of them, and `other` for the rest, however many there come to be."""

from __future__ import annotations

from inferd.runtime.telemetry.table import OTHER


class Names:
    """Which models are told by name: the first ones that are counted. One writer: the kernel's loop.

    Args:
        most: How many there may be at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, None] = {}

    def take(self, name: str) -> str:
        """The value of the label for a model that is counted; it has its own where there is room."""
        if name not in self._known:
            if len(self._known) >= self._most or name == OTHER:
                return OTHER
            self._known[name] = None
        return name

    def find(self, name: str) -> str:
        """The same, of one that may not have been counted yet; from any thread."""
        return name if name in self._known else OTHER

    def forget(self, name: str) -> bool:
        """A model is gone: another one may have its room. Whether it was told by name."""
        if name not in self._known:
            return False
        del self._known[name]
        return True
