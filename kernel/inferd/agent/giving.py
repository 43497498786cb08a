"""Gives files of models to other hosts that the kernel has told of: by TLS, to who has a ticket, so many at once."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from inferd.agent.cache import DIGEST, NAME_FORM
from inferd.errors import InvalidFieldError, words_of
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from inferd.agent.cache import Cache

SERVICE: Final = "inferd.agent.v1.Files"
PATH: Final = f"/{SERVICE}/Read"
SERVER_NAME: Final = "files.inferd"  # in its certificate, which is known by itself and by no name
CHUNK_BYTES: Final = 1 << 20
REQUEST_BYTES: Final = 2 << 20
MOST_PARTS: Final = 4096  # of one request: 16 GiB in usual pieces
MOST_CONNECTIONS: Final = 256
MOST_TICKETS: Final = 256
MOST_CALLS: Final = 64  # open at once, those too that are about to be refused
IDLE_S: Final = 30.0  # how long one who reads may take nothing
EVERYWHERE: Final = ("0.0.0.0", "::", "*")  # noqa: S104  # nosec B104 - they are refused
MOST_PORT: Final = 65_535
YEARS: Final = timedelta(days=3650)

log = structlog.get_logger()


class Giving:
    """One server. One writer: its agent.

    Args:
        cache: Where the files are.
        most: Hosts that it gives to at once (`hosts.gives`).

    Attributes:
        cache: See there.
        server: What the kernel is told of it.
    """

    def __init__(self, cache: Cache, most: int) -> None:
        self.cache = cache
        self._most = most
        self._open: set[bytes] = set()  # tickets, by digest, with which somebody reads now
        self._tickets: dict[bytes, tuple[str, float]] = {}  # by digest: the folder, and until when
        self.server = wire.FileServer()

    def allow(self, order: wire.GiveFiles) -> None:
        """Whoever has this ticket may read a model for a while, or no longer; of too many the oldest ends."""
        now, ticket = asyncio.get_running_loop().time(), sha256(order.ticket).digest()
        self._tickets.pop(ticket, None)
        if DIGEST.fullmatch(order.folder) and order.ticket and order.holds_s > 0:
            if len(self._tickets) >= MOST_TICKETS:
                self._tickets = {key: has for key, has in self._tickets.items() if has[1] >= now}
            while len(self._tickets) >= MOST_TICKETS:
                del self._tickets[next(iter(self._tickets))]
            self._tickets[ticket] = order.folder, now + order.holds_s

    @asynccontextmanager
    async def running(self, address: str) -> AsyncIterator[None]:
        """Listen there as long as the block.

        Raises:
            InvalidFieldError: That cannot be.
        """
        certificate, key = _certificate()
        server = grpc.aio.server(
            maximum_concurrent_rpcs=MOST_CALLS,
            options=(
                ("grpc.max_receive_message_length", REQUEST_BYTES),
                ("grpc.max_metadata_size", 4096),
                ("grpc.max_concurrent_streams", 4),
                ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
                ("grpc.max_connection_idle_ms", 10_000),
                ("grpc.server_handshake_timeout_ms", 5_000),
                ("grpc.per_message_decompression", 0),
                ("grpc.compression_enabled_algorithms_bitset", 1),
                ("grpc.so_reuseport", 0),
            ),
        )
        method = grpc.unary_stream_rpc_method_handler(
            self._read, wire.ReadParts.FromString, wire.PartBytes.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Read": method}),))
        try:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
        except RuntimeError as error:
            raise InvalidFieldError(f"--serve-files {address}: {words_of(error)}", field="serve_files") from None
        await server.start()
        self.server.CopyFrom(wire.FileServer(address=f"{address.rpartition(':')[0]}:{port}", certificate=certificate))
        try:
            yield
        finally:
            await server.stop(None)

    async def _read(self, request: wire.ReadParts, context: Any) -> None:
        ticket = sha256(request.ticket).digest()
        folder, until = self._tickets.get(ticket, ("", 0.0))
        if not folder or until < asyncio.get_running_loop().time():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this ticket is not known, or holds no longer")
        if ticket in self._open:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "somebody reads with this ticket already")
        if len(self._open) >= self._most:
            why = f"it gives to {len(self._open)} hosts (hosts.gives)"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
        place = self.cache.folder / folder
        self._open.add(ticket)
        self.cache.use(place)
        try:
            if not await asyncio.to_thread(self.cache.is_whole, place):
                await context.abort(grpc.StatusCode.NOT_FOUND, "the model is not here any more")
            for part in request.parts[:MOST_PARTS]:
                await self._give(place, part, context)
        except TimeoutError:
            log.info("a host took nothing of a model for too long", idle_s=IDLE_S)
            raise asyncio.CancelledError from None  # what it was sent is still under way: no status goes behind that
        except (OSError, ValueError, OverflowError) as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, words_of(error) or "there is no such part of the file")
        finally:
            self.cache.leave(place)
            self._open.discard(ticket)

    async def _give(self, place: Path, part: wire.FilePart, context: Any) -> None:
        """Send a part of a file.

        Raises:
            OSError: There is no such file, or who reads it takes nothing (TimeoutError).
            ValueError: There is no such part.
        """
        at, end = part.offset_bytes, part.offset_bytes + part.size_bytes
        if at == end:
            raise ValueError("a part without a byte")
        while at < end:
            data = await asyncio.to_thread(_read_at, place, part.name, at, min(CHUNK_BYTES, end - at))
            if not data:
                raise ValueError("there is no such part of the file")
            async with asyncio.timeout(IDLE_S):
                await context.write(wire.PartBytes(data=data))
            at += len(data)


def check_reached(address: str) -> None:
    """Refuse an address by which no other host reaches this one.

    Raises:
        InvalidFieldError: It is one.
    """
    host, colon, port = address.rpartition(":")
    named = bool(host and colon) and host.strip("[]") not in EVERYWHERE
    if not (named and port.isdecimal() and int(port) <= MOST_PORT):
        raise InvalidFieldError(
            f"--serve-files is {address!r}; write HOST:PORT, an address of this machine by which other hosts reach it",
            field="serve_files",
        )


def _read_at(place: Path, name: str, offset: int, size: int) -> bytes:
    if not NAME_FORM.fullmatch(name):
        raise ValueError("a name that no file of a model has")
    descriptor = os.open(place / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("what is no file")
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def _certificate() -> tuple[bytes, bytes]:
    """A certificate for this process alone, and its key, which is nowhere else: both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + YEARS)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
