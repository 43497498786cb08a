"""The feeds of all identities, so many at most, each as long as a browser reads it and for a while behind that."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from inferd.http.dashboard.feed import Feed
from inferd.http.problems import Refusal, problem_of
from inferd_client.errors import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from inferd.http.clients import Clients
    from inferd.http.dashboard.state import Reader
    from inferd.http_settings import Dashboard
    from inferd_client import AsyncClient

RETRY_S = 5.0
log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class _Kept:
    feed: Feed
    task: asyncio.Task[None]
    left_at: float = 0.0  # when the last browser left
    news: asyncio.Event = field(default_factory=asyncio.Event)  # browsers came or left


class Feeds:
    """The feeds. One writer: the gateway's loop.

    Args:
        clients: Connections to the kernel: a feed keeps its own open.
        settings: Of the dashboard.
    """

    def __init__(self, clients: Clients, settings: Dashboard) -> None:
        self._clients = clients
        self._settings = settings
        self._feeds: dict[AsyncClient, _Kept] = {}

    @property
    def browsers(self) -> int:
        """How many read."""
        return sum(each.feed.state.readers for each in self._feeds.values())

    @contextmanager
    def reading(self, client: AsyncClient, headers: Mapping[str, str]) -> Generator[Reader]:
        """What a browser of an identity is told.

        Args:
            client: Of the identity.
            headers: By which it came; the feed has its own connection by them.

        Raises:
            Refusal: There are too many.
        """
        kept = self._join(client, headers)
        state = kept.feed.state
        reader = state.join(self._settings.pending_rows)
        kept.news.set()
        try:
            yield reader
        finally:
            state.leave(reader)
            kept.left_at = time.monotonic()
            kept.news.set()

    def find(self, client: AsyncClient) -> Feed | None:
        """The feed of an identity; None where no browser of it reads or has read lately."""
        kept = self._feeds.get(client)
        return kept.feed if kept else None

    def _join(self, client: AsyncClient, headers: Mapping[str, str]) -> _Kept:
        kept = self._feeds.get(client)
        own = kept.feed.state.readers if kept else 0
        for count, most, name in (
            (self.browsers, self._settings.browsers, "browsers"),
            (own, self._settings.key_browsers, "key_browsers"),
        ):
            if count >= most:
                whose = "of this key and tenant " if name == "key_browsers" else ""
                raise _full(f"{count} browsers {whose}watch", f"http.dashboard.{name}", most)
        if kept is not None:
            return kept
        if len(self._feeds) >= self._settings.feeds:
            idle = [each for each in self._feeds.items() if not each[1].feed.state.readers]
            if not idle:
                raise _full(f"{len(self._feeds)} keys and tenants watch", "http.dashboard.feeds", self._settings.feeds)
            oldest = min(idle, key=lambda each: each[1].left_at)
            self._feeds.pop(oldest[0]).task.cancel()
        feed = Feed(client, self._settings)
        kept = _Kept(feed=feed, task=asyncio.ensure_future(self._run(client, feed, dict(headers))))
        self._feeds[client] = kept
        return kept

    async def _run(self, client: AsyncClient, feed: Feed, headers: Mapping[str, str]) -> None:
        """Keep a feed until nobody has read it for long."""
        kept = self._feeds[client]
        try:
            async with self._clients.of(headers):  # so that the connection is not closed meanwhile
                watching = asyncio.create_task(feed.run(), name="feed of a dashboard")
                try:
                    await self._used(kept, watching)
                    self._forget(client, feed)  # before all that waits: who comes now has a feed that goes on
                    if watching.done():
                        watching.result()
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        except UnauthenticatedError:
            pass  # its readers were told
        except Exception as error:
            if problem_of(error) is None:
                log.exception("a feed of the dashboard failed")
            feed.state.fail(error)
        finally:
            self._forget(client, feed)

    def _forget(self, client: AsyncClient, feed: Feed) -> None:
        """Nobody joins it any more."""
        kept = self._feeds.get(client)
        if kept is not None and kept.feed is feed:
            del self._feeds[client]

    async def _used(self, kept: _Kept, watching: asyncio.Task[None]) -> None:
        """Wait until it watches no more, or nobody reads it, nor has for as long as it lingers."""
        while not watching.done():
            leaving = asyncio.create_task(self._unwanted(kept))
            try:
                await asyncio.wait({watching, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
            if not kept.feed.state.readers:  # none came behind the end of that wait
                return

    async def _unwanted(self, kept: _Kept) -> None:
        """Wait until nobody has read it for as long as it lingers."""
        while True:
            kept.news.clear()
            try:
                async with asyncio.timeout(None if kept.feed.state.readers else self._settings.linger_s):
                    await kept.news.wait()
            except TimeoutError:
                return

    async def close(self) -> None:
        """End all."""
        tasks = [each.task for each in self._feeds.values()]
        self._feeds.clear()
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _full(what: str, bound: str, most: int) -> Refusal:
    return Refusal(
        f"{what} the dashboard, and {most} may ({bound}); close one, or try again later",
        status=503,
        code="LIMIT_EXCEEDED",
        retry_after_s=RETRY_S,
    )
