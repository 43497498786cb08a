"""The gateway as a server: connections with bounds of their own, from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from inferd.http.gateway import Gateway
from inferd.notifying import Notices

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from inferd.http_settings import Http

BACKLOG = 1024


class ListenError(ValueError):
    """The gateway cannot listen there; says why and what to do."""


class Guarded(H11Protocol):
    """A connection with bounds: closed where its head does not come, or nobody takes what is sent.

    uvicorn's own has a time for what is between two requests only.
    """

    bounds: ClassVar[Http]
    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        if len(self.connections) >= self.bounds.connections:
            transport.abort()
            return
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=self.bounds.waiting_bytes)
        self._head = self.loop.call_later(self.bounds.head_s, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        for timer in (self._head, self._stalled):
            if timer is not None:
                timer.cancel()
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a head that has begun has its time."""
        if self.transport is None:
            return
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        waits = cycle is None or cycle.response_complete  # for the rest of a head
        if waits and self._head is None and self.timeout_keep_alive_task is None:
            self._head = self.loop.call_later(self.bounds.head_s, self.transport.abort)
        elif not waits and self._head is not None:
            self._head.cancel()
            self._head = None

    def pause_writing(self) -> None:
        """As much waits as may."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.bounds.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Some of it was taken."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class _Server(Server):
    """Tells when it serves."""

    def __init__(self, config: Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to whoever runs it: uvicorn's own way ends the process by the signal, as if it had failed."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def listen(settings: Http) -> socket.socket:
    """Listen where the settings say.

    Raises:
        ListenError: Others than this host would reach it without TLS, or without a key, or it is no such address.
        OSError: It cannot be had.
    """
    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the largest port there is
        raise ListenError(f"http.listen is {settings.listen!r}; it must be host:port, as 127.0.0.1:7413")
    family, _, _, _, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    if not ipaddress.ip_address(str(place[0])).is_loopback:
        _check_open(settings, host)
    if (settings.cert_file is None) != (settings.private_key_file is None):
        raise ListenError("http.cert_file and http.private_key_file go together; set both, or none")
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _check_open(settings: Http, host: str) -> None:
    if settings.keyless:
        raise ListenError(f"http.keyless would let whoever reaches {host} use the kernel; listen on 127.0.0.1")
    if settings.cert_file is None:
        raise ListenError(
            f"keys would go over the network to {host} as they are: set http.cert_file and http.private_key_file, or "
            "listen on 127.0.0.1, also behind a proxy that has TLS"
        )


def url_of(listening: socket.socket, settings: Http) -> str:
    """The URL by which it is called."""
    host, port = listening.getsockname()[:2]
    scheme = "http" if settings.cert_file is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def server_of(gateway: Gateway, settings: Http, ready: Callable[[], None]) -> Server:
    """The server of a gateway."""
    files: dict[str, Any] = {}
    if settings.cert_file is not None and settings.private_key_file is not None:
        files = {"ssl_certfile": str(settings.cert_file), "ssl_keyfile": str(settings.private_key_file)}
    config = Config(
        gateway.app,
        http=type("Connection", (Guarded,), {"bounds": settings}),
        ws="none",
        lifespan="off",
        loop="asyncio",
        access_log=False,
        log_config=None,
        log_level="critical",  # what fails is told by the door
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(settings.idle_s)),
        timeout_graceful_shutdown=round(settings.drain_s),
        h11_max_incomplete_event_size=settings.head_bytes,
        **files,
    )
    return _Server(config, ready)


async def serve(
    settings: Http,
    *,
    address: str = "",
    keyless: str = "",
    listening: socket.socket,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: Of the gateway.
        address: Of the kernel; "" for the one that is found.
        keyless: What calls without a key are made with; "" where they are refused.
        listening: Where it listens.
        ready: Called once it serves.
    """
    gateway, notices = Gateway(settings, address=address, keyless=keyless), Notices()

    def serves() -> None:
        ready()
        notices.ready(f"serves HTTP at {url_of(listening, settings)}")

    def end(number: signal.Signals) -> None:
        notices.stopping(settings.drain_s)
        server.handle_exit(number, None)

    server, loop = server_of(gateway, settings, serves), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        async with notices.beating():
            await server.serve(sockets=[listening])
    finally:
        await gateway.close()
