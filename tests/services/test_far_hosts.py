"""Workers on another host: an agent in this process, real gRPC over loopback, and workers of the FakeBackend."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from connection import Connection, kinds_of, read_all, read_failing, read_until, reason_of, text_of
from far_host import FarHost, far_host, place, until_state
from proxy import Proxy, proxy_to

from inferd import __version__
from inferd.agent import fetching, hosted
from inferd.agent.agent import SilentError
from inferd.agent.cache import Cache, CachedFile
from inferd.core.host import HostState
from inferd.core.ids import HostId, InstanceId
from inferd.errors import InvalidFieldError
from inferd.runtime.front.turns import Turns
from inferd.testing.kernel import kernel_here
from inferd_api.agent.v1 import agent_service_pb2 as asp
from inferd_api.agent.v1.agent_pb2 import HostFacts, Parcels
from inferd_api.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from inferd_api.v1.model_pb2 import Model, PlacementRules
from inferd_api.v1.model_service_pb2 import CreateModelRequest, UnloadModelRequest
from inferd_client import AsyncClient

DEADLINE_S = 60.0
QUICK = {"detection_s": 1.2, "beat_s": 0.2, "grace_s": 20.0}
SMALL = {"memory_bytes": {"fake:0": 64 << 20}}  # less than the host has, so that it is chosen first


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel that soon takes silent hosts for lost."""
    async with kernel_here(tmp_path, hosts=QUICK, devices=SMALL, workers={"restart_backoff_s": 0.01}) as kernel:
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
    """A host `b` that is attached."""
    async with far_host(connection.folder, proxy.address) as made:
        await until_state(connection.kernel, "b", HostState.READY)
        yield made


def attempts_of(events: list[Any]) -> list[int]:
    """How often a task was handed to an instance, as it was told."""
    kinds = {"started", "resumed"}
    return [e.started.attempt or e.resumed.attempt for e in events if e.WhichOneof("kind") in kinds]


def begun(host: FarHost) -> list[str]:
    """How often an agent began anew; it tells of that after the kernel has seen it, so perhaps behind a break."""
    return [each for each in host.heard.told if each.startswith("anew")]


async def test_a_task_runs_on_another_host(connection: Connection, host: FarHost) -> None:
    """A stream of a far worker is as that of a near one; its device is the host's, and its process the agent's."""
    near = await read_all(connection.endless(model=await place(connection, "near", "local"), tokens=50))
    far = await read_all(connection.endless(model=await place(connection, "far", "b"), tokens=50))
    assert text_of(far) == text_of(near) == "la" * 25
    assert kinds_of(far) == kinds_of(near)
    assert far[-1].finished.receipt.device == "b/fake:0"
    (worker,) = (each for each in connection.kernel.driver.supervisor.workers.values() if each.host_id)
    logs = {str(path) for path in (connection.folder / "b" / "state" / "workers").glob("*.log")}
    assert worker.host_id == "b"
    assert worker.log_path.startswith("b:")
    assert worker.log_path.removeprefix("b:") in logs
    assert worker.pid == host.agent.hosted[1]._worker.pid  # type: ignore[union-attr]
    assert await worker.resident_bytes() > 1 << 20
    os.kill(worker.pid, 0)
    launcher = connection.kernel.driver.supervisor.launchers[HostId("b")]
    say(worker.log_path.removeprefix("b:"), "what it says")
    assert await launcher.read_log(worker.instance_id, -4, 50) == (b"says", 12)
    with pytest.raises(InvalidFieldError, match="on host 'b'"):
        await launcher.read_log(InstanceId("../x"), 0, 50)


def say(log: str, words: str) -> None:
    Path(log).write_text(words, encoding="utf-8")


async def test_a_broken_connection_loses_nothing(connection: Connection, host: FarHost, proxy: Proxy) -> None:
    """A stream whose host's connection breaks again and again is that of an undisturbed run, in one attempt."""
    name = await place(connection, "far", "b", step_s=0.001)
    call = connection.endless(model=name, tokens=900)
    events = await read_until(call, "output")
    for n in range(4):
        proxy.abort()
        await host.heard.until("again", n + 1)
    events += await read_all(call)
    assert text_of(events) == "la" * 450
    assert attempts_of(events) == [1]
    assert begun(host) == ["anew 1"]


async def test_a_silent_host_is_lost_and_its_tasks_go_on(connection: Connection, proxy: Proxy) -> None:
    """What ran on a host that is lost goes on elsewhere, behind what it told; its old workers end when it is back."""
    async with far_host(connection.folder, proxy.address) as host:
        await until_state(connection.kernel, "b", HostState.READY)
        name = await place(connection, "both", "", step_s=0.02)
        call = connection.endless(model=name, tokens=100)
        events = await read_until(call, "output")
        proxy.stop()
        await until_state(connection.kernel, "b", HostState.LOST)
        events += await read_all(call)
        assert text_of(events) == "la" * 50
        assert attempts_of(events) == [1, 2]
        proxy.go_on()
        await host.heard.until("anew", 2)
        await until_state(connection.kernel, "b", HostState.READY)
        assert not host.agent.hosted


async def test_a_host_that_ends_in_order_is_lost_at_once(connection: Connection, host: FarHost) -> None:
    """An agent that is ended says so: its host is lost without waiting, and nothing of its workers is left."""
    name = await place(connection, "far", "b", step_s=0.001)
    call = connection.endless(model=name, tokens=900)
    await read_until(call, "output")
    pid = connection.kernel.driver.supervisor.workers[InstanceId("far-1")].pid
    host.ends.set()
    await until_state(connection.kernel, "b", HostState.LOST)
    await host.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    call.cancel()


async def test_a_name_is_of_one_agent(connection: Connection, host: FarHost) -> None:
    """A second agent of a name is refused as long as the first one is attached, with what helps, and gives up."""
    async with far_host(connection.folder / "2", connection.kernel.addresses[0]) as second:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([second.running])
        error = second.running.exception()
    assert "has an agent, which was heard" in str(error)
    assert "--name" in str(error)
    assert not host.running.done()


async def test_what_a_host_lacks_is_fetched_and_kept(
    connection: Connection, host: FarHost, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are not on the host are copied from the kernel, also where that breaks off, and used again."""
    monkeypatch.setattr(hosted, "_is_missing", lambda _: True)
    path = connection.folder / "large.fake"
    path.write_text("{}" + " " * (9 << 20))
    model = Model(name="large", source=str(path), placement=PlacementRules(selector={"host": "b"}))
    name = (await connection.models.CreateModel(CreateModelRequest(model=model))).model.name
    written, write = list[int](), Cache.write

    def broken(cache: Cache, place: Path, file: CachedFile, number: int, data: bytes) -> bool:
        written.append(number)
        if len(written) == 2:
            asyncio.run_coroutine_threadsafe(abort(proxy), loop).result()
        return write(cache, place, file, number, data)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Cache, "write", broken)
    events = await read_all(connection.endless(model=name, tokens=10))
    assert text_of(events) == "la" * 5
    assert sorted(written) == [0, 1, 2]
    (kept,) = (connection.folder / "b" / "data" / "hosted").iterdir()
    assert {each.name for each in kept.iterdir()} == {path.name, ".whole"}
    assert (kept / path.name).read_bytes() == path.read_bytes()
    await connection.models.UnloadModel(UnloadModelRequest(name=name, force=True))
    assert text_of(await read_all(connection.endless(model=name, tokens=10))) == "la" * 5
    assert len(written) == 3
    assert begun(host) == ["anew 1"]


@pytest.mark.parametrize("line", [0, 5], ids=["told to come again", "in the line"])
async def test_a_host_waits_for_its_turn_to_be_given_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int
) -> None:
    """While others are given files it waits, for longer than a silent kernel would be waited for; then it is loaded."""
    made, pauses, pause_s = list[Turns](), list[float](), fetching._pause_s

    class Noted(Turns):
        def __init__(self, *bounds: Any, **more: Any) -> None:
            super().__init__(*bounds, **more)
            made.append(self)

    def pause(error: grpc.aio.AioRpcError, wait_on: Callable[[], None]) -> float:
        pauses.append(pause_s(error, wait_on))
        return 0.05

    for name, value in (("hosted._is_missing", lambda _: True), ("fetching.SILENT_S", 0.4), ("fetching.NAMES_S", 0.4)):
        monkeypatch.setattr(f"inferd.agent.{name}", value)
    monkeypatch.setattr("inferd.services.agents.QUEUED_S", 0.05)
    monkeypatch.setattr("inferd.runtime.front.agents.Turns", Noted)
    monkeypatch.setattr(fetching, "_pause_s", pause)
    bounds = {**QUICK, "fetches": 1, "fetch_line": line}
    async with kernel_here(tmp_path, hosts=bounds) as kernel, far_host(tmp_path, kernel.addresses[0]):
        await until_state(kernel, "b", HostState.READY)
        connection = Connection(kernel, tmp_path)
        model = await place(connection, "far", "b")
        async with made[0].turn("another"):
            task = asyncio.create_task(read_all(connection.endless(model=model, tokens=10)))
            async with asyncio.timeout(DEADLINE_S):
                while not (made[0]._line or pauses):
                    await asyncio.wait({task}, timeout=0.01)
            await asyncio.wait({task}, timeout=1.0)
            assert not task.done()  # a silent kernel would have failed the load by then
        assert text_of(await task) == "la" * 5
        assert all(5 <= each <= 10 for each in pauses)
        assert bool(pauses) is (line == 0)
        await connection.channel.close()


async def test_a_host_that_takes_nothing_loses_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of files of which nothing is read ends after hosts.fetch_idle_s, and another host has the turn."""
    made = list[Turns]()

    class Noted(Turns):
        def __init__(self, *bounds: Any, **more: Any) -> None:
            super().__init__(*bounds, **more)
            made.append(self)

    monkeypatch.setattr("inferd.runtime.front.agents.Turns", Noted)
    bounds = {**QUICK, "fetches": 1, "fetch_idle_s": 0.3}
    async with kernel_here(tmp_path, hosts=bounds) as kernel, far_host(tmp_path, kernel.addresses[0]) as host:
        await until_state(kernel, "b", HostState.READY)
        connection = Connection(kernel, tmp_path)
        path = tmp_path / "large.fake"
        path.write_text("{}" + " " * (24 << 20))
        model = Model(name="large", source=str(path), placement=PlacementRules(selector={"host": "b"}))
        await connection.models.CreateModel(CreateModelRequest(model=model))
        await read_all(connection.endless(model="large", tokens=4))
        stub: Any = AgentServiceStub(connection.channel)  # type: ignore[no-untyped-call]
        stream = stub.FetchModel(asp.FetchModelRequest(opening=host.agent._opening(1)))
        assert (await stream.read()).file.name == "large.fake"
        async with asyncio.timeout(DEADLINE_S), made[0].turn("another") as turn:
            assert await turn.wait(DEADLINE_S)
        stream.cancel()
        await connection.channel.close()


async def abort(proxy: Proxy) -> None:
    proxy.abort()


async def test_a_missing_file_names_host_and_path(connection: Connection, host: FarHost) -> None:
    """A model whose files are nowhere fails to load with the host and the path, and nothing else ends."""
    name = await place(connection, "far", "b")
    path = connection.folder / "far.fake"
    path.rename(path.with_suffix(".away"))
    _, error = await read_failing(connection.endless(model=name, tokens=5))
    reason, facts = reason_of(error)
    assert reason == "MODEL_LOAD_FAILED"
    assert (facts["host"], facts["path"]) == ("b", str(path))
    assert "on host 'b'" in str(error.details())
    assert not host.running.done()


async def test_tensors_of_any_size_cross(connection: Connection, host: FarHost) -> None:
    """Inputs and outputs that are in memory on one machine come to the other one whole, also more than a window."""
    name = await place(connection, "far", "b", tensor="identity")
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        for shape in ((1, 3), (1, 400_000), (3, 500_000)):
            x = np.random.default_rng(7).random(shape, np.float32)
            outputs = await client.infer(name, {"x": x})
            assert (outputs["y"] == x).all()
    assert begun(host) == ["anew 1"]


async def test_what_was_received_before_a_host_begins_anew_counts_no_more(connection: Connection) -> None:
    """An agent that was attached to another kernel, or in another epoch, is attached, and not lost at once for that."""
    stub: Any = AgentServiceStub(connection.channel)  # type: ignore[no-untyped-call]
    facts, kernel = HostFacts(name="b", version=__version__), 7
    for epoch in (1, 9):
        opening = asp.AttachOpening(facts=facts, incarnation=1, kernel=kernel, epoch=epoch)
        stream = stub.Attach()
        await stream.write(asp.AttachRequest(opening=opening, parcels=Parcels(received=5)))
        async with asyncio.timeout(DEADLINE_S):
            kernel = (await stream.read()).welcome.kernel
            assert await stream.read() is not grpc.aio.EOF  # that the kernel lives
        stream.cancel()


async def test_an_agent_outlives_its_kernel(tmp_path: Path) -> None:
    """A kernel ends with a task on the host, and another one follows: the agent attaches to that by itself."""
    async with (
        kernel_here(tmp_path / "1", hosts=QUICK) as first,
        proxy_to(first.addresses[0]) as proxy,
        far_host(tmp_path, proxy.address) as host,
    ):
        await until_state(first, "b", HostState.READY)
        connection = Connection(first, tmp_path)
        call = connection.endless(model=await place(connection, "far", "b", step_s=0.002), tokens=900)
        await read_until(call, "output")
        first.driver.close()
        with suppress(grpc.aio.AioRpcError):
            await read_all(call)
        await connection.channel.close()
        proxy.stop()
        async with kernel_here(tmp_path / "2", hosts=QUICK) as second:
            proxy.behind = second.addresses[0]
            proxy.go_on()
            proxy.abort()
            await host.heard.until("anew", 2)
            await until_state(second, "b", HostState.READY)
            assert not host.agent.hosted
            host.ends.set()
            await host.running


async def test_a_kernel_is_looked_for_where_it_may_be(connection: Connection, proxy: Proxy, tmp_path: Path) -> None:
    """Of several addresses an agent finds the one that takes it, and takes no kernel that another one has followed."""
    nobody = f"unix:{tmp_path}/nobody"
    async with far_host(connection.folder, (nobody, proxy.address)) as host:
        await until_state(connection.kernel, "b", HostState.READY)
        host.agent._newest = 7
        older = asp.AttachResponse(welcome=asp.AttachWelcome(kernel_epoch=6))
        with pytest.raises(SilentError, match=r"of epoch [1-6] answered.* seen epoch 7: another one has followed"):
            await host.agent._serve_attached(None, older, None)  # type: ignore[arg-type] # it is refused before
