"""What was read of pictures and is likely to be asked for again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def count_bytes(values: Mapping[str, Any]) -> int:
    """What the arrays of a picture take."""
    return sum(int(value.nbytes) for value in values.values())


@dataclass(slots=True)
class _Item:
    values: Mapping[str, Any]
    size_bytes: int
    holders: int = 0


class Kept:
    """Arrays by the keys of pictures: those that somebody holds, and the last used ones. Called from any thread.

    Args:
        most_bytes: Of all arrays.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept_bytes = 0
        self._items: OrderedDict[bytes, _Item] = OrderedDict()
        self._lock = threading.RLock()  # `release` may be called by the collector, in a thread that has it

    def find(self, key: bytes) -> Mapping[str, Any] | None:
        """Those of a picture; None where they are not there."""
        with self._lock:
            if (item := self._items.get(key)) is None:
                return None
            self._items.move_to_end(key)
            return item.values

    def keep(self, key: bytes, values: Mapping[str, Any]) -> None:
        """Keep those of a picture, and let go what was not used for longest and is not held."""
        size_bytes = count_bytes(values)
        with self._lock:
            if key in self._items or size_bytes > self._most_bytes:
                return
            self._items[key] = _Item(values, size_bytes)
            self._kept_bytes += size_bytes
            for other in [other for other, item in self._items.items() if not item.holders]:
                if self._kept_bytes <= self._most_bytes:
                    break
                self._kept_bytes -= self._items.pop(other).size_bytes

    def hold(self, key: bytes) -> bool:
        """Let those of a picture stay until `release`; False where they are not there."""
        with self._lock:
            if (item := self._items.get(key)) is None:
                return False
            item.holders += 1
            return True

    def release(self, key: bytes) -> None:
        """Somebody who held those of a picture needs them no more."""
        with self._lock:
            self._items[key].holders -= 1
