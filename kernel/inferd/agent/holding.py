"""Which models' files are on this host, as kernels call them: where one is loaded follows from that, too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from inferd.agent.cache import VERSION
from inferd.errors import words_of
from inferd.runtime.signal import Signal
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inferd.agent.cache import Cache

MOST: Final = 4096
AGAIN_S: Final = 1.0  # between two words of it

log = structlog.get_logger()


class Holding:
    """Knows them. One writer: its agent.

    Args:
        cache: Where the files are that were fetched.

    Attributes:
        changed: Tells when they may be others.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._seen: dict[str, None] = {}  # of models whose files are where the kernel has them, too: the oldest first
        self._telling: asyncio.Task[None] | None = None
        self.changed = Signal()

    def see(self, version: str) -> None:
        """The files of a model are where the kernel has them, too."""
        if not VERSION.fullmatch(version):  # of an older kernel
            return
        is_new = version not in self._seen
        self._seen.pop(version, None)
        self._seen[version] = None
        if is_new:
            while len(self._seen) > MOST:
                del self._seen[next(iter(self._seen))]
            self.changed.notify()

    async def note(self, place: Path, version: str) -> None:
        """The files of a model were fetched, or were there."""
        if VERSION.fullmatch(version):
            try:
                await asyncio.to_thread(self._cache.note, place, version)
            except OSError as error:  # it is loaded all the same
                log.warning("what is on this host cannot be noted", folder=str(place), why=words_of(error))
        self.changed.notify()

    async def versions(self) -> wire.HostHolds:
        """All of them, of each kind those first that were used last."""
        try:
            cached = await asyncio.to_thread(self._cache.versions, MOST)
        except OSError as error:
            log.warning("what is on this host cannot be read", why=words_of(error))
            cached = []
        fetched = set(cached)
        near = [each for each in reversed(self._seen) if each not in fetched][: MOST - len(cached)]
        return wire.HostHolds(versions=[*near, *cached], near=len(near))

    def begin(self, told: wire.HostHolds, tell: Callable[[wire.HostHolds], None]) -> None:
        """Tell a kernel of them when they have changed, and no other one any more; see `tell`."""
        self.end()
        self._telling = asyncio.create_task(self.tell(told, tell), name="files of models")

    def end(self) -> None:
        """Tell nothing more."""
        if self._telling is not None:
            self._telling.cancel()

    async def tell(self, told: wire.HostHolds, tell: Callable[[wire.HostHolds], None]) -> None:
        """Tell of them when they have changed, until this is cancelled.

        Args:
            told: What was told last.
            tell: Is called with all of them.
        """
        while True:
            seen = self.changed.version
            if _kinds(held := await self.versions()) != _kinds(told):
                told = held
                tell(held)
            await asyncio.sleep(AGAIN_S)
            await self.changed.wait(seen)


def _kinds(held: wire.HostHolds) -> tuple[set[str], set[str]]:
    return set(held.versions[: held.near]), set(held.versions[held.near :])
