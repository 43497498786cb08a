"""A kernel whose backend spans devices: an instance takes two of a host at once, is one, and ends as one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from connection import Connection, memory, read_until, reason_of, refusal, under

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd.testing.pair import PAIR_PLUGIN
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

MIB = 1 << 20
SIZES = {"cpu:0": 1024 * MIB, "fake:0": 100 * MIB, "fake:1": 200 * MIB, "slow:0": 900 * MIB}
BOTH = {"settings": {"devices": "2"}}


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel whose backend has two devices that are alike, and a third one."""
    async with kernel_here(tmp_path, plugin_modules=(PAIR_PLUGIN,), devices={"memory_bytes": SIZES}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


async def create(connection: Connection, name: str, wanted: dict[str, Any] | None = None, **behaviour: Any) -> Any:
    path = write_fake_model(connection.folder, name, **{"kv_bytes": 0, **behaviour})
    model = mp.Model(name=name, source=str(path), **(wanted or {}))
    return (await connection.models.CreateModel(ms.CreateModelRequest(model=model))).model


async def load(connection: Connection, name: str, metadata: Any = None) -> Any:
    """Load a model; its newest instance."""
    request = ms.LoadModelRequest(name=name)
    return (await connection.models.LoadModel(request, metadata=metadata)).model.instances[-1]


async def held(connection: Connection) -> dict[str, int]:
    """What instances hold of the two devices, in MiB."""
    host = (await connection.hosts.GetHost(hs.GetHostRequest())).host
    return {d.device_id: d.instance_bytes // MIB for d in host.devices if d.device_id.startswith("fake")}


async def test_an_instance_takes_two_devices_at_once_and_gives_both_back(connection: Connection) -> None:
    """It holds of each what it needs, the plan said so, idle ones on either give way to it, and both are free then."""
    await create(connection, "small", weights_bytes=70 * MIB, wanted={"device": "fake:0"})
    await load(connection, "small")
    await create(connection, "m", BOTH, weights_bytes=80 * MIB)
    plan = (await connection.models.PlanLoad(ms.PlanLoadRequest(name="m"))).plan
    assert (plan.fits, plan.device_id, list(plan.devices_beside)) == (True, "fake:0", ["fake:1"])
    assert plan.reason.startswith("fits fake:0 and fake:1 when small-1 are evicted: it needs 84 MB")
    instance = await load(connection, "m")
    assert (instance.device, list(instance.devices_beside)) == ("fake:0", ["fake:1"])
    assert await held(connection) == {"fake:0": 80, "fake:1": 80}
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="m"))
    assert await held(connection) == {"fake:0": 0, "fake:1": 0}


async def test_all_or_none(connection: Connection) -> None:
    """What one of the two devices cannot give is refused, though the other could; nothing is held then."""
    await create(connection, "m", BOTH, weights_bytes=120 * MIB)
    reason, told = (await refusal(connection.models.LoadModel(ms.LoadModelRequest(name="m"))))[:2]
    assert (reason, told["device"], told["capacity_bytes"]) == ("NO_MEMORY", "fake:0", str(100 * MIB))
    plan = (await connection.models.PlanLoad(ms.PlanLoadRequest(name="m"))).plan
    larger = "it is larger than the device: it needs 126 MB, and 105 MB is all that may be given of it"
    assert plan.reason == f"does not fit fake:0 and fake:1: {larger}"
    assert await held(connection) == {"fake:0": 0, "fake:1": 0}


async def test_devices_that_are_not_there_are_refused_with_both_numbers(connection: Connection) -> None:
    """More devices than a host has, of a kind, or than were named, are refused when the model is made known."""
    for settings, wanted, message in (
        ({"devices": "3"}, {}, "setting 'devices' is 3, and the host that has most of those that the model may use"),
        ({"devices": "2"}, {"device": "slow:0"}, "(slow:0) has 1"),
        ({"devices": "0"}, {}, "setting 'devices' is 0; it must be from 1 to 64"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await create(connection, "m", {"settings": settings, **wanted})
        assert reason_of(raised.value)[0] == "INVALID_FIELD"
        assert message in str(raised.value.details())


async def test_a_lease_has_to_hold_of_both(connection: Connection) -> None:
    """Under a lease an instance spans what that holds: one device is too few, of two it draws what it needs."""
    await create(connection, "m", BOTH, weights_bytes=40 * MIB)
    one = await connection.claim(memory(50 * MIB, "fake:0"))
    call = connection.models.LoadModel(ms.LoadModelRequest(name="m"), metadata=under(one.lease_id))
    assert (await refusal(call))[0] == "INVALID_FIELD"
    both = await connection.claim(memory(45 * MIB, "fake:0"), memory(45 * MIB, "fake:1"))
    instance = await load(connection, "m", under(both.lease_id))
    assert (instance.device, list(instance.devices_beside)) == ("fake:0", ["fake:1"])


async def test_a_killed_rank_ends_the_instance_and_tasks_go_on(connection: Connection) -> None:
    """The end of one rank is that of the instance, named in its log; the task ends in the next instance."""
    await create(connection, "m", BOTH, max_sequences=1, step_s=0.01, context_tokens=10_000)
    instance = await load(connection, "m")
    call = connection.endless(model="m", tokens=400)
    await read_until(call, "output")
    ranks = [child.pid for child in psutil.Process(instance.pid).children() if "pipe" in _output_of(child.pid)]
    assert len(ranks) == 1
    psutil.Process(ranks[0]).kill()
    finished = (await read_until(call, "finished"))[-1].finished
    assert finished.usage.output_tokens == 400
    (living,) = (await connection.models.GetModel(ms.GetModelRequest(name="m"))).model.instances
    assert living.instance_id != instance.instance_id
    assert (living.device, list(living.devices_beside)) == ("fake:0", ["fake:1"])
    said = f"rank 1 of 2 (process {ranks[0]}) was ended by signal 9 (SIGKILL)"
    assert said in _read(instance.log_path)
    assert await held(connection) == {"fake:0": 1, "fake:1": 1}


def _output_of(pid: int) -> str:
    """Where a process writes: a rank to its worker."""
    return str(Path(f"/proc/{pid}/fd/1").readlink())


def _read(path: str) -> str:
    return Path(path).read_text()
