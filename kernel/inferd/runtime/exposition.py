"""Where Prometheus reads what the kernel counts: one page of HTTP, on the kernel's event loop.

A browser on this host may be made to ask here by a page of anywhere whose name was made to mean the loopback; so the
host that a request names must be the loopback's. Where others than this host can ask there is TLS, and a request says
who asks. A connection brings one request and is closed after its answer.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from io import BytesIO
from typing import cast
from urllib.parse import urlsplit

from inferd.errors import InferdError, UnauthenticatedError
from inferd.runtime.telemetry.figures import CONTENT_TYPE

PATH = "/metrics"
METHODS = ("GET", "HEAD")
HEAD_BYTES = 16 << 10  # of a request: its line and its headers
LINGER_BYTES = 64 << 10  # read at once and thrown away of a request that was refused
BACKLOG = 1024  # a full one has those who come wait for seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpositionLimits:
    """How many connections there may be, and how long each; see `inferd.config.Limits`."""

    connections: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What stands before a page that others than this host can ask for.

    Attributes:
        context: Tells that of TLS: the newest, for each connection.
        admit: Refuses what the credential of a request, "" for none, does not allow, with an `InferdError`.
    """

    context: Callable[[], ssl.SSLContext]
    admit: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"


@asynccontextmanager
async def exposed(
    page: Callable[[], bytes], host: str, port: int, limits: ExpositionLimits, guard: Guard | None = None
) -> AsyncIterator[int]:
    """Let Prometheus read at `http://host:port/metrics` until the block ends; the port, where 0 chose one.

    Args:
        page: Makes what is read, in a thread of its own.
        host: A name or an address; without a guard, of the loopback.
        port: 0 for any.
        limits: Of connections.
        guard: What is asked of those who come; None for nothing.

    Raises:
        OSError: The address cannot be bound.
    """
    with ThreadPoolExecutor(1, "metrics") as renderer:  # that of a hundred models takes some ms
        connections = _Connections(page, limits, renderer, guard)
        address = "127.0.0.1" if host == "localhost" else host  # one port, whatever the name stands for
        server = await asyncio.start_server(connections.accept, address, port, limit=HEAD_BYTES, backlog=BACKLOG)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await connections.close()


class _Connections:
    """The connections. One writer: the event loop."""

    def __init__(
        self, page: Callable[[], bytes], limits: ExpositionLimits, renderer: ThreadPoolExecutor, guard: Guard | None
    ) -> None:
        self._page = page
        self._guard = guard
        self._limits = limits
        self._renderer = renderer
        self._living: dict[asyncio.WriteTransport, asyncio.Task[None]] = {}
        self._idle: dict[asyncio.WriteTransport, None] = {}  # of them those that ask nothing, the oldest first

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection has come. Where there are too many, the one that has asked nothing for longest goes."""
        if self._guard is not None:
            cast("asyncio.Transport", writer.transport).pause_reading()  # what comes is for TLS, which begins soon
        if len(self._living) >= self._limits.connections:
            if not self._idle:
                why = f"{len(self._living)} connections read already (limits.metrics_connections)"
                if self._guard is None:
                    writer.write(_write(_refuse(HTTPStatus.SERVICE_UNAVAILABLE, why)))
                writer.close()
                return
            self._end(next(iter(self._idle)))
        transport = writer.transport
        task = self._living[transport] = asyncio.create_task(self._serve(reader, writer), name="metrics")
        self._idle[transport] = None
        task.add_done_callback(lambda _: self._end(transport))

    async def close(self) -> None:
        """End every connection."""
        ending = tuple(self._living.items())
        for transport, _ in ending:
            self._end(transport)
        await asyncio.gather(*(task for _, task in ending), return_exceptions=True)

    def _end(self, transport: asyncio.WriteTransport) -> None:
        """Close a connection; again changes nothing. Its task may not even have begun, so it is not left to that."""
        self._idle.pop(transport, None)
        if (task := self._living.pop(transport, None)) is not None:
            task.cancel()
            transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport  # by which it is known, also under TLS
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(self._limits.timeout_s):
                if self._guard is not None:
                    await writer.start_tls(self._guard.context(), ssl_handshake_timeout=self._limits.timeout_s)
                try:
                    request = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    method, answer = (
                        "",
                        _refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {HEAD_BYTES} bytes"),
                    )
                else:
                    self._idle.pop(transport, None)
                    method, answer = await self._find(request)
                writer.write(_write(answer, body=method != "HEAD"))
                if self._guard is not None:  # TLS closes both ways at once, behind all that was written
                    writer.close()
                    await writer.wait_closed()
                    return
                await writer.drain()
                writer.write_eof()
                self._idle[transport] = None
                while await reader.read(LINGER_BYTES):  # closing on what is unread would take the answer back
                    pass

    async def _find(self, request: bytes) -> tuple[str, _Answer]:
        """The method of a request, and its answer."""
        line, _, rest = request.partition(b"\r\n")
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
            return "", _refuse(HTTPStatus.BAD_REQUEST, "no request of HTTP/1")
        method, target, version = words
        try:
            headers = parse_headers(BytesIO(rest))
        except HTTPException as error:
            return method, _refuse(HTTPStatus.BAD_REQUEST, type(error).__name__)
        refused = _check(method, target, version, headers, by_name=self._guard is None) or self._admit(headers)
        if refused is not None:
            return method, refused
        body = await asyncio.get_running_loop().run_in_executor(self._renderer, self._page)
        return method, _Answer(HTTPStatus.OK, body, CONTENT_TYPE)

    def _admit(self, headers: Message) -> _Answer | None:
        """Why who asks is refused; None when he is not."""
        if self._guard is None:
            return None
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        try:
            self._guard.admit(credential.strip() if scheme.lower() == "bearer" else "")
        except UnauthenticatedError as error:
            return _refuse(HTTPStatus.UNAUTHORIZED, error.message)
        except InferdError as error:
            return _refuse(HTTPStatus.FORBIDDEN, error.message)
        return None


def _check(method: str, target: str, version: str, headers: Message, *, by_name: bool) -> _Answer | None:
    """Why a request is refused; None when it is not."""
    hosts = headers.get_all("host", [])
    if headers.defects or len(hosts) > 1 or (not hosts and version != "HTTP/1.0"):
        return _refuse(HTTPStatus.BAD_REQUEST, "one Host header is needed")
    if by_name and hosts and not is_loopback(hosts[0].strip()):
        return _refuse(HTTPStatus.FORBIDDEN, "the Host header names no address of the loopback; ask for 127.0.0.1")
    if target.partition("?")[0] != PATH:
        return _refuse(HTTPStatus.NOT_FOUND, f"there is {PATH} only")
    if method not in METHODS:
        return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"{PATH} is read by {' and '.join(METHODS)}")
    return None


def is_loopback(authority: str) -> bool:
    """Whether the value of a Host header, with or without a port, names the loopback."""
    try:
        split = urlsplit(f"//{authority}")
        host = split.hostname or ""
        _ = split.port  # refuses what is no number
        plain = split.netloc == authority and "@" not in authority
        return plain and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _refuse(status: HTTPStatus, why: str) -> _Answer:
    return _Answer(status, f"{status.phrase}: {why}\n".encode())


def _write(answer: _Answer, *, body: bool = True) -> bytes:
    """An answer as it is sent, with its body or without."""
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append(f"Allow: {', '.join(METHODS)}")
    if answer.status is HTTPStatus.UNAUTHORIZED:
        lines.append("WWW-Authenticate: Bearer")
    return "\r\n".join((*lines, "", "")).encode() + (answer.body if body else b"")
