"""What is told to a process that computes, and what it answers: a line of JSON, and named bytes behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Parts:
    """Named bytes, as they are written one after the other. One writer: who makes them."""

    told: dict[str, Any]
    named: dict[str, bytes] = field(default_factory=dict)

    def write(self) -> bytes:
        """A line of JSON, then all bytes."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The same one after the other, for whoever has no room for all of it again."""
        sizes = {name: len(content) for name, content in self.named.items()}
        line = json.dumps({"told": self.told, "sizes": sizes}, separators=(",", ":"))
        yield line.encode() + b"\n"
        yield from self.named.values()

    @classmethod
    def read(cls, written: bytes) -> Parts:
        """What was written.

        Raises:
            ValueError: It is no such thing.
        """
        line, _, rest = written.partition(b"\n")
        said = json.loads(line)
        made, at = cls(said["told"]), 0
        for name, size in said["sizes"].items():
            made.named[name] = rest[at : at + size]
            at += size
        if at != len(rest):
            raise ValueError(f"{len(rest)} bytes came of {at}")
        return made
