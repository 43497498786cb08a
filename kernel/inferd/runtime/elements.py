"""Elements of tensors, and other bytes, that are read in parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.task_events import Elements


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that are held as such."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        return len(self.data)

    def read(self, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Some of them, by default all."""
        return self.data[start:] if size_bytes is None else self.data[start : start + size_bytes]


@dataclass(frozen=True, slots=True)
class Chain:
    """One behind the other."""

    parts: Sequence[Elements]

    @property
    def size_bytes(self) -> int:
        """How many bytes they have together."""
        return sum(part.size_bytes for part in self.parts)

    def read(self, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Some of them, by default all; less where they end."""
        left = self.size_bytes - start if size_bytes is None else size_bytes
        found = []
        for part in self.parts:
            if left <= 0:
                break
            if start < part.size_bytes:
                found.append(part.read(start, min(left, part.size_bytes - start)))
                left -= len(found[-1])
                start = 0
            else:
                start -= part.size_bytes
        return b"".join(found)


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of others.

    Attributes:
        whole: Those.
        start: The first one.
        size_bytes: How many.
    """

    whole: Elements
    start: int
    size_bytes: int

    def read(self, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Some of them, by default all."""
        most = self.size_bytes - start
        return self.whole.read(self.start + start, most if size_bytes is None else min(most, size_bytes))
