"""Hosts as clients see them, and what operators want of them: a kernel, an agent in this process, and real workers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import pytest
from connection import Connection, read_all, read_until, text_of
from far_host import FarHost, far_host, place, until_state
from google.protobuf.duration_pb2 import Duration
from proxy import Proxy, proxy_to

from inferd.core.events import HostJoined, HostLost
from inferd.core.host import HostState
from inferd.core.ids import HostId
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1.model_service_pb2 import LoadModelRequest, UnloadModelRequest

SMALL = {"memory_bytes": {"fake:0": 1 << 29}}  # less than the host has, so that it is chosen first


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel that keeps what it is told."""
    async with kernel_here(tmp_path, store={"url": f"sqlite:{tmp_path}/kept.sqlite"}, devices=SMALL) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


@pytest.fixture
async def proxy(connection: Connection) -> AsyncIterator[Proxy]:
    """The way of agents to it."""
    async with proxy_to(connection.kernel.addresses[0]) as made:
        yield made


@pytest.fixture
async def host(connection: Connection, proxy: Proxy) -> AsyncIterator[FarHost]:
    """A host `b` in a zone of that name."""
    async with far_host(connection.folder, proxy.address, labels={"zone": "b"}) as made:
        await until_state(connection.kernel, "b", HostState.READY)
        yield made


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(caught.value.details())


async def drained(connection: Connection, host_id: str) -> list[hp.Host]:
    """Drain a host; what was told until nothing was left of it."""
    async with asyncio.timeout(60):
        return [each.host async for each in connection.hosts.DrainHost(hs.DrainHostRequest(host_id=host_id))]


@pytest.mark.usefixtures("host")
async def test_hosts_are_listed_with_what_they_hold(connection: Connection) -> None:
    """The kernel's own first, each with its state, devices, models, load and labels; and read by id, or told of."""
    name = await place(connection, "far", "b", step_s=0.01)
    task = connection.endless(model=name)
    await read_until(task, "output")
    own, far = (await connection.hosts.ListHosts(hs.ListHostsRequest())).hosts
    assert (own.host_id, own.state, own.pid > 0, own.placed_tasks) == ("local", hp.HOST_STATE_READY, True, 0)
    assert (far.host_id, far.state, list(far.models), far.placed_tasks) == ("b", hp.HOST_STATE_READY, ["far"], 1)
    assert (far.labels, far.version == own.version, far.instances) == ({"zone": "b"}, True, 1)
    assert far.places >= 1
    assert "fake" in far.backends
    device = next(each for each in far.devices if each.device_id == "fake:0")
    assert device.capacity_bytes == device.free_bytes + device.instance_bytes > device.free_bytes
    assert far.HasField("silence")
    assert not own.HasField("silence")
    page = await connection.hosts.ListHosts(hs.ListHostsRequest(labels={"zone": "a"}))
    assert not page.hosts
    assert (await connection.hosts.GetHost(hs.GetHostRequest(host_id="b"))).host.host_id == "b"
    assert "did you mean 'b'?" in await refusal(connection.hosts.GetHost(hs.GetHostRequest(host_id="bb")))
    watch = connection.hosts.WatchHost(hs.WatchHostRequest(host_id="b", interval=Duration(nanos=100_000_000)))
    async with asyncio.timeout(60):  # each interval, whether anything has changed or not
        silences = set[str]()
        while len(silences) < 3:
            told = await watch.read()
            (instance,) = told.instances
            assert (instance.device, instance.memory_bytes > 0) == ("b/fake:0", True)
            silences.add(str(told.host.silence))
    watch.cancel()
    task.cancel()


@pytest.mark.usefixtures("host")
async def test_a_host_is_drained_without_a_failed_task(connection: Connection) -> None:
    """What runs ends where it is, the next task goes elsewhere, and the call ends when nothing is left."""
    name = await place(connection, "both", "", step_s=0.005)
    await connection.models.LoadModel(LoadModelRequest(name=name))
    running = connection.endless(model=name, tokens=100)
    await read_until(running, "output")
    draining = asyncio.create_task(drained(connection, "b"))
    await until_state(connection.kernel, "b", HostState.DRAINING)
    tasks = [asyncio.create_task(read_all(connection.endless(model=name, tokens=20))) for _ in range(4)]
    told = await draining
    assert (told[0].drained, told[-1].drained, told[-1].instances) == (False, True, 0)
    assert [text_of(await task) for task in tasks] == ["la" * 10] * 4
    last = (await read_all(connection.endless(model=name, tokens=4)))[-1]
    assert last.finished.receipt.device == "fake:0"
    assert (await connection.hosts.ResumeHost(hs.ResumeHostRequest(host_id="b"))).host.state == hp.HOST_STATE_READY


async def test_what_an_operator_wants_of_a_host_outlives_the_kernel(tmp_path: Path) -> None:
    """Hosts that drain or are cordoned do so with the next kernel, its own too; one that was resumed does not."""
    joins = [HostJoined((), HostId(name)) for name in "bc"]
    states = []
    for first in (True, False):
        async with kernel_here(tmp_path, store={"url": f"sqlite:{tmp_path}/kept.sqlite"}) as kernel:
            for event in joins:
                kernel.driver.tell_host(event)
            if first:
                made = Connection(kernel, tmp_path)
                for host_id in ("b", "c"):
                    await drained(made, host_id)
                await made.hosts.ResumeHost(hs.ResumeHostRequest(host_id="c"))
                await made.hosts.CordonHost(hs.CordonHostRequest(host_id="local"))
                await made.channel.close()
            known = kernel.driver.machine.hosts.known
            states.append([known[HostId(name)].state for name in ("", "b", "c")])
    assert states[0] == states[1] == [HostState.CORDONED, HostState.DRAINING, HostState.READY]


@pytest.mark.usefixtures("host")
async def test_a_host_is_removed(connection: Connection) -> None:
    """Not while something is left of it, nor the kernel's own; with force its tasks go on elsewhere."""
    name = await place(connection, "both", "", step_s=0.02)
    task = connection.endless(model=name, tokens=100)
    await read_until(task, "output")
    remove = connection.hosts.RemoveHost
    assert "drain it (`inferd hosts drain b`)" in await refusal(remove(hs.RemoveHostRequest(host_id="b")))
    assert "cannot be removed" in await refusal(remove(hs.RemoveHostRequest(host_id="local")))
    await remove(hs.RemoveHostRequest(host_id="b", force=True))
    async with asyncio.timeout(60):
        assert (await read_all(task))[-1].finished.receipt.device == "fake:0"
    await until_state(connection.kernel, "b", HostState.READY)  # its agent runs still


async def test_all_hosts_are_watched(connection: Connection) -> None:
    """As they stand first, then those that have changed, and the ids of those that are gone."""
    tell = connection.kernel.driver.tell_host
    tell(HostJoined((), HostId("c")))
    watch = connection.hosts.WatchHost(hs.WatchHostRequest(all_hosts=True, interval=Duration(nanos=10**8)))
    async with asyncio.timeout(60):
        assert {each.host_id for each in (await watch.read()).hosts} == {"local", "c"}
        tell(HostLost(HostId("c"), "no word"))
        while not (hosts := [each for each in (await watch.read()).hosts if each.host_id == "c"]):
            pass
        assert (hosts[0].state, hosts[0].reason) == (hp.HOST_STATE_LOST, "no word")
        await connection.hosts.RemoveHost(hs.RemoveHostRequest(host_id="c"))
        while (await watch.read()).gone_host_ids != ["c"]:
            pass
    watch.cancel()


async def test_the_log_of_an_instance_is_read(connection: Connection) -> None:
    """From its end, in parts; and on while it grows, until its worker has ended."""
    name = await connection.create()
    await connection.models.LoadModel(LoadModelRequest(name=name))
    (worker,) = connection.kernel.driver.supervisor.workers.values()
    await asyncio.to_thread(Path(worker.log_path).write_bytes, b"x" * 100_000 + b"the end")
    read = connection.hosts.ReadInstanceLog
    parts = [each.data async for each in read(hs.ReadInstanceLogRequest(instance_id="fake-1", tail_bytes=7))]
    assert parts == [b"the end"]
    parts = [each.data async for each in read(hs.ReadInstanceLogRequest(instance_id="fake-1", tail_bytes=100_000))]
    assert ([len(part) for part in parts], parts[-1][-7:]) == ([65_536, 34_464], b"the end")
    assert "cannot be read" in await refusal(read(hs.ReadInstanceLogRequest(instance_id="none-1")).read())


async def test_the_log_of_an_instance_that_has_ended_is_read_where_it_was(
    connection: Connection, host: FarHost
) -> None:
    """Its host is asked for it; where that is not attached, the error says which it was and where the log is there."""
    name = await place(connection, "far", "b")
    await connection.models.LoadModel(LoadModelRequest(name=name))
    (worker,) = connection.kernel.driver.supervisor.workers.values()
    await asyncio.to_thread(Path(worker.log_path.removeprefix("b:")).write_bytes, b"why it died")
    await connection.models.UnloadModel(UnloadModelRequest(name=name))
    read = hs.ReadInstanceLogRequest(instance_id="far-1")
    assert [each.data async for each in connection.hosts.ReadInstanceLog(read)] == [b"why it died"]
    host.ends.set()
    await until_state(connection.kernel, "b", HostState.LOST)
    said = await refusal(connection.hosts.ReadInstanceLog(read).read())
    assert f"host 'b', where it was, is not attached; it is in {worker.log_path}" in said


async def test_orders_reach_hosts_that_are_away(tmp_path: Path) -> None:
    """A lost host is drained once it is back, and one that has not joined since the kernel began is resumed."""
    store = {"url": f"sqlite:{tmp_path}/kept.sqlite"}
    for first in (True, False):
        async with kernel_here(tmp_path, store=store) as kernel:
            made, tell = Connection(kernel, tmp_path), kernel.driver.tell_host
            if first:
                tell(HostJoined((), HostId("b")))
                tell(HostLost(HostId("b"), "no word"))
            for reason in ("its fan", "another word") if first else ("",):
                call = made.hosts.DrainHost(hs.DrainHostRequest(host_id="b", reason=reason))
                (told,) = [each.host async for each in call]
            facts = (told.state, told.ordered, told.order_reason)
            assert facts == (hp.HOST_STATE_LOST, hp.HOST_STATE_DRAINING, "its fan")
            assert told.reason == ("no word" if first else "it has not joined since this kernel was started")
            if first:
                assert "reason has 201 letters" in await refusal(
                    made.hosts.CordonHost(hs.CordonHostRequest(host_id="b", reason="x" * 201))
                )
            else:
                await made.hosts.ResumeHost(hs.ResumeHostRequest(host_id="b"))
                tell(HostJoined((), HostId("b")))
                assert kernel.driver.machine.hosts.known[HostId("b")].state is HostState.READY
                await made.hosts.CordonHost(hs.CordonHostRequest(host_id="b"))
                tell(HostLost(HostId("b"), "no word"))
                await made.hosts.RemoveHost(hs.RemoveHostRequest(host_id="b"))
                assert "no host 'b'" in await refusal(made.hosts.ResumeHost(hs.ResumeHostRequest(host_id="b")))
            await made.channel.close()
