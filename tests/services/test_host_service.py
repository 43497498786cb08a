import asyncio
import os
from collections.abc import Collection
from pathlib import Path

import pytest
from connection import Connection, read_failing, read_until, reason_of
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from inferd.runtime.gauges import HostGauge, Reading
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import priority_pb2 as pp
from inferd_client import AsyncClient

pytestmark = pytest.mark.usefixtures("_cpu_backend")


async def test_the_host_says_what_it_is(connection: Connection) -> None:
    """The host names its devices with their memory and cores, its version and what it does."""
    host = (await connection.hosts.GetHost(hs.GetHostRequest())).host
    assert host.pid == os.getpid()
    assert host.memory_bytes > 1 << 20
    devices = {d.device_id: d for d in host.devices}
    assert devices["cpu:0"].memory_bytes > 1 << 28
    assert devices["cpu:0"].cores >= 1


async def test_the_host_is_watched(connection: Connection) -> None:
    """A watcher is told at once and again: instances, accounts of devices, and who has tasks waiting and running."""
    await connection.create(step_s=0.02)
    task = connection.endless(metadata=(("inferd-tenant", "blue"),), priority=pp.PRIORITY_LOW)
    await read_until(task, "output")
    interval = Duration(nanos=100_000_000)
    watch = aiter(connection.hosts.WatchHost(hs.WatchHostRequest(interval=interval)))
    first, second = await anext(watch), await anext(watch)
    (instance,) = first.instances
    assert (instance.model, instance.running_tasks) == ("fake", 1)
    device = next(d for d in first.host.devices if d.device_id == "fake:0")
    assert device.capacity_bytes == device.free_bytes + device.instance_bytes
    assert device.instance_bytes == instance.reserved_bytes > 1 << 20
    (load,) = first.host.loads
    assert (load.tenant, load.priority, load.queued_tasks, load.running_tasks) == ("blue", pp.PRIORITY_LOW, 0, 1)
    assert second.host.tokens_per_second > 0
    task.cancel()


async def test_a_watcher_of_the_host_hears_at_once_of_instances(connection: Connection) -> None:
    """An instance that is started, loads and goes is told when that happens, and not at the end of the interval."""
    async with asyncio.timeout(60):
        await connection.create()
        watch = aiter(connection.hosts.WatchHost(hs.WatchHostRequest(interval=Duration(seconds=60))))
        assert not (await anext(watch)).instances
        await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))
        while not any(i.state == mp.INSTANCE_STATE_READY for i in (await anext(watch)).instances):
            pass
        await connection.models.UnloadModel(ms.UnloadModelRequest(name="fake"))
        while (await anext(watch)).instances:
            pass


@pytest.mark.parametrize("seconds", [0, 61])
async def test_an_interval_out_of_bounds_is_refused(connection: Connection, seconds: int) -> None:
    """A watcher that wants to be told too often or too seldom is refused with the bounds."""
    watch = connection.hosts.WatchHost(hs.WatchHostRequest(interval=Duration(seconds=seconds)))
    _, error = await read_failing(watch)
    assert reason_of(error)[0] == "INVALID_FIELD"
    assert "from 0.1 s to 60 s" in str(error.details())


async def test_backends_are_listed_with_their_settings(connection: Connection) -> None:
    """Each plugin is listed with its state, its formats and the settings that it understands."""
    backends = {b.name: b for b in (await connection.hosts.ListBackends(hs.ListBackendsRequest())).backends}
    assert backends["fake"].state == backends["cpu"].state == hp.BACKEND_STATE_READY
    assert list(backends["cpu"].formats) == ["gguf", "hf"]
    assert "context_tokens" in {s.name for s in backends["cpu"].settings}


async def test_reflection_names_every_service(connection: Connection) -> None:
    """A client that has no protos can ask which services there are."""
    stub = reflection_pb2_grpc.ServerReflectionStub(connection.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {s.name async for answer in call for s in answer.list_services_response.service}
    assert names >= {
        "inferd.v1.TaskService",
        "inferd.v1.ModelService",
        "inferd.v1.HostService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_a_device_that_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose memory cannot be read any more says why, and no longer when it can be."""
    broken = asyncio.Event()
    read = HostGauge.read

    def fail(gauge: HostGauge, pids: Collection[int]) -> Reading:
        if broken.is_set():
            raise OSError("no such file: meminfo")
        return read(gauge, pids)

    monkeypatch.setattr(HostGauge, "read", fail)
    async with asyncio.timeout(60), kernel_here(tmp_path, devices={"measure_s": 0.01}) as kernel:
        connection = Connection(kernel, tmp_path)
        told = [""]
        async for seen in connection.hosts.WatchHost(hs.WatchHostRequest(interval=Duration(nanos=10**8))):
            why = next(device.unmeasured for device in seen.host.devices if device.device_id == "cpu:0")
            if why != told[-1]:
                told.append(why)
            if len(told) == 3:
                break
            (broken.clear if why else broken.set)()
        assert told == ["", "OSError: no such file: meminfo", ""]
        await connection.channel.close()


async def test_what_strangers_take_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others take of the host's memory after the start is not there to be given, until they give it back."""
    gib = 1 << 30
    free_bytes = [12 * gib]
    read = HostGauge.read

    def replay(gauge: HostGauge, pids: Collection[int]) -> Reading:
        """As if nobody but this test and the kernel itself took anything of 16 GiB."""
        held_bytes = read(gauge, pids).held_bytes or 0
        return Reading(total_bytes=16 * gib, free_bytes=free_bytes[0] - held_bytes, held_bytes=held_bytes)

    monkeypatch.setattr(HostGauge, "read", replay)
    async with asyncio.timeout(60), kernel_here(tmp_path, devices={"measure_s": 0.01}) as kernel:
        connection = Connection(kernel, tmp_path)
        before = next(d for d in (await connection.hosts.GetHost(hs.GetHostRequest())).host.devices)
        assert before.foreign_bytes == 0
        expected = [0, gib, 3 * gib, 0]
        async for seen in connection.hosts.WatchHost(hs.WatchHostRequest(interval=Duration(nanos=10**8))):
            device = next(device for device in seen.host.devices if device.device_id == "cpu:0")
            if device.foreign_bytes != expected[0]:
                continue  # not yet measured
            assert device.free_bytes == before.free_bytes - expected.pop(0)
            if not expected:
                break
            free_bytes[0] = 12 * gib - expected[0]
        await connection.channel.close()


async def test_the_client_tells_a_service_that_the_kernel_lacks(connection: Connection) -> None:
    """A kernel that keeps nothing has no health of a store, and says so with a reason; to a client it is an answer."""
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        assert await client.health("store") == "SERVICE_UNKNOWN"
