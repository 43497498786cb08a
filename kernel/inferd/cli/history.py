"""What was typed in conversations, over sessions: a line of JSON each, readable by its owner only."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pathlib import Path

MOST_ENTRIES = 1000
MOST_CHARACTERS = 10_000  # of an entry that is kept


class History:
    """A file of entries, oldest first. Several sessions append to it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[str]:
        """The newest entries; what cannot be read is left out. A file that has become long is cut."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        entries = []
        for line in lines:
            with suppress(ValueError):
                entry = json.loads(line)
                entries += [entry] if isinstance(entry, str) else []
        if len(lines) > 2 * MOST_ENTRIES:
            self._cut(entries[-MOST_ENTRIES:])
        return entries[-MOST_ENTRIES:]

    def add(self, entry: str) -> None:
        """Keep what was typed, unless it is long; that nothing can be kept is no reason to stop."""
        if len(entry) <= MOST_CHARACTERS:
            with suppress(OSError, UnicodeError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._open(self._path, os.O_APPEND) as file:
                    file.write(json.dumps(entry) + "\n")

    def _cut(self, entries: list[str]) -> None:
        fresh = self._path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            with self._open(fresh, os.O_TRUNC) as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
            fresh.replace(self._path)

    @staticmethod
    def _open(path: Path, flags: int) -> TextIO:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
        return os.fdopen(descriptor, "w", encoding="utf-8")
