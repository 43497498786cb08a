"""The Python client and TLS: connections, and what is told where one does not come to be."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tls_kernel import Certs, TlsKernel, tls_kernel

from inferd_client import AsyncClient, Client, KernelUnreachableError, TlsFailedError
from inferd_client.errors import UnauthenticatedError

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TlsKernel]:
    """A kernel with TLS, without it too, and the certificates of one who may use it."""
    folder = tmp_path_factory.mktemp("tls")
    listen = (f"unix:{folder}/s", "tls:127.0.0.1:0", "mtls:127.0.0.1:0", "127.0.0.1:0")
    async with tls_kernel(folder, listen=listen) as made:
        made.certs.client("anna")
        other = Certs(folder / "other", "other")
        other.client("anna")
        yield made


def files(kernel: TlsKernel, folder: str = "certs", ca: str = "certs/authority") -> dict[str, Any]:
    """What Anna gives a client."""
    certs = kernel.folder / folder
    return {
        "ca_file": kernel.folder / ca / "ca.pem",
        "cert_file": certs / "anna.pem",
        "key_file": certs / "anna.key",
    }


async def test_both_clients_connect_with_certificates(kernel: TlsKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clients are known by their certificates, which options name, or else variables."""
    async with AsyncClient(kernel.address(), **files(kernel)) as client:
        assert (await client.whoami()).principal.name == "cert:inferd:anna"
    for name, path in files(kernel).items():
        monkeypatch.setenv(f"INFERD_{name.upper()}", str(path))
    with Client(kernel.address().replace("127.0.0.1", "localhost")) as same:
        assert (await asyncio.to_thread(same.whoami)).principal.name == "cert:inferd:anna"


def unknown_authority(kernel: TlsKernel) -> tuple[str, dict[str, Any]]:
    return kernel.address(), files(kernel, ca="other/other")


def no_tls(kernel: TlsKernel) -> tuple[str, dict[str, Any]]:
    return f"tls:{kernel.address('127.')}", {"ca_file": kernel.certs.ca_file}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [(unknown_authority, "--ca-file"), (no_tls, "has no TLS; a kernel without it is at 127.0.0.1:")],
)
async def test_what_is_wrong_for_good_is_told_with_the_fix(
    kernel: TlsKernel, wrong: Callable[[TlsKernel], tuple[str, dict[str, Any]]], why: str
) -> None:
    """A kernel that is not trusted, or has no TLS, is an error of its own that names the fix, and is not waited for."""
    address, given = wrong(kernel)
    async with AsyncClient(address, **given) as client, asyncio.timeout(30):
        with pytest.raises(TlsFailedError, match=why):
            await client.get_host()


@pytest.mark.parametrize(
    ("hosts", "days", "why"),
    [
        (["kernel.example.org"], 1.0, "for other names than 127.0.0.1.*inferd certs issue"),
        (["127.0.0.1"], -0.001, "has expired"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_told(
    kernel: TlsKernel, hosts: list[str], days: float, why: str
) -> None:
    """A certificate of a kernel that is for other names, or has expired, is refused by the client, which says so."""
    kernel.certs.server("spare", hosts=hosts, days=days)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([kernel.certs.pair("spare")]))
    await server.start()
    try:
        async with AsyncClient(f"tls:127.0.0.1:{port}", ca_file=kernel.certs.ca_file) as client:
            with pytest.raises(TlsFailedError, match=why):
                await client.get_host()
    finally:
        await server.stop(0)


async def test_a_certificate_that_is_missing_is_hinted_at(kernel: TlsKernel) -> None:
    """Where the kernel ends a connection that has no certificate it takes, the error says which ones it takes."""
    async with AsyncClient(kernel.address().removeprefix("m"), ca_file=kernel.certs.ca_file) as client:
        with pytest.raises(KernelUnreachableError, match="cert_file and key_file"):
            await client.get_host()


async def test_the_loopback_goes_on_in_plaintext(kernel: TlsKernel) -> None:
    """A plaintext address of the loopback beside those with TLS is used as before, with a key."""
    async with AsyncClient(kernel.address("unix:")) as owner, AsyncClient(kernel.address("127.")) as nobody:
        key = await owner.create_key("bob", roles=["user"])
        with pytest.raises(UnauthenticatedError):
            await nobody.whoami()
    async with AsyncClient(kernel.address("127."), credential=key.credential) as client:
        assert (await client.whoami()).principal.name == "bob"


async def test_plaintext_at_an_address_with_tls_is_hinted_at(kernel: TlsKernel) -> None:
    """A client without TLS at an address with it is told the right address."""
    bare = kernel.address("tls:").removeprefix("tls:")
    async with AsyncClient(bare) as client:
        with pytest.raises(KernelUnreachableError, match=f"its address is tls:{bare}"):
            await client.get_host()
