"""Pieces of a model as they come, from whomever: each is what the kernel says that it is, or is not taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inferd.agent.cache import Cache, CachedFile


class Arriving:
    """The pieces of one model. One writer: who fetches it.

    Args:
        cache: Where they are put.
        place: Of the model there.
        files: What it consists of.
        hear: Is called each time that one has come.

    Attributes:
        known: Those that are there, by file and number.
    """

    def __init__(self, cache: Cache, place: Path, files: Sequence[CachedFile], hear: Callable[[], None]) -> None:
        self._cache = cache
        self._place = place
        self._files = files
        self._hear = hear
        self._wanted: list[tuple[CachedFile, int]] = []
        self._held = bytearray()
        self.known = set[tuple[str, int]]()
        self.total = sum(len(file.pieces) for file in files)

    async def look(self) -> None:
        """Find those that are there, from a fetch that broke off."""
        for file in self._files:
            await asyncio.to_thread(self._cache.had, self._place, file, self.known)

    @property
    def whole(self) -> bool:
        """Whether all are there."""
        return len(self.known) == self.total

    def had(self) -> set[bytes]:
        """The digests of those that are there."""
        return {file.pieces[n] for file in self._files for n in range(len(file.pieces)) if (file.name, n) in self.known}

    def begin(self, *, each_once: bool = False) -> list[tuple[CachedFile, int]]:
        """Those that are missing, in the order in which they are to come; with `each_once` equal ones only once."""
        had, self._wanted = self.had(), []
        self._held.clear()
        for file in self._files:
            for number, digest in enumerate(file.pieces):
                if digest not in had:
                    self._wanted.append((file, number))
                    if each_once:
                        had.add(digest)
        self._wanted.reverse()
        return self._wanted[::-1]

    async def take(self, chunk: bytes) -> bool:
        """The next bytes of the piece that comes now; False where they are not of it."""
        self._held += chunk
        if not self._wanted or len(self._held) > self._wanted[-1][0].size_of(self._wanted[-1][1]):
            return False
        file, number = self._wanted[-1]
        if len(self._held) == file.size_of(number):
            if not await asyncio.to_thread(self._cache.write, self._place, file, number, bytes(self._held)):
                return False
            self.known.add((file.name, number))
            self._wanted.pop()
            self._held.clear()
            self._hear()
        return True

    async def repeat(self) -> None:
        """Put pieces in their second places of which a first one is there: equal ones come once."""
        first = {
            file.pieces[n]: (file, n)
            for file in self._files
            for n in range(len(file.pieces))
            if (file.name, n) in self.known
        }
        for file in self._files:
            for number, digest in enumerate(file.pieces):
                if digest in first and (file.name, number) not in self.known:
                    await asyncio.to_thread(self._copy, *first[digest], file, number)

    def _copy(self, there: CachedFile, at: int, file: CachedFile, number: int) -> None:
        with (self._place / there.name).open("rb") as opened:
            opened.seek(at * there.piece_bytes)
            if self._cache.write(self._place, file, number, opened.read(there.size_of(at))):
                self.known.add((file.name, number))
