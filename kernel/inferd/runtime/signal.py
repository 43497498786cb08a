"""Signals: they wake all who wait for a change, and lose none, since each says which change it has seen."""

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Signal:
    """Counts changes. One writer: the owner of what changes.

    Attributes:
        version: Changes so far.
    """

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Tell of a change."""
        self.version += 1
        if self._waiting:  # seldom, and this is called for each task of each step
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting.clear()

    async def wait(self, seen: int, limit_s: float | None = None) -> int:
        """Wait for a change after version `seen`, so long at most; return the present version."""
        if self.version == seen:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            timer = None if limit_s is None else loop.call_later(limit_s, _release, future)
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)
                if timer is not None:
                    timer.cancel()
        return self.version


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Signals(Generic[K]):
    """Changes by key: whoever watches a key is woken by changes of that key, and by no others.

    Nothing is kept of a key that nobody watches. One writer: the owner of what changes.
    """

    def __init__(self) -> None:
        self._watchers: dict[K, set[Signal]] = {}

    def notify(self, key: K) -> None:
        """Tell of a change of one thing."""
        for signal in self._watchers.get(key, ()):
            signal.notify()

    def notify_all(self) -> None:
        """Tell everyone of something that concerns all."""
        for signals in self._watchers.values():
            for signal in signals:
                signal.notify()

    @contextmanager
    def watch(self, *keys: K) -> Iterator[Signal]:
        """A signal of the changes of any of these keys, from now to the end of the block."""
        signal = Signal()
        for key in keys:
            self._watchers.setdefault(key, set()).add(signal)
        try:
            yield signal
        finally:
            for key in dict.fromkeys(keys):
                self._watchers[key].discard(signal)
                if not self._watchers[key]:
                    del self._watchers[key]
