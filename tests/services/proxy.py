"""A way to a kernel whose connections can be broken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes bytes on to a kernel, until its connections are broken.

    Attributes:
        address: Where it listens.
        behind: Of the kernel, for connections from now on.
        connections: How many there were.
    """

    def __init__(self, behind: str) -> None:
        self.address = ""
        self.connections = 0
        self.behind = behind
        self._passes = asyncio.Event()
        self._passes.set()
        self._live: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        there, back = await connection_to(self.behind)
        self._live |= {writer, back}
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    def stop(self) -> None:
        """Swallow nothing and pass on nothing, as a cable that is out: connections stay, also new ones."""
        self._passes.clear()

    def go_on(self) -> None:
        """Pass on again."""
        self._passes.set()

    def abort(self) -> None:
        """Break every connection, without a word to either end."""
        for writer in self._live:
            writer.transport.abort()
        self._live.clear()


async def connection_to(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a kernel."""
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


@asynccontextmanager
async def proxy_to(address: str) -> AsyncIterator[Proxy]:
    """A proxy before a kernel."""
    proxy = Proxy(address)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    proxy.address = f"{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.abort()
