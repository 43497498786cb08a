"""Answers in pieces: begun with a status once the first output is there, alive while silent, ended in words."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import structlog

from inferd.http.calls import DISCONNECT
from inferd.http.problems import INTERNAL, Problem, problem_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Receive, Scope, Send

    from inferd.http_settings import Http

COMMENT: Final = b":"
"""What a piece begins with that is no output: the status may wait for more."""
SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
ENDS: Final = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}
"""Ends of lines, for readers that part by all that Unicode has; in JSON they are in texts alone."""
PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"

log = structlog.get_logger()


def event(text: str) -> bytes:
    """A server-sent event of a JSON text."""
    return f"data: {text}\n\n".encode()


def comment(name: str, value: Any) -> bytes:
    """A comment of a stream of server-sent events, which libraries pass over."""
    return f": {name} {dumps(value)}\n\n".encode()


def dumps(value: Any) -> str:
    """JSON on one line, for all who take more for ends of lines than line feeds are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.translate(ENDS)


def write_error(problem: Problem) -> bytes:
    """The last event of a stream that failed, as OpenAI's libraries read it; `[DONE]` does not follow."""
    return event(json.dumps(problem.openai))  # in ASCII, as of the door


class Streamed:
    """An answer in pieces; an ASGI application.

    Args:
        pieces: They; closed in any case, which cancels the task behind them.
        settings: Of the gateway.
        media: Their type.
        ping: What is sent when it has been silent for long; b"" for nothing.
        failed: Writes the piece that tells of an error.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        settings: Http,
        *,
        media: str = SSE,
        ping: bytes = PING,
        failed: Callable[[Problem], bytes] = write_error,
    ) -> None:
        self._pieces = pieces
        self._settings = settings
        self._media = media
        self._ping = ping
        self._failed = failed
        self._next: asyncio.Future[bytes] | None = None
        self._begun: list[bytes] = []
        self._sent = 0  # pieces

    async def begin(self) -> Streamed:
        """Wait for the first output, for `status_s` at most, or its error.

        Raises:
            InferdError, Refusal: There will be none.
        """
        until = asyncio.get_running_loop().time() + self._settings.status_s
        try:
            while not self._begun or self._begun[-1].startswith(COMMENT):
                self._next = asyncio.ensure_future(anext(self._pieces))
                left_s = until - asyncio.get_running_loop().time()
                if left_s > 0:
                    await asyncio.wait({self._next}, timeout=left_s)
                if not self._next.done():
                    break
                self._begun.append(self._next.result())
                self._next = None
        except StopAsyncIteration:
            self._next = None
        except BaseException:
            await self._close()
            raise
        return self

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        writing = asyncio.current_task()
        left = False

        async def watch() -> None:
            nonlocal left
            while True:
                sent = self._sent
                try:
                    async with asyncio.timeout(self._settings.ping_s):
                        message = await receive()
                except TimeoutError:
                    if sent == self._sent and self._ping:
                        await _send(send, self._ping)
                    continue
                if message["type"] == DISCONNECT:
                    left = True
                    if writing is not None:
                        writing.cancel()
                    return

        watching: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            watching = asyncio.create_task(watch(), name="caller of a stream")
            await self._write(send)
        except asyncio.CancelledError:
            if not left or writing is None:
                raise
            writing.uncancel()
        finally:
            if watching is not None:
                watching.cancel()
            await self._close()

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"content-type", self._media.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # a proxy is to pass each piece on
        ]

    async def _write(self, send: Send) -> None:
        try:
            for piece in self._begun:
                await _send(send, piece)
            self._begun = []
            if self._next is not None:
                first, self._next = self._next, None
                await _send(send, await first)
            async for piece in self._pieces:
                self._sent += 1
                await _send(send, piece)
        except StopAsyncIteration:
            pass
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                log.exception("a stream of the gateway failed")
            await _send(send, self._failed(problem or INTERNAL))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._pieces.aclose()


async def _send(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})
