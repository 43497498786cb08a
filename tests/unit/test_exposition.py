"""Where Prometheus reads: which requests are answered, and what connections may take."""

import asyncio
import threading
from contextlib import suppress

import pytest

from inferd.runtime.exposition import ExpositionLimits, exposed

DEADLINE_S = 60.0
LIMITS = ExpositionLimits(connections=3, timeout_s=600.0)
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Held:
    """A page that is made slowly: when it is let go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.read, self.let = asyncio.Event(), threading.Event()
        self._loop = loop

    def page(self) -> bytes:
        self._loop.call_soon_threadsafe(self.read.set)
        assert self.let.wait(DEADLINE_S)
        return b""


def page() -> bytes:
    """One counter."""
    return b"seen_total 1.0\n"


async def ask(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """Status, headers and body of the answer to a request on a connection of its own, once it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, body


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /metrics HTTP/1.1", "Host: localhost", 200),
        ("GET /metrics HTTP/1.1", "host:LOCALHOST:9411 \r\nAccept: text/plain", 200),
        ("GET /metrics?x=1 HTTP/1.1", "Host: 127.8.9.1:1", 200),
        ("GET /metrics HTTP/1.1", "Host: [::1]:9411", 200),
        ("GET /metrics HTTP/1.0", "Accept: */*", 200),
        ("HEAD /metrics HTTP/1.1", "Host: localhost", 200),
        ("POST /metrics HTTP/1.1", "Host: localhost\r\nContent-Length: 0", 405),
        ("OPTIONS /metrics HTTP/1.1", "Host: localhost", 405),
        ("GET / HTTP/1.1", "Host: localhost", 404),
        ("GET /metrics/x HTTP/1.1", "Host: localhost", 404),
        ("POST /x HTTP/1.1", "Host: localhost", 404),
        ("GET /metrics HTTP/1.1", "Host: evil.example", 403),
        ("GET /metrics HTTP/1.0", "Host: localhost.evil.example:9411", 403),
        ("GET /metrics HTTP/1.1", "Host: localhost@evil.example", 403),
        ("GET /metrics HTTP/1.1", "Host: evil.example\\@127.0.0.1", 403),
        ("GET /metrics HTTP/1.1", "Host: 127.0.0.1:x", 403),
        ("GET /metrics HTTP/1.1", "Host: 10.0.0.1", 403),
        ("GET /metrics HTTP/1.1", "Host: [::1", 403),
        ("GET /metrics HTTP/1.1", "Host:", 403),
        ("GET /metrics HTTP/1.1", "Accept: */*", 400),
        ("GET /metrics HTTP/1.1", "Host: localhost\r\nHost: evil.example", 400),
        ("GET /metrics HTTP/1.0", "no header\r\nHost: evil.example", 400),
        ("GET /metrics HTTP/1.1", "\r\n".join(["Host: localhost", *("A: b",) * 200]), 400),
        ("GET /metrics HTTP/2.0", "Host: localhost", 400),
        ("GET /metrics", "Host: localhost", 400),
        ("\x16\x03\x01\x02", "Host: localhost", 400),
        (f"GET /{'a' * 200_000} HTTP/1.1", "Host: localhost", 431),
    ],
)
async def test_only_reading_the_metrics_on_the_loopback_is_answered(
    request_line: str, headers: str, status: int
) -> None:
    """GET and HEAD of the page, asked of a name of the loopback, are answered; all else is told why not."""
    async with exposed(page, "localhost", 0, LIMITS) as port:
        told, head, body = await ask(port, f"{request_line}\r\n{headers}\r\n\r\n".encode("latin-1"))
        assert told == status, (head, body)
        assert (b"seen_total 1.0" in body) is (status == 200 and not request_line.startswith("HEAD"))
        assert (b"Allow: GET, HEAD" in head) is (status == 405)
        assert (f"Content-Length: {len(body)}".encode() in head) is not request_line.startswith("HEAD")


async def test_idle_connections_give_way(caplog: pytest.LogCaptureFixture) -> None:
    """However many connections ask nothing, the newest of them stay, up to the bound, and a scrape is answered."""
    async with exposed(page, "127.0.0.1", 0, LIMITS) as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        assert (await ask(port, SCRAPE))[0] == 200
        gone = idle[: len(idle) - LIMITS.connections + 1]
        await asyncio.wait_for(asyncio.gather(*(ended(reader) for reader, _ in gone)), DEADLINE_S)
        assert not any(reader.at_eof() for reader, _ in idle[len(gone) :])
    await asyncio.wait_for(asyncio.gather(*(ended(reader) for reader, _ in idle)), DEADLINE_S)  # the rest with the page
    for _, writer in idle:
        writer.close()
    assert not caplog.records


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait for the end of a connection that says nothing."""
    with suppress(ConnectionResetError):
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"", SCRAPE[:9]])
async def test_a_connection_that_asks_nothing_is_closed(sent: bytes) -> None:
    """What does not become a request within its time is closed without an answer."""
    limits = ExpositionLimits(connections=3, timeout_s=0.05)
    async with exposed(page, "127.0.0.1", 0, limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await asyncio.wait_for(ended(reader), DEADLINE_S)
        writer.close()


async def test_a_scrape_holds_nobody_up_and_too_many_are_refused() -> None:
    """While a page is made the loop goes on; one more than may read is told the bound, and the first is answered."""
    held = Held(asyncio.get_running_loop())
    async with exposed(held.page, "127.0.0.1", 0, ExpositionLimits(connections=1, timeout_s=600.0)) as port:
        scrape = asyncio.create_task(ask(port, SCRAPE))
        try:
            await asyncio.wait_for(held.read.wait(), DEADLINE_S)
            status, _, why = await ask(port, b"")
            assert (status, b"limits.metrics_connections" in why) == (503, True)
        finally:
            held.let.set()
        assert (await scrape)[0] == 200
