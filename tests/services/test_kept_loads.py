"""Workers of other hosts that still load when their kernel ends: the next one waits for what they load."""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from connection import Connection, read_all, read_until, text_of
from far_host import DEADLINE_S, far_host, place, until_state
from test_adopted_workers import FAR, kernel, pid_of, started

from inferd.core.host import HostState
from inferd.core.model import InstanceState
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


async def queued(connection: Connection, tokens: int) -> str:
    """A kept task of the model `far`, which is loaded for it; its id."""
    sampling = sp.SamplingParams(max_tokens=tokens, temperature=0)
    request = ts.CreateTaskRequest(spec=tp.TaskSpec(model="far", prompt="la", sampling=sampling))
    return str((await connection.tasks.CreateTask(request)).task.task_id)


def is_stopped(pid: int) -> bool:
    """Whether a process has stopped itself in the middle of its load."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not met():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def until_loading(connection: Connection) -> None:
    """Wait until the instance is let load."""
    changes = connection.kernel.driver.watchers.models
    with changes.watch("far") as changed:  # type: ignore[arg-type] # a name
        while True:
            seen = changed.version
            instance = connection.kernel.driver.views.find_instance(FAR)
            if instance is not None and instance.state is InstanceState.LOADING:
                return
            await changed.wait(seen)


async def test_a_load_goes_on_while_there_is_no_kernel(tmp_path: Path, address: str) -> None:
    """It is in the middle when its kernel ends; the next one starts no other worker, and its task has what it gives."""
    async with far_host(tmp_path, address):
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", hang_at="load")
            task_id = await queued(first, 10)
            await until_loading(first)
            pid = pid_of(first)
            await until(partial(is_stopped, pid))
        async with kernel(tmp_path, address) as second:
            await until_state(second.kernel, "b", HostState.READY)
            instance = second.kernel.driver.views.find_instance(FAR)
            assert instance is not None
            assert instance.state is InstanceState.LOADING
            assert instance.device_reason == "it was being loaded there, and its host has kept it"
            account = second.kernel.driver.views.devices[instance.device_id]
            assert account.instance_bytes == (instance.need.total_bytes if instance.need else 0) > 0
            os.kill(pid, signal.SIGCONT)
            assert text_of(await read_all(second.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))) == "la" * 5
            assert (pid_of(second), started(second)) == (pid, 0)


async def test_a_load_that_ends_while_there_is_no_kernel_is_what_the_next_one_has(tmp_path: Path, address: str) -> None:
    """The model is loaded when the next kernel comes, though the one that had asked for it has never heard so."""
    async with far_host(tmp_path, address) as host:
        async with kernel(tmp_path, address) as first:
            await until_state(first.kernel, "b", HostState.READY)
            await place(first, "far", "b", hang_at="load")
            await queued(first, 10)
            await until_loading(first)
            pid = pid_of(first)
            await until(partial(is_stopped, pid))
        os.kill(pid, signal.SIGCONT)
        (worker,) = host.agent.hosted.values() or host.agent._kept
        await until(lambda: worker._ledger.is_loaded)
        async with kernel(tmp_path, address) as second:
            await until_state(second.kernel, "b", HostState.READY)
            events = await read_until(second.endless(model="far", tokens=10), "output")
            assert text_of(events)
            assert (pid_of(second), started(second)) == (pid, 0)
