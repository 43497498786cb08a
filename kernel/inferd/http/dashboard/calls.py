"""What the page asks the gateway for: what changes, what was, the text of a task, and to load or end something."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from inferd.http.calls import answer
from inferd.http.dashboard.history import SPANS
from inferd.http.fields import check_fields, checked
from inferd.http.problems import Refusal
from inferd.http.streams import Streamed, dumps, event
from inferd_api.v1.task_pb2 import TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd.http.dashboard.feeds import Feeds
    from inferd.http_settings import Dashboard


class Calls:
    """Handlers.

    Args:
        feeds: Of all identities.
        settings: Of the dashboard.
    """

    def __init__(self, feeds: Feeds, settings: Dashboard) -> None:
        self._feeds = feeds
        self._settings = settings

    async def events(self, call: Call) -> ASGIApp:
        """All that there is, then what changes, until the browser leaves.

        Raises:
            InferdError: The key may not be used for this tenant.
        """
        await call.client.whoami()
        return await Streamed(self._pieces(call), call.settings).begin()

    async def _pieces(self, call: Call) -> AsyncGenerator[bytes]:
        with self._feeds.reading(call.client, call.headers) as reader:
            while True:
                yield event(await reader.news())
                await asyncio.sleep(self._settings.interval_s)

    async def history(self, call: Call) -> ASGIApp:
        """What was, over a span of `span_s` seconds."""
        given = call.query.get("span_s", "600")
        feed = self._feeds.find(call.client)
        if feed is None:
            raise Refusal(
                "nothing was watched for this key and tenant yet: read /dashboard/events first",
                status=404,
                code="NOT_FOUND",
            )
        if given not in SPANS:  # as text: numbers have no end
            raise Refusal(f"span_s is {given[:20]!r}; it must be 600, 7200 or 86400", param="span_s")
        return answer(feed.history.told(SPANS[given], int(time.time())), headers={"cache-control": "no-store"})

    async def text(self, call: Call) -> ASGIApp:
        """What a task produces: the newest of its text, then what comes."""
        return await Streamed(self._texts(call), call.settings).begin()

    async def _texts(self, call: Call) -> AsyncGenerator[bytes]:
        """Pieces of text; those of a task that has told more than may be shown are its last ones."""
        left = self._settings.text_chars
        watched = call.client.watch(call.path["id"], output_interval_s=self._settings.interval_s)
        async with aclosing(watched) as events:
            async for each in events:
                if each.HasField("output") and each.output.text:
                    yield event(dumps({"text": each.output.text[-left:], "sample": each.output.sample}))
                elif each.HasField("queued"):
                    yield event(dumps({"queued": each.queued.position, "reason": each.queued.reason}))
                elif each.HasField("finished"):
                    state = TaskState.Name(each.finished.state).removeprefix("TASK_STATE_").lower()
                    yield event(dumps({"finished": state, "error": each.finished.error.message}))

    async def load(self, call: Call) -> ASGIApp:
        """Load a model; answers when it is loaded."""
        await call.client.load_model(_name(call, "model"))
        return answer({})

    async def unload(self, call: Call) -> ASGIApp:
        """Unload a model."""
        await call.client.unload_model(_name(call, "model"))
        return answer({})

    async def cancel(self, call: Call) -> ASGIApp:
        """End a task."""
        await call.client.cancel_task(_name(call, "task_id"))
        return answer({})


def _name(call: Call, field: str) -> str:
    check_fields(call.body, {field}, {})
    given: Any = call.body.get(field)
    checked(field, given, str, "a name")
    return str(given)
