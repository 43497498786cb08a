"""What agents of hosts have open: counted apart from clients, each by itself; and a tenant that is theirs alone."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, reason_of
from guarded import bearer, failing, guarded, refused

from inferd import __version__
from inferd.config import Limits, Settings
from inferd.core.principal import HOSTS
from inferd.errors import LimitExceededError
from inferd.runtime.front.bounds import Calls
from inferd.services.channel import channel_options
from inferd.testing.kernel import kernel_here
from inferd_api.agent.v1 import agent_service_pb2 as asp
from inferd_api.agent.v1.agent_pb2 import FileServer, HostFacts
from inferd_api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from inferd_api.v1 import auth_service_pb2 as aus
from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.host_service_pb2 import GetHostRequest, WatchHostRequest

DEADLINE_S = 60.0


async def attached(stub: Any, name: str, **facts: Any) -> Any:
    """The stream of a host that says nothing more; and the kernel's first word."""
    stream = stub.Attach()
    opening = asp.AttachOpening(facts=HostFacts(name=name, version=__version__, **facts), incarnation=1)
    await stream.write(asp.AttachRequest(opening=opening))
    async with asyncio.timeout(DEADLINE_S):
        return stream, await stream.read()


async def test_hosts_and_clients_leave_each_other_room(tmp_path: Path) -> None:
    """Streams of hosts take nothing of a tenant's calls or of all, nor they of theirs; each host has a bound."""
    bounds: dict[str, Any] = {"limits": {"calls": 1}, "scheduler": {"tenant_calls": 1}, "hosts": {"host_calls": 2}}
    async with kernel_here(tmp_path, **bounds) as kernel:
        clients, agents = Connection(kernel, tmp_path), Connection(kernel, tmp_path)
        stub: Any = AgentServiceStub(agents.channel)  # type: ignore[no-untyped-call]
        streams = [await attached(stub, name) for name in "bc"]
        assert all(first.welcome.epoch for _, first in streams)
        await clients.hosts.GetHost(GetHostRequest())
        watch = clients.hosts.WatchHost(WatchHostRequest())
        await watch.read()
        reason, _ = await refused(clients.hosts.GetHost(GetHostRequest()))
        assert reason == "LIMIT_EXCEEDED"
        async with asyncio.timeout(DEADLINE_S):
            assert await streams[0][0].read() is not grpc.aio.EOF  # that the kernel lives
        try:
            await attached(stub, "d")
        except grpc.aio.AioRpcError as error:
            reason, facts = reason_of(error)
        assert (reason, facts["bound"], facts["limit"]) == ("LIMIT_EXCEEDED", "hosts.host_calls", "2")
        for stream in (watch, *(stream for stream, _ in streams)):
            stream.cancel()
        for each in (clients, agents):
            await each.channel.close()


def test_ten_thousand_hosts_have_their_calls_and_connections() -> None:
    """With the bounds that docs/scale.md names each of them attaches, with workers, and the next call is refused."""
    most = 10_000
    settings = Settings(hosts={"most": most, "calls": 10 * most}).hosts  # type: ignore[arg-type] # as it is written
    calls = Calls(
        calls_limit=settings.calls,
        tenant_calls_limit=settings.host_calls,
        bounds=("hosts.calls", "hosts.host_calls"),
    )
    for number in range(10 * most):
        calls.take(f"host:{number % most}")
    refusals = 0
    for name in ("host:1", "host:new"):
        try:
            calls.take(name)
        except LimitExceededError as error:
            refusals += error.metadata["bound"] == "hosts.calls"
    assert refusals == 2
    options = dict(channel_options(Limits(), settings.connections_limit))
    assert options["grpc.max_allowed_incoming_connections"] == Limits().connections + 3 * most


async def test_nobody_else_is_of_the_tenant_of_hosts(tmp_path: Path) -> None:
    """No key is made with it, and no call made for it, not by an administrator of all tenants either."""
    async with guarded(tmp_path) as kernel:
        wanted = aus.CreateKeyRequest(key=Key(principal="anna", roles=["admin"], tenants=["a", HOSTS]))
        error = await failing(kernel.made.CreateKey(wanted))
        assert (reason_of(error)[0], HOSTS in str(error.details())) == ("INVALID_FIELD", True)
        every = (await kernel.key("carl", roles=["admin"], tenants=["*"])).credential
        stub = Connection(kernel.kernel, tmp_path)
        call = stub.hosts.GetHost(GetHostRequest(), metadata=(*bearer(every), ("inferd-tenant", HOSTS)))
        reason, facts = await refused(call)
        assert (reason, facts["tenant"]) == ("PERMISSION_DENIED", HOSTS)
        await stub.channel.close()


async def test_where_a_host_gives_files_is_a_host_and_a_port(tmp_path: Path) -> None:
    """Other hosts are sent there: a socket, a scheme, a path, or what is too much, refuses the host by the field."""
    wrong = [{"address": each} for each in ("unix:/run/s", "dns://x/h:1", "h:1/x", "h", "h" * 300 + ":1")]
    async with kernel_here(tmp_path) as kernel:
        connection = Connection(kernel, tmp_path)
        stub: Any = AgentServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        for files in (*wrong, {"address": "h:1", "certificate": b"c" * 8193}):
            with pytest.raises(grpc.aio.AioRpcError, match=r"facts\.files\.") as caught:
                await attached(stub, "b", files=FileServer(**files))
            assert reason_of(caught.value)[0] == "INVALID_FIELD"
        await connection.channel.close()
