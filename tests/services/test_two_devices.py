"""A kernel with two devices that are alike: models use both, and say why which."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, memory, read_until, refusal, under

from inferd.runtime.worker import Worker
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd.testing.pair import PAIR_PLUGIN
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1.task_service_pb2 import CancelTaskRequest

MIB = 1 << 20
SIZES = {"cpu:0": 1024 * MIB, "fake:0": 100 * MIB, "fake:1": 200 * MIB, "slow:0": 900 * MIB}
READY = mp.INSTANCE_STATE_READY


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel whose backend has two devices that are alike, and a third one."""
    elastic = {"grow_s": 0.05, "shrink_s": 600.0}
    devices = {"memory_bytes": SIZES}
    async with kernel_here(tmp_path, plugin_modules=(PAIR_PLUGIN,), devices=devices, elastic=elastic) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


async def create(connection: Connection, name: str, *, wanted: dict[str, Any] | None = None, **behaviour: Any) -> Any:
    path = write_fake_model(connection.folder, name, **behaviour)
    model = mp.Model(name=name, source=str(path), **(wanted or {}))
    return (await connection.models.CreateModel(ms.CreateModelRequest(model=model))).model


async def load(connection: Connection, name: str, metadata: Any = None) -> Any:
    """Load a model; its newest instance."""
    request = ms.LoadModelRequest(name=name)
    return (await connection.models.LoadModel(request, metadata=metadata)).model.instances[-1]


async def plan(connection: Connection, name: str, **more: Any) -> Any:
    return (await connection.models.PlanLoad(ms.PlanLoadRequest(name=name, **more))).plan


async def until_ready(connection: Connection, name: str, instances: int) -> Any:
    """A model once it has so many instances that take tasks."""
    return await until(connection, name, READY, instances)


async def until(connection: Connection, name: str, state: int, instances: int) -> Any:
    """A model once it has so many instances that stand so."""
    watch = connection.models.WatchModel(ms.WatchModelRequest(name=name))
    async for response in watch:
        if sum(i.state == state for i in response.model.instances) == instances:
            watch.cancel()
            return response.model
    raise AssertionError(f"{name} never had {instances} instances")


async def test_a_model_uses_both_devices_under_load(connection: Connection) -> None:
    """Tasks that find no place have the model grow onto its second device, where they run; the receipts say so."""
    slow = {"max_sequences": 1, "step_s": 0.01, "context_tokens": 10_000}
    model = await create(connection, "m", wanted={"max_instances": 2}, **slow)
    assert (list(model.devices), model.device) == (["fake:0", "fake:1"], "")
    calls = [connection.endless(model="m", tokens=8000) for _ in range(2)]
    grown = await until_ready(connection, "m", 2)
    assert [i.device for i in grown.instances] == ["fake:1", "fake:0"]
    assert grown.instances[0].device_reason == "210 MB is free, on fake:0 105 MB"
    assert grown.instances[1].device_reason == "it has 0 instances there, on fake:1 1"
    ids = [(await read_until(call, "started"))[-1].task_id for call in calls]  # else the first would be over too soon
    for task_id in ids:
        await connection.tasks.CancelTask(CancelTaskRequest(task_id=task_id))
    ends = [(await read_until(call, "finished"))[-1].finished for call in calls]
    assert Counter(end.receipt.device for end in ends) == {"fake:0": 1, "fake:1": 1}


async def test_models_without_a_device_spread_and_one_with_a_device_keeps_it(connection: Connection) -> None:
    """Each model goes where more is free; a named device is kept, though the other has more."""
    named = await create(connection, "named", wanted={"device": "fake:0"}, weights_bytes=MIB)
    assert (list(named.devices), named.device) == (["fake:0"], "fake:0")
    assert (await load(connection, "named")).device_reason == "the only device that it may use"
    placed = []
    for n in range(3):
        await create(connection, f"m{n}", weights_bytes=60 * MIB)
        placed.append((await load(connection, f"m{n}")).device)
    assert placed == ["fake:1", "fake:1", "fake:0"]
    model = mp.Model(name="m0", source=str(connection.folder / "m0.fake"))
    assert (await connection.models.CreateModel(ms.CreateModelRequest(model=model))).model.instances
    model.device = "fake:1"  # where it is, but it may be elsewhere
    assert (await refusal(connection.models.CreateModel(ms.CreateModelRequest(model=model))))[0] == "MODEL_EXISTS"


async def test_a_plan_measures_each_device_and_says_why_which(connection: Connection) -> None:
    """The need follows the size of the device; the plan is of the best one, says why, and so it loads."""
    await create(connection, "m", weights_bytes=80 * MIB, kv_bytes=0, kv_share=0.25)
    told = await plan(connection, "m")
    assert (told.device_id, told.need.kv_bytes, told.fits) == ("fake:1", 50 * MIB, True)
    assert told.device_reason == "fake:0 has 105 MB to give at most, 110 MB is needed"
    assert (await plan(connection, "m", device="fake:0")).need.kv_bytes == 25 * MIB
    slow = await plan(connection, "m", device="slow:0")
    assert (slow.device_id, slow.device_reason) == ("slow:0", "the only device that it may use")
    instance = await load(connection, "m")
    assert (instance.device, instance.device_reason) == (told.device_id, told.device_reason)
    assert instance.need == told.need


async def test_an_instance_that_does_not_fit_goes_on_to_the_other_device(connection: Connection) -> None:
    """Of two that begin at once the second is measured where it has no room, and is loaded beside the first instead."""
    await create(connection, "filler", wanted={"device": "fake:0"}, weights_bytes=40 * MIB)
    await load(connection, "filler")
    await create(connection, "m", wanted={"min_instances": 2, "max_instances": 2}, weights_bytes=90 * MIB)
    model = await until_ready(connection, "m", 2)
    ready = [i for i in model.instances if i.state == READY]
    assert [i.device for i in ready] == ["fake:1", "fake:1"]
    assert ready[1].device_reason == "it does not fit fake:0 as things stand"


async def test_a_load_goes_on_where_it_fits_when_its_room_is_taken_meanwhile(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that is granted before a worker has measured has the load go on elsewhere; `LoadModel` waits for it."""
    begin, run = asyncio.Event(), Worker.run

    async def held(self: Worker) -> str:
        await begin.wait()
        return await run(self)

    monkeypatch.setattr(Worker, "run", held)
    await create(connection, "m", weights_bytes=80 * MIB)
    loading = asyncio.create_task(load(connection, "m"))
    assert (await until(connection, "m", mp.INSTANCE_STATE_STARTING, 1)).instances[0].device == "fake:1"
    await connection.claim(memory(150 * MIB, "fake:1"))
    begin.set()
    instance = await loading
    assert (instance.device, instance.device_reason) == ("fake:0", "it does not fit fake:1 as things stand")


async def test_a_lease_names_the_device_of_what_is_loaded_under_it(connection: Connection) -> None:
    """A model is loaded on the device that the lease holds memory of, though the other has more free."""
    await create(connection, "m")
    lease = await connection.claim(memory(50 * MIB, "fake:0"))
    instance = await load(connection, "m", under(lease.lease_id))
    assert (instance.device, instance.lease_id) == ("fake:0", lease.lease_id)
    elsewhere = await connection.claim(memory(50 * MIB, "slow:0"))
    call = connection.models.LoadModel(ms.LoadModelRequest(name="m"), metadata=under(elsewhere.lease_id))
    assert (await refusal(call))[0] == "INVALID_FIELD"
    task = connection.endless(model="m", tokens=5, metadata=under(lease.lease_id))
    assert (await read_until(task, "finished"))[-1].finished.receipt.device == "fake:0"
