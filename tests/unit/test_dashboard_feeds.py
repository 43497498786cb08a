"""How long the dashboard watches a kernel for a key and tenant, and who is told of its end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
from time_limits import LONG_S

from inferd.http.dashboard.feed import Feed
from inferd.http.dashboard.feeds import Feeds
from inferd.http_settings import Dashboard
from inferd_client import AsyncClient
from inferd_client.errors import UnauthenticatedError

if TYPE_CHECKING:
    from inferd.http.clients import Clients

CLIENT = cast("AsyncClient", object())


class Lent:
    """Connections that are there."""

    @asynccontextmanager
    async def of(self, _: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
        yield CLIENT


def feeds_of(**settings: Any) -> Feeds:
    return Feeds(cast("Clients", Lent()), Dashboard(**settings))


async def test_a_page_that_opens_while_its_watch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes while a watch that nobody read is being ended has one of its own, which goes on."""
    ending, ended = asyncio.Event(), asyncio.Event()

    async def run(_: Feed) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await ended.wait()

    monkeypatch.setattr(Feed, "run", run)
    feeds = feeds_of(linger_s=0.0)
    with feeds.reading(CLIENT, {}):
        former = feeds.find(CLIENT)
    async with asyncio.timeout(LONG_S):
        await ending.wait()
    with feeds.reading(CLIENT, {}):
        now = feeds.find(CLIENT)
        assert now is not None
        assert now is not former
        ended.set()
        await asyncio.sleep(0)
        assert feeds.find(CLIENT) is now
    await feeds.close()


async def test_a_page_that_opens_after_its_key_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch whose key is known no more tells those, too, that come before it has ended."""
    failed, ended = asyncio.Event(), asyncio.Event()

    async def run(feed: Feed) -> None:
        feed.state.fail(UnauthenticatedError("revoked"))
        failed.set()
        await ended.wait()
        raise UnauthenticatedError("revoked")

    monkeypatch.setattr(Feed, "run", run)
    feeds = feeds_of()
    with feeds.reading(CLIENT, {}):
        async with asyncio.timeout(LONG_S):
            await failed.wait()
        with feeds.reading(CLIENT, {}) as late:
            async with asyncio.timeout(LONG_S):
                with pytest.raises(UnauthenticatedError):
                    await late.news()
    ended.set()
    await feeds.close()
