"""The little of HTTP/2 (RFC 9113) that a test needs to be a client which does what no library of gRPC does."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proxy import connection_to

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4


class Http2:
    """A connection, which says nothing but what it is told to.

    Attributes:
        pongs: Acknowledged pings.
        goaway: What the server said when it gave the connection up; empty while it has not.
        heard: Frames that came with a message or the headers of a stream.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._news = asyncio.Condition()
        self.pongs = 0
        self.goaway = b""
        self.heard = 0

    def write(self, kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> None:
        self._writer.write(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def call(self, stream: int, method: str, request: bytes) -> None:
        """Begin a call of gRPC."""
        fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "te": "trailers"}
        fields["content-type"] = "application/grpc"
        self.write(HEADERS, b"".join(_literal(*field) for field in fields.items()), flags=END_HEADERS, stream=stream)
        self.write(DATA, struct.pack(">BI", 0, len(request)) + request, flags=END_STREAM, stream=stream)

    async def ping(self) -> None:
        """Ping, and wait for the answer or for the end of the connection."""
        self.write(PING, bytes(8))
        pongs = self.pongs
        await self.until(lambda: self.pongs > pongs or bool(self.goaway))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(holds)

    async def read(self) -> None:
        """Take note of what comes."""
        while True:
            head = await self._reader.readexactly(9)
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            payload = await self._reader.readexactly(size)
            async with self._news:
                if kind == SETTINGS and not flags & ACK:
                    self.write(SETTINGS, flags=ACK)
                elif kind == PING and not flags & ACK:
                    self.write(PING, payload, flags=ACK)
                self.pongs += kind == PING and flags & ACK
                self.heard += kind in (DATA, HEADERS)
                self.goaway = payload[8:] or b"?" if kind == GOAWAY else self.goaway
                self._news.notify_all()


def _literal(name: str, value: str) -> bytes:
    """A header field that is not indexed, its texts not compressed; RFC 7541, 6.2.2."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Http2]:
    """A connection to a server."""
    reader, writer = await connection_to(address)
    client = Http2(reader, writer)
    writer.write(PREFACE)
    client.write(SETTINGS)
    reading = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        reading.cancel()
        writer.close()
