"""What changes when a file does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def stamp_of(path: Path) -> tuple[int, ...]:
    """Equal for the same contents of a file, as far as the system tells; empty for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
