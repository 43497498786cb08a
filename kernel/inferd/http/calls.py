"""A request on its way: its body within bounds, its caller's client, its answer; given up where the caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse

from inferd.http.traces import note_trace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from starlette.types import ASGIApp, Receive, Scope, Send

    from inferd.http.clients import Clients
    from inferd.http.incoming import Bodies
    from inferd.http_settings import Http
    from inferd_client import AsyncClient

DISCONNECT: Final = "http.disconnect"
Made = TypeVar("Made")


class GoneError(Exception):
    """Who asked has left."""


@dataclass(slots=True, kw_only=True)
class Call:
    """What a handler is given.

    What is made of a large body is made beside the loop, see `aside`: others have their turn meanwhile.

    Attributes:
        client: That of the caller.
        settings: Of the gateway.
        path: Parameters of the path, by name.
        query: Those behind the question mark.
        headers: Of the request.
        body: What it says: JSON, or the fields of a form; {} for one without a body.
        receive: Gives what follows of the request: that the caller left.
        request_id: What no other request has, and the same one has when it is made again; "" where none is known.
        reader: Where a large body is read; None for a small one.
    """

    client: AsyncClient
    settings: Http
    path: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: Mapping[str, Any]
    receive: Receive
    request_id: str = ""
    reader: Executor | None = None

    async def aside(self, work: Callable[..., Made], *given: Any, **named: Any) -> Made:
        """What work without a wait makes of the body; raises as that."""
        if self.reader is None:
            return work(*given, **named)
        call = partial(copy_context().run, partial(work, *given, **named))  # of whichever trace the request is
        return await asyncio.get_running_loop().run_in_executor(self.reader, call)


Handler = Callable[[Call], Awaitable["ASGIApp"]]
"""Makes the answer; cancelled where the caller leaves before there is one."""


class Endpoint:
    """Answers requests by a handler.

    Args:
        handler: It.
        clients: Connections to the kernel.
        bodies: Those of all requests.
        settings: Of the gateway.
        upload: Whether the body is a form; else it is JSON.
    """

    def __init__(
        self, handler: Handler, clients: Clients, bodies: Bodies, settings: Http, *, upload: bool = False
    ) -> None:
        self._handler = handler
        self._clients = clients
        self._bodies = bodies
        self._settings = settings
        self._upload = upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        headers = Headers(scope=scope)
        note_trace(headers)
        async with self._clients.of(headers) as client:
            with self._bodies.of(client) as room:
                body: Mapping[str, Any] = {}
                if self._upload:
                    body = await room.read_form(headers, receive, self._settings)
                elif scope["method"] not in ("GET", "HEAD"):
                    body = await room.read_json(headers, receive, self._settings)
                call = Call(
                    client=client,
                    settings=self._settings,
                    path=scope.get("path_params", {}),
                    query=QueryParams(scope["query_string"]),
                    headers=headers,
                    body=body,
                    receive=receive,
                    reader=self._bodies.reader_of(room),
                )
                answer = await unless_gone(self._handler(call), receive)
                await answer(scope, receive, send)


async def unless_gone(work: Awaitable[ASGIApp], receive: Receive) -> ASGIApp:
    """Do work unless the caller leaves, which cancels it.

    Raises:
        GoneError: It has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GoneError
        return working.result()
    finally:
        for each in (working, leaving):
            each.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != DISCONNECT:
        pass


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> ASGIApp:
    """An answer of JSON."""
    return JSONResponse(value, status_code=status, headers=dict(headers or {}))
