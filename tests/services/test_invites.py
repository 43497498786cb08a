"""How a host joins: by an invitation, once or some times, for a while; and what its agent may do then."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from far_host import far_host, made_agent, until_state
from google.protobuf.duration_pb2 import Duration
from guarded import Guarded, bearer, failing, guarded, refused
from proxy import proxy_to

from inferd.agent.connection import KernelConnection
from inferd.agent.credential import OwnCredential, find_credential
from inferd.core.host import HostState
from inferd.core.ids import HostId
from inferd_api.agent.v1 import agent_service_pb2 as asp
from inferd_api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from inferd_api.v1 import auth_service_pb2 as aus
from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import invite_service_pb2 as isp
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub
from inferd_api.v1.invite_service_pb2_grpc import InviteServiceStub
from inferd_client import CredentialError
from inferd_client.credentials import write_credential
from inferd_client.errors import InvalidFieldError, PermissionDeniedError, UnauthenticatedError

DEADLINE_S = 60.0
QUICK = {"detection_s": 0.6, "beat_s": 0.1}


async def invite(kernel: Guarded, **wanted: Any) -> isp.CreateInviteResponse:
    """An invitation."""
    stub: Any = InviteServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
    made: isp.CreateInviteResponse = await stub.CreateInvite(isp.CreateInviteRequest(**wanted))
    return made


async def join(kernel: Guarded, token: str, name: str) -> str:
    """Join over TCP; the credential of the agent."""
    async with KernelConnection(kernel.kernel.addresses[1], credential=token) as connection:
        return (await connection.join(name)).credential


async def test_a_host_joins_by_an_invitation_and_comes_back_without(tmp_path: Path) -> None:
    """An invitation is good once; the credential that it gives attaches the agent, until it is revoked."""
    async with guarded(tmp_path, hosts=QUICK) as kernel:
        invited = await invite(kernel)
        assert invited.uses == 1
        credential = await join(kernel, invited.credential, "b")
        with pytest.raises(UnauthenticatedError, match=r"invitation was used up, at .*inferd hosts invite$"):
            await join(kernel, invited.credential, "c")
        async with far_host(tmp_path, kernel.kernel.addresses[1], credential=credential) as host:
            await until_state(kernel.kernel, "b", HostState.READY)
            keys = (await kernel.made.ListKeys(aus.ListKeysRequest())).keys
            assert {key.principal: list(key.roles) for key in keys} == {"invite": ["joiner"], "host:b": ["agent"]}
            (own,) = (key.key_id for key in keys if key.principal == "host:b")
            await kernel.made.RevokeKey(aus.RevokeKeyRequest(key_id=own))
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait([host.running])
            assert isinstance(host.running.exception(), UnauthenticatedError)
            await until_state(kernel.kernel, "b", HostState.LOST)


async def test_an_invitation_is_for_so_many_and_so_long_or_for_a_name(tmp_path: Path) -> None:
    """It holds for as many hosts as it says, is refused outside its bounds, and one for a name for no other."""
    async with guarded(tmp_path) as kernel:
        two = (await invite(kernel, uses=2)).credential
        assert len({await join(kernel, two, name) for name in "bc"}) == 2
        with pytest.raises(UnauthenticatedError):
            await join(kernel, two, "d")
        named = (await invite(kernel, host="gpu7")).credential
        with pytest.raises(PermissionDeniedError, match="gpu7"):
            await join(kernel, named, "gpu8")
        with pytest.raises(InvalidFieldError, match=r"name is .*must be 1 to 63"):
            await join(kernel, named, "../b")
        before = await join(kernel, named, "gpu7")
        again = await join(kernel, (await invite(kernel, host="gpu7")).credential, "gpu7")
        with pytest.raises(UnauthenticatedError):  # another one has taken its place
            await join(kernel, before, "gpu7")
        assert again != before
        for wrong in ({"uses": 0}, {"uses": 1001}, {"host": "a/b"}, {"ttl": Duration(seconds=604_801)}):
            stub: Any = InviteServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
            reason, _ = await refused(stub.CreateInvite(isp.CreateInviteRequest(**wrong)))
            assert reason == "INVALID_FIELD"


async def test_an_agent_may_call_its_own_service_alone(tmp_path: Path) -> None:
    """Whatever rules allow to all, a credential of an agent or an invitation is refused by every call but its own."""
    everything = {"rules": [{"who": "*", "effect": "allow"}], "failed_logins": 1000}
    async with guarded(tmp_path, auth=everything) as kernel:
        token = (await invite(kernel, uses=2)).credential
        agent = await join(kernel, token, "b")
        may = {token: {"Join"}, agent: {"Attach", "Carry", "FetchModel"}}
        for credential, own in may.items():
            assert await open_to(kernel, credential) == own | {"WhoAmI"}


async def open_to(kernel: Guarded, credential: str) -> set[str]:
    """The calls that are not refused at the door, of all services."""
    import test_auth_table as table  # noqa: PLC0415 - the calls of the wire, as that has them

    found = set()
    for method in table.METHODS.values():
        ended = await table.code(kernel, method, bearer(credential))
        if ended not in table.DOOR:
            found.add(method.name)
    return found


async def test_a_name_is_of_who_joined_by_it(tmp_path: Path) -> None:
    """An agent says the name of its credential, and nobody else attaches by the name of a host that has joined."""
    async with guarded(tmp_path, auth={"rules": [{"who": "role:other", "kinds": ["agent"]}]}) as kernel:
        credential = await join(kernel, (await invite(kernel)).credential, "b")
        other = (await kernel.key(roles=["other"])).credential
        for name, secret in (("c", credential), ("b", other)):
            agent, _ = await made_agent(tmp_path, kernel.kernel.addresses[1], name, credential=secret)
            with pytest.raises(PermissionDeniedError):
                await agent.run(asyncio.Event())


async def test_a_name_whose_key_holds_is_not_taken_by_any_invitation(tmp_path: Path) -> None:
    """An invitation for any name takes no host's place as long as its key holds, and is not spent; revoked, it does."""
    async with guarded(tmp_path) as kernel:
        real = await join(kernel, (await invite(kernel)).credential, "gpu7")
        some = (await invite(kernel)).credential
        with pytest.raises(PermissionDeniedError, match=r"inferd hosts invite --host gpu7.*inferd keys revoke"):
            await join(kernel, some, "gpu7")
        async with far_host(tmp_path, kernel.kernel.addresses[1], "gpu7", credential=real):
            await until_state(kernel.kernel, "gpu7", HostState.READY)
        await until_state(kernel.kernel, "gpu7", HostState.LOST)
        keys = (await kernel.made.ListKeys(aus.ListKeysRequest())).keys
        (own,) = (key.key_id for key in keys if key.principal == "host:gpu7")
        await kernel.made.RevokeKey(aus.RevokeKeyRequest(key_id=own))
        assert await join(kernel, some, "gpu7")


async def test_only_who_is_for_all_tenants_gives_hosts_without_an_invitation(tmp_path: Path) -> None:
    """An administrator of some tenants attaches no host, and nobody joins without an invitation."""
    async with guarded(tmp_path) as kernel:
        real = await join(kernel, (await invite(kernel, host="gpu7")).credential, "gpu7")
        some = (await kernel.key(roles=["admin"], tenants=["a"])).credential
        every = (await kernel.key("carl", roles=["admin"], tenants=["*"])).credential
        unbounded = (await kernel.key("invite", roles=["joiner"], tenants=["a"])).credential
        agent, _ = await made_agent(tmp_path, kernel.kernel.addresses[1], "free", credential=some)
        with pytest.raises(PermissionDeniedError, match="for all tenants"):
            async with asyncio.timeout(DEADLINE_S):
                await agent.run(asyncio.Event())
        for secret in (some, every, unbounded):
            for name in ("gpu7", "free"):
                with pytest.raises(PermissionDeniedError, match="is no invitation"):
                    await join(kernel, secret, name)
        async with far_host(tmp_path, kernel.kernel.addresses[1], "gpu7", credential=real):
            await until_state(kernel.kernel, "gpu7", HostState.READY)
        async with far_host(tmp_path, kernel.kernel.addresses[1], "free", credential=every):
            await until_state(kernel.kernel, "free", HostState.READY)


async def test_streams_of_another_time_are_refused(tmp_path: Path) -> None:
    """Frames of another host, epoch, process or launch are refused, and so is an opening without facts."""
    async with guarded(tmp_path) as kernel, far_host(tmp_path, kernel.kernel.addresses[0]) as host:
        await until_state(kernel.kernel, "b", HostState.READY)
        stub: Any = AgentServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
        right = {"host": "b", "incarnation": host.agent.incarnation, "epoch": 1, "launch_id": 1}
        for wrong in ({"host": "c"}, {"incarnation": 7}, {"epoch": 2}, {"launch_id": 9}):
            opening = asp.CarryOpening(**{**right, **wrong})
            error = await failing(stub.Carry(iter([asp.CarryRequest(opening=opening)])))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        for request in ([], [asp.AttachRequest()], [asp.AttachRequest(opening=asp.AttachOpening())]):
            error = await failing(stub.Attach(iter(request)))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_that_never_says_whose_it_is_is_ended(tmp_path: Path) -> None:
    """Who opens streams of an agent and sends nothing is refused after hosts.answer_s, by the field that is missing."""
    async with guarded(tmp_path, hosts={"answer_s": 0.05}) as kernel:
        stub: Any = AgentServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
        for method in (stub.Carry, stub.Attach):
            async with asyncio.timeout(DEADLINE_S):
                error = await failing(method())
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "hosts.answer_s" in str(error.details())


async def test_a_host_that_is_removed_for_good_does_not_come_back(tmp_path: Path) -> None:
    """With `revoke` its credential holds no longer: its agent ends, and its name is free; refused, all stays."""
    async with guarded(tmp_path, hosts=QUICK) as kernel:
        credential = await join(kernel, (await invite(kernel)).credential, "b")
        async with far_host(tmp_path, kernel.kernel.addresses[1], credential=credential) as host:
            await until_state(kernel.kernel, "b", HostState.READY)
            stub: Any = HostServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
            reason, _ = await refused(stub.RemoveHost(hs.RemoveHostRequest(host_id="b", revoke=True)))
            assert reason == "INVALID_FIELD"
            assert not host.running.done()
            await stub.RemoveHost(hs.RemoveHostRequest(host_id="b", force=True, revoke=True))
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.wait([host.running])
            assert isinstance(host.running.exception(), UnauthenticatedError)
        async with asyncio.timeout(DEADLINE_S):
            while HostId("b") in kernel.kernel.driver.supervisor.launchers:
                await asyncio.wait({host.running}, timeout=0.05)
        assert await join(kernel, (await invite(kernel)).credential, "b")


async def test_a_credential_is_of_the_host_whatever_the_address_is(tmp_path: Path) -> None:
    """A host comes back by another address, or another order of them, and by a file that is named as before."""
    async with guarded(tmp_path) as kernel:
        first = kernel.kernel.addresses[1]
        second, nowhere = f"localhost:{first.rpartition(':')[2]}", "127.0.0.1:9"
        token = (await invite(kernel)).credential
        joined = await find_credential(OwnCredential(tmp_path / "own", (first,), "b"), (first,), "b", token)
        for addresses in ((second,), (nowhere, second), (second, first)):
            assert await find_credential(OwnCredential(tmp_path / "own", addresses, "b"), addresses, "b", "") == joined
        assert await find_credential(OwnCredential(tmp_path / "own", (first,), "c"), (first,), "c", "") is None
        (tmp_path / "older").mkdir()
        digest = sha256(f"{first} b".encode()).hexdigest()[:16]
        write_credential(tmp_path / "older" / f"agent-{digest}.key", str(joined))
        older = OwnCredential(tmp_path / "older", (nowhere, first), "b")
        assert await find_credential(older, (nowhere, first), "b", "") == joined
        again = (await invite(kernel, host="b")).credential  # takes the place of what this keyring has
        await kernel.made.RevokeKey(aus.RevokeKeyRequest(key_id=str(joined).split("_")[1]))
        own = OwnCredential(tmp_path / "own", (second,), "b")
        assert await find_credential(own, (second,), "b", again) not in {joined, None}
        assert len(own.all()) == 1


async def test_no_invitation_is_lost_with_an_answer_or_a_full_disk(tmp_path: Path) -> None:
    """A host whose file cannot be made asks for nothing; one whose answer is lost has its credential all the same."""
    async with guarded(tmp_path) as kernel:
        address, token = kernel.kernel.addresses[1], (await invite(kernel)).credential
        (tmp_path / "file").touch()
        bad = OwnCredential(tmp_path / "file" / "state", (address,), "b")
        with pytest.raises(
            CredentialError, match=r"host 'b' cannot be kept in .*/state/agent-b-\w+\.joining: Not a dir"
        ):
            await find_credential(bad, (address,), "b", token)
        own = OwnCredential(tmp_path / "own", (address,), "b")
        drawn = own.begin(token).read_text().strip()
        assert own.begin(token).read_text().strip() == drawn
        async with KernelConnection(address, credential=token) as connection:
            await connection.join("b", drawn.rpartition("_")[2])  # and its answer is lost
        assert await find_credential(own, (address,), "b", token) == drawn
        assert (len(own.all()), own.begun()) == (1, [])
        two = (await invite(kernel, uses=2)).credential
        secret = "5" * 64
        async with KernelConnection(address, credential=two) as connection:
            for _ in range(3):
                assert (await connection.join("c", secret)).credential.endswith(secret)
            with pytest.raises(InvalidFieldError, match="was of a key before"):
                await connection.join("d", secret)
            with pytest.raises(InvalidFieldError, match="64 hexadecimal digits"):
                await connection.join("d", "short")
        assert await join(kernel, two, "d")


async def test_a_host_waits_for_a_kernel_that_knows_it_again(tmp_path: Path) -> None:
    """Where a kernel with another store answers, its agent and workers stay, and go on with the one that knows it."""
    for name in "rw":
        (tmp_path / name).mkdir()
    async with guarded(tmp_path / "r") as right, guarded(tmp_path / "w") as wrong:
        credential = await join(right, (await invite(right)).credential, "b")
        async with (
            proxy_to(right.kernel.addresses[1]) as proxy,
            far_host(tmp_path, proxy.address, credential=credential) as host,
        ):
            await host.heard.until("anew")
            proxy.behind = wrong.kernel.addresses[1]
            proxy.abort()
            await host.heard.until("lost: this login is not known")
            assert not host.running.done()
            proxy.behind = right.kernel.addresses[1]
            await host.heard.until("again")


async def test_hosts_that_have_not_come_back_are_known_to_the_next_kernel(tmp_path: Path) -> None:
    """Whoever has joined is listed, shown and watched as not there, may be cordoned and drained, and loses its key."""
    store = {"url": f"sqlite:{tmp_path}/kept.sqlite"}
    async with guarded(tmp_path, store=store) as kernel:
        token = (await invite(kernel, uses=2)).credential
        keys = {name: await join(kernel, token, name) for name in "bc"}
    async with guarded(tmp_path, store=store, hosts={"most": 1}) as kernel:
        hosts: Any = HostServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
        listed = (await hosts.ListHosts(hs.ListHostsRequest())).hosts
        assert [each.host_id for each in listed] == ["local", "b", "c"]
        watched = await hosts.WatchHost(hs.WatchHostRequest(host_id="b")).read()
        assert listed[1] == watched.host == (await hosts.GetHost(hs.GetHostRequest(host_id="b"))).host
        assert listed[1].reason == "it has not joined since this kernel was started"
        await hosts.CordonHost(hs.CordonHostRequest(host_id="b"))
        (drained,) = [each.host async for each in hosts.DrainHost(hs.DrainHostRequest(host_id="c"))]
        assert drained.ordered == hp.HOST_STATE_DRAINING
        await hosts.RemoveHost(hs.RemoveHostRequest(host_id="c", revoke=True))
        with pytest.raises(UnauthenticatedError, match="revoked"):
            await join(kernel, keys["c"], "c")
        async with far_host(tmp_path, kernel.kernel.addresses[1], credential=keys["b"]):
            await until_state(kernel.kernel, "b", HostState.CORDONED)
        await hosts.RemoveHost(hs.RemoveHostRequest(host_id="b", force=True))
    for listed_then in (["local"], ["local", "b"]):  # it comes back to the second one
        async with guarded(tmp_path, store=store) as kernel:
            hosts = HostServiceStub(kernel.owner.channel)  # type: ignore[no-untyped-call]
            listed = (await hosts.ListHosts(hs.ListHostsRequest())).hosts
            assert [each.host_id for each in listed] == listed_then
            async with far_host(tmp_path, kernel.kernel.addresses[1], credential=keys["b"]):
                await until_state(kernel.kernel, "b", HostState.READY)
