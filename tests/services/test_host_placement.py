"""Which hosts models are loaded on, as clients say it: a kernel, an agent in this process, and real workers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import pytest
from connection import Connection, read_all
from far_host import FarHost, far_host, until_state
from proxy import proxy_to

from inferd.core.host import HostState
from inferd.core.ids import HostId, ModelName
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.host_service_pb2 import CordonHostRequest
from inferd_api.v1.model_pb2 import Model, PlacementRules
from inferd_api.v1.model_service_pb2 import CreateModelRequest, GetModelRequest, UnloadModelRequest, UpdateModelRequest


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel whose own host has a label, too."""
    async with kernel_here(tmp_path, hosts={"labels": {"zone": "home"}}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


@pytest.fixture
async def host(connection: Connection) -> AsyncIterator[FarHost]:
    """A host `b` in a zone of that name."""
    async with (
        proxy_to(connection.kernel.addresses[0]) as proxy,
        far_host(connection.folder, proxy.address, labels={"zone": "b"}) as made,
    ):
        await until_state(connection.kernel, "b", HostState.READY)
        yield made


def model(connection: Connection, name: str, **selector: str) -> Model:
    source = str(write_fake_model(connection.folder, name))
    return Model(name=name, source=source, placement=PlacementRules(selector=selector))


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return str(caught.value.details())


async def read(connection: Connection, name: str) -> Model:
    return (await connection.models.GetModel(GetModelRequest(name=name))).model


@pytest.mark.usefixtures("host")
async def test_a_selector_has_a_model_loaded_on_a_host_with_its_labels(connection: Connection) -> None:
    """Its tasks run there, the model says on which devices it may be, and another selector moves it."""
    await connection.models.CreateModel(CreateModelRequest(model=model(connection, "m", zone="b")))
    assert (await read_all(connection.endless(model="m", tokens=4)))[-1].finished.receipt.device == "b/fake:0"
    found = await read(connection, "m")
    assert (found.devices, found.device_count, found.placement.selector) == (["b/fake:0"], 1, {"zone": "b"})
    rules = PlacementRules(selector={"host": "local", "zone": "home"})
    await connection.models.UpdateModel(UpdateModelRequest(name="m", placement=rules))
    assert (await read_all(connection.endless(model="m", tokens=4)))[-1].finished.receipt.device == "fake:0"
    assert (await read(connection, "m")).version == 2


async def test_a_selector_that_no_host_has_is_refused(connection: Connection, host: FarHost) -> None:
    """By its field, with the nearest label, in a new model and in an update; the model stays as it is."""
    wanted = CreateModelRequest(model=model(connection, "m", zone="bb"))
    assert "did you mean 'zone=b'?" in await refusal(connection.models.CreateModel(wanted))
    assert host.agent
    await connection.models.CreateModel(CreateModelRequest(model=model(connection, "n")))
    update = UpdateModelRequest(name="n", placement=PlacementRules(selector={"zome": "b"}))
    assert "did you mean 'zone'?" in await refusal(connection.models.UpdateModel(update))
    assert not (await read(connection, "n")).HasField("placement")


async def test_a_model_is_loaded_where_its_files_are(
    connection: Connection, host: FarHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two hosts alike the one that has fetched a model once gets it, before the one that came first."""
    assert host.agent
    monkeypatch.setattr("inferd.agent.hosted._is_missing", lambda _: True)
    monkeypatch.setattr("inferd.agent.holding.AGAIN_S", 0.01)
    async with far_host(connection.folder, connection.kernel.addresses[0], "c"):
        await until_state(connection.kernel, "c", HostState.READY)
        await connection.models.CreateModel(CreateModelRequest(model=model(connection, "m", host="c")))
        await read_all(connection.endless(model="m", tokens=4))
        await connection.models.UnloadModel(UnloadModelRequest(name="m", force=True))
        driver = connection.kernel.driver
        known, spec = driver.machine.hosts.known, driver.views.model(ModelName("m")).spec
        async with asyncio.timeout(60):
            while spec.file_version not in (known[HostId("c")].facts.holds or ()):
                await driver.watchers.hosts.wait(driver.watchers.hosts.version, limit_s=0.05)
        assert known[HostId("b")].facts.holds == frozenset()
        await connection.hosts.CordonHost(CordonHostRequest(host_id="local"))
        await connection.models.UpdateModel(UpdateModelRequest(name="m", placement=PlacementRules()))
        assert (await read_all(connection.endless(model="m", tokens=4)))[-1].finished.receipt.device == "c/fake:0"
