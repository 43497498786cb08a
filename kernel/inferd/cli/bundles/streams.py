"""What bundles are read from and written to: bytes in one direction."""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """Where a bundle is read."""

    def read(self, size: int, /) -> bytes:
        """At most so many of the next bytes; b"" at the end."""


class Target(Protocol):
    """Where a bundle is written."""

    def write(self, data: bytes, /) -> object:
        """Write all of it."""


def read_all(source: Source, size: int) -> bytes:
    """So many of the next bytes; fewer at the end."""
    taken = []
    while size and (data := source.read(size)):
        taken.append(data)
        size -= len(data)
    return b"".join(taken)
