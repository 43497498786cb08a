"""Where Prometheus reads over TLS: pages are whole, handshakes are bounded, and certificates are exchanged whole."""

import asyncio
import socket
import ssl
from pathlib import Path

import psutil
import pytest
from tls_kernel import Certs

from inferd import exposing
from inferd.config import Settings
from inferd.errors import InvalidFieldError
from inferd.runtime.exposition import ExpositionLimits, Guard, exposed
from inferd.runtime.telemetry.figures import Registry
from inferd.tls_settings import Tls

DEADLINE_S = 60.0
LIMITS = ExpositionLimits(connections=2, timeout_s=600.0)
PAGE = b"x" * (4 << 20)  # more than the socket and TLS take at once
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


def made(folder: Path) -> Certs:
    """An authority, and a certificate of a kernel."""
    certs = Certs(folder)
    certs.server()
    return certs


def files(certs: Certs) -> tuple[Path, Path]:
    """Certificate and key of the kernel."""
    return certs.folder / "kernel.pem", certs.folder / "kernel.key"


def guard(certs: Certs) -> Guard:
    """One that lets everybody in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files(certs))
    return Guard(context=lambda: context, admit=lambda _: None)


async def ask(port: int, certs: Certs) -> bytes:
    """The body of a page, read slowly."""
    context = ssl.create_default_context(cafile=str(certs.ca_file))
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname="127.0.0.1")
    writer.write(SCRAPE)
    answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def test_a_long_page_is_whole_over_tls(tmp_path: Path) -> None:
    """Whatever the socket takes at once, all that Content-Length says comes."""
    certs = made(tmp_path)
    async with exposed(lambda: PAGE, "127.0.0.1", 0, LIMITS, guard(certs)) as port:
        assert len(await ask(port, certs)) == len(PAGE)


async def test_handshakes_that_never_begin_are_bounded(tmp_path: Path) -> None:
    """Connections that say nothing at a tls: address take what the bound says, and a scrape is answered."""
    certs = made(tmp_path)
    async with exposed(lambda: b"page", "127.0.0.1", 0, LIMITS, guard(certs)) as port:
        before = psutil.Process().num_fds()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        assert await ask(port, certs) == b"page"
        assert psutil.Process().num_fds() - before - len(silent) <= LIMITS.connections + 1
    for _, writer in silent:
        writer.close()


async def test_a_certificate_whose_key_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    """Files that are replaced one by one leave the certificate before in use, with its key."""
    certs, others = made(tmp_path / "a"), made(tmp_path / "b")
    newest = exposing._Newest(files(certs))
    assert await newest.read()
    files(certs)[0].write_bytes(files(others)[0].read_bytes())
    with pytest.raises(ssl.SSLError):
        await newest.read()
    one = Guard(context=lambda: newest.context, admit=lambda _: None)
    async with exposed(lambda: b"page", "127.0.0.1", 0, LIMITS, one) as port:
        assert await ask(port, certs) == b"page"


async def test_a_follower_leads_without_a_page_that_it_cannot_have(tmp_path: Path) -> None:
    """Where the address is taken, or the certificate broken, who begins is refused, and who follows another leads."""
    tls = {"cert_file": tmp_path / "none.pem", "key_file": tmp_path / "none.key"}
    settings = Settings(metrics_listen="tls:127.0.0.1:0", tls=Tls(**tls))
    with pytest.raises(InvalidFieldError, match="cannot be used for the metrics"):
        async with exposing.exposing(settings, Registry()):
            pass
    async with exposing.exposing(settings, Registry(), followed=True) as address:
        assert address == ""


async def test_a_standby_has_its_address_and_its_certificate(tmp_path: Path) -> None:
    """At a tls: address it says over TLS that it stands by: what does not fit is seen before it is to lead."""
    certs = made(tmp_path)
    cert_file, key_file = files(certs)
    settings = Settings(metrics_listen="tls:127.0.0.1:0", tls=Tls(cert_file=cert_file, key_file=key_file))
    async with exposing.exposing(settings, Registry()) as address:
        assert b"this kernel stands by" in await ask(int(address.rpartition(":")[2]), certs)
