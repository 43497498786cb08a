"""Workers of other hosts that outlive their kernel: the next one goes on with them, as they are, without a load."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, read_all, read_until, text_of
from far_host import FarHost, far_host, place, until_state
from proxy import proxy_to
from test_far_hosts import QUICK, attempts_of

from inferd.core.host import HostState
from inferd.core.ids import HostId, InstanceId
from inferd.core.model import InstanceState
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

FAR = InstanceId("far-1")


@asynccontextmanager
async def kernel(folder: Path, address: str, **settings: Any) -> AsyncIterator[Connection]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    store = {"url": f"sqlite:{folder}/kept/store", "output_interval_s": 0.0}
    chosen = {"hosts": QUICK, "store": store, "listen": (address,), **settings}
    async with kernel_here(folder, **chosen) as made:
        connection = Connection(made, folder)
        yield connection
        await connection.channel.close()


async def begun(connection: Connection, tokens: int) -> str:
    """A kept task of the model `far` that has told something; its id."""
    sampling = sp.SamplingParams(max_tokens=tokens, temperature=0)
    request = ts.CreateTaskRequest(spec=tp.TaskSpec(model="far", prompt="la", sampling=sampling))
    task_id: str = (await connection.tasks.CreateTask(request)).task.task_id
    await read_until(connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)), "output")
    return task_id


def pid_of(connection: Connection, instance_id: str = FAR) -> int:
    return connection.kernel.driver.supervisor.workers[InstanceId(instance_id)].pid


def started(connection: Connection) -> int:
    """How many workers of the model this kernel has started."""
    page = connection.kernel.driver.metrics.registry.page().decode()
    counted = [line for line in page.splitlines() if line.startswith('inferd_workers_started_total{model="far"}')]
    return int(float(counted[0].rpartition(" ")[2])) if counted else 0


async def until_ready(connection: Connection, name: str, instance_id: str) -> None:
    """Wait until an instance takes tasks."""
    driver = connection.kernel.driver
    with driver.watchers.models.watch(name) as changed:  # type: ignore[arg-type] # a name
        while True:
            instance = driver.views.find_instance(InstanceId(instance_id))
            if instance is not None and instance.state is InstanceState.READY:
                return
            await changed.wait(changed.version)


async def test_a_kernel_that_follows_goes_on_with_workers_as_they_are(tmp_path: Path, address: str) -> None:
    """The same process serves on under the same name, nothing is loaded, and a stream that was cut is whole."""
    async with far_host(tmp_path, address) as host:
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", step_s=0.002)
            task_id = await begun(first, 900)
            pid = pid_of(first)
        async with kernel(tmp_path, address) as second:
            early = second.endless(model="far", tokens=10)  # before any host is there
            assert text_of(await read_all(early)) == "la" * 5
            events = await read_all(second.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))
            assert text_of(events) == "la" * 450
            assert attempts_of(events) == [1, 2]
            assert pid_of(second) == pid
            assert started(second) == 0
            account = second.kernel.driver.views.devices["b/fake:0"]  # type: ignore[index] # a name
            (instance,) = second.kernel.driver.machine.fleet.instances.values()
            assert instance.need is not None
            assert account.instance_bytes == instance.need.total_bytes > 0
            assert instance.device_reason == "it was loaded there already, and its host has kept it"
            assert sum(each.startswith("anew") for each in host.heard.told) == 2


async def test_what_is_not_what_would_be_loaded_ends_before_its_host_is_ready(tmp_path: Path, address: str) -> None:
    """A worker of other files is not gone on with: it is gone when its host takes workers, and another one loads."""
    async with far_host(tmp_path, address) as host:
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", step_s=0.002)
            task_id = await begun(first, 300)
            pid = pid_of(first)
        (tmp_path / "far.fake").write_text('{"step_s": 0.001}')
        async with kernel(tmp_path, address) as second:
            await until_state(second.kernel, "b", HostState.READY)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            assert not host.agent._kept
            events = await read_all(second.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))
            assert text_of(events) == "la" * 150
            assert started(second) == 1


async def test_a_host_that_is_back_has_its_workers_still(tmp_path: Path, address: str) -> None:
    """One that was lost for a while goes on with what it has loaded: its task waited, and is whole; so is its log."""
    async with kernel(tmp_path, address) as connection, proxy_to(address) as proxy:  # noqa: SIM117 - in this order
        async with far_host(tmp_path, proxy.address) as host:
            await until_state(connection.kernel, "b", HostState.READY)
            call = connection.endless(model=await place(connection, "far", "b", step_s=0.002), tokens=900)
            events = await read_until(call, "output")
            pid = pid_of(connection)
            proxy.stop()
            await until_state(connection.kernel, "b", HostState.LOST)
            proxy.go_on()
            events += await read_all(call)
            assert text_of(events) == "la" * 450
            assert attempts_of(events) == [1, 2]
            assert pid_of(connection, "far-2") == pid
            assert started(connection) == 1
            (log,) = (tmp_path / "b" / "state" / "workers").glob("*.log")
            log.write_text("what it says")
            launcher = connection.kernel.driver.supervisor.launchers[HostId("b")]
            assert await launcher.read_log(InstanceId("far-2"), -4, 50) == (b"says", 12)
            assert connection.kernel.driver.supervisor.workers[InstanceId("far-2")].log_path == f"b:{log}"
            await end(host, connection)


async def end(host: FarHost, connection: Connection) -> None:
    host.ends.set()
    await until_state(connection.kernel, "b", HostState.LOST)


async def test_a_worker_that_died_while_nobody_was_there_is_loaded_anew(tmp_path: Path, address: str) -> None:
    """What has ended meanwhile is no instance, and no load that failed: its task goes on with a new one."""
    async with far_host(tmp_path, address) as host:
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", step_s=0.002)
            task_id = await begun(first, 300)
            pid = pid_of(first)
        os.kill(pid, 9)
        worker = host.agent.hosted[1]._worker
        assert worker is not None
        await worker._process.wait()
        async with kernel(tmp_path, address) as second:
            events = await read_all(second.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))
            assert text_of(events) == "la" * 150
            assert (started(second), second.kernel.driver.views.model("far").failures) == (1, 0)  # type: ignore[arg-type]
