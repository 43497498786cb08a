"""TLS: who gets in by a certificate, what of it, and for how long."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from guarded import bearer, failing, refused
from structlog.testing import capture_logs
from time_limits import LONG_S
from tls_kernel import Certs, TlsKernel, tls_kernel, within

from inferd_api.v1 import auth_pb2 as ap
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub

STREAMS = 64


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TlsKernel]:
    """A kernel with TLS, and a model that goes on for long, for tests that leave it as it is."""
    async with tls_kernel(tmp_path_factory.mktemp("tls")) as made:
        await made.owner.create(step_s=0.02)
        yield made


async def who(connection: Any, metadata: Any = None) -> asp.WhoAmIResponse:
    said: asp.WhoAmIResponse = await AuthServiceStub(connection.channel).WhoAmI(asp.WhoAmIRequest(), metadata=metadata)  # type: ignore[no-untyped-call]
    return said


async def test_a_certificate_is_an_identity(kernel: TlsKernel) -> None:
    """A certificate stands for a principal with what the first identity has that fits one of its names."""
    kernel.certs.client("web-1")
    kernel.certs.client("anna", uris=["spiffe://corp/anna", "inferd:anna"])
    web, anna = kernel.connect("web-1"), kernel.connect("anna")
    said = await who(web)
    assert (said.principal.name, list(said.principal.roles), said.tenant) == ("cert:inferd:web-1", ["user"], "web")
    said = await who(anna)
    assert (said.principal.name, list(said.principal.tenants)) == ("cert:inferd:anna", ["lab", "web"])
    assert (await who(anna, (("inferd-tenant", "web"),))).tenant == "web"
    reason, facts = await refused(who(web, (("inferd-tenant", "lab"),)))
    assert (reason, facts["principal"]) == ("PERMISSION_DENIED", "cert:inferd:web-1")


async def test_a_certificate_of_nobody_needs_a_key(kernel: TlsKernel) -> None:
    """A certificate that fits no identity lets nobody in by itself, and the error has its names; a key does."""
    kernel.certs.client("eve", uris=["spiffe://corp/eve"])
    eve = kernel.connect("eve")
    error = await failing(who(eve))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "spiffe://corp/eve" in str(error.details())
    owner: Any = AuthServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
    key = await owner.CreateKey(asp.CreateKeyRequest(key=ap.Key(principal="bob", roles=["user"])))
    for connection in (eve, kernel.connect(scheme="tls:")):
        assert (await who(connection, bearer(key.credential))).principal.name == "bob"


async def test_without_a_certificate_nobody_is_let_in(kernel: TlsKernel) -> None:
    """What has no certificate, or one of another authority, a server's, or one that has expired, gets no connection."""
    other = Certs(kernel.folder / "other", "other")
    other.client("anna")
    kernel.certs.client("old", days=-0.001)
    for connection in (
        kernel.connect(),
        kernel.connect("anna", certs=other),
        kernel.connect("kernel"),
        kernel.connect("old"),
    ):
        error = await failing(connection.hosts.GetHost(hs.GetHostRequest(), timeout=LONG_S))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await connection.channel.close()


async def test_a_call_with_tls_still_needs_a_login(kernel: TlsKernel) -> None:
    """Where no certificates of clients count a call is nobody's until it says whose; the error says where they do."""
    error = await failing(who(kernel.connect(scheme="tls:")))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "a client's certificate counts at an mtls: address only" in str(error.details())


async def test_revoked_certificates_end_their_streams(kernel: TlsKernel) -> None:
    """What goes on by a certificate ends within a second of its revocation, with a key, too; that of others goes on."""
    for name in ("olga", "bob"):
        kernel.certs.client(name)
    owner: Any = AuthServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
    key = await owner.CreateKey(asp.CreateKeyRequest(key=ap.Key(principal="carl", roles=["user"])))
    olga, bob = kernel.connect("olga"), kernel.connect("bob")
    streams = [olga.endless(), olga.endless(metadata=bearer(key.credential))]
    others = bob.endless()
    for stream in (*streams, others):
        await stream.read()
    await asyncio.to_thread(kernel.certs.authority.revoke, "olga")
    begun = time.monotonic()
    for stream in streams:
        error = await asyncio.wait_for(failing(stream), LONG_S)
        assert (error.code(), "revoked" in str(error.details())) == (grpc.StatusCode.UNAUTHENTICATED, True)
    assert within(1.0, begun)
    assert await others.read() is not grpc.aio.EOF
    others.cancel()
    assert (await refused(who(olga)))[0] == "UNAUTHENTICATED"
    assert (await who(bob)).principal.name == "cert:inferd:bob"


async def test_certificates_rotate_under_streams(kernel: TlsKernel) -> None:
    """64 streams go on while the certificate of the kernel is replaced, and who comes then is shown the new one."""
    kernel.certs.client("many")
    streams = [kernel.connect("many").hosts.WatchHost(hs.WatchHostRequest()) for _ in range(STREAMS)]
    await asyncio.gather(*(stream.read() for stream in streams))
    before = await shown(kernel)
    with capture_logs() as logged:
        await asyncio.to_thread(kernel.certs.server)
        deadline = time.monotonic() + LONG_S
        while await shown(kernel) == before:
            assert time.monotonic() < deadline
    assert [event["event"] for event in logged] == ["read the certificates anew"]
    told = await asyncio.gather(*(stream.read() for stream in streams))
    assert all(response is not grpc.aio.EOF for response in told)
    assert (await who(kernel.connect("many"))).principal.name == "cert:inferd:many"
    for stream in streams:
        stream.cancel()


async def shown(kernel: TlsKernel) -> str:
    """The certificate that a connection is shown now."""
    host, _, port = kernel.address("tls:").removeprefix("tls:").rpartition(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=LONG_S)


async def test_broken_files_change_nothing_and_are_told(kernel: TlsKernel) -> None:
    """Files that cannot be used leave the old ones in use; the log says why, the host that it is so, until they can."""
    key_file = kernel.certs.folder / "kernel.key"
    before, good = await shown(kernel), key_file.read_bytes()
    with capture_logs() as logged:
        Certs(kernel.folder / "third", "third").server()
        key_file.write_bytes((kernel.folder / "third/kernel.key").read_bytes())
        host = await until_warned(kernel)
        assert "tls.key_file" in host.warnings[0]
        assert str(kernel.folder) not in host.warnings[0]
        assert await shown(kernel) == before
        key_file.write_bytes(good)
        assert not (await until_warned(kernel, warned=False)).warnings
    (why,) = [event["why"] for event in logged if event["log_level"] == "warning"]
    assert (str(key_file) in why, "does not belong" in why) == (True, True)


async def until_warned(kernel: TlsKernel, *, warned: bool = True) -> Any:
    """The host, once it has warnings, or none."""
    call = kernel.owner.hosts.WatchHost(hs.WatchHostRequest())
    async with asyncio.timeout(LONG_S):
        async for response in call:
            if bool(response.host.warnings) is warned:
                call.cancel()
                return response.host
    raise AssertionError("the host is told without end")


async def test_an_authority_that_is_gone_ends_its_clients(tmp_path: Path) -> None:
    """Calls end by certificates of an authority that is trusted no longer; the end of the kernel's own is told."""
    with capture_logs() as logged:
        async with tls_kernel(tmp_path, tls={"expiry_told_s": 40 * 86_400.0}) as kernel:
            kernel.certs.client("anna")
            stream = kernel.connect("anna").hosts.WatchHost(hs.WatchHostRequest())
            (warning,) = (await kernel.owner.hosts.GetHost(hs.GetHostRequest())).host.warnings
            other = Certs(kernel.folder / "other", "other")
            kernel.certs.crl_file.write_bytes(other.crl_file.read_bytes())
            kernel.certs.ca_file.write_bytes(other.ca_file.read_bytes())
            error = await asyncio.wait_for(failing(stream), LONG_S)
            assert (error.code(), "revoked" in str(error.details())) == (grpc.StatusCode.UNAUTHENTICATED, True)
    assert warning.startswith("the certificate of tls.cert_file ends in 30 days, ")
    assert warning in [event["event"] for event in logged]
