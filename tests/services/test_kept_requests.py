"""Requests that are repeated after what they asked for has passed."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, memory, read_all, refusal, under
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from proxy import Proxy, proxy_to
from test_kept_tasks import _place, kernel, wanted, watch  # noqa: F401 - a fixture of these tests, too

from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_client import AsyncClient, Client
from inferd_client.errors import KernelUnreachableError, ModelNotFoundError

Asked = dict[str, tuple[ts.CreateTaskRequest, Any]]


async def test_a_request_finds_its_task_whatever_has_passed(tmp_path: Path) -> None:
    """Its expiration may have come and its lease have ended, here and in the next kernel; another expiration conflicts.

    The same, asked for the first time, is refused.
    """
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.02)
        at = Timestamp()
        at.FromNanoseconds(time.time_ns() + 500_000_000)
        timed = wanted(900, request_id="timed", expire_time=at)
        first = (await connection.tasks.CreateTask(timed)).task.task_id
        assert (await read_all(watch(connection, first)))[-1].finished.state == tp.TASK_STATE_EXPIRED
        lease_id, leased = await lease_of_model(connection), wanted(3, request_id="leased")
        second = (await connection.tasks.CreateTask(leased, metadata=under(lease_id))).task.task_id
        await read_all(watch(connection, second))
        await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease_id))
        asked: Asked = {first: (timed, ()), second: (leased, under(lease_id))}
        await check_repeats(connection, asked)
        for request, metadata, reason in (
            (wanted(900, request_id="other", expire_time=at), (), "INVALID_FIELD"),
            (wanted(900, request_id="timed", ttl=Duration(seconds=9)), (), "REQUEST_CONFLICT"),
            (wanted(900, request_id="timed"), (), "REQUEST_CONFLICT"),
            (wanted(3, request_id="other"), under(lease_id), "LEASE_ENDED"),
        ):
            assert (await refusal(connection.tasks.CreateTask(request, metadata=metadata)))[0] == reason
        run = ts.RunTaskRequest(spec=leased.spec, request_id="leased")
        again = await read_all(connection.tasks.RunTask(run, metadata=under(lease_id)))
        assert {event.task_id for event in again} == {second}
    async with kernel(tmp_path) as connection:
        await check_repeats(connection, asked)


async def lease_of_model(connection: Connection) -> str:
    """A lease that holds memory, under which the model is loaded."""
    spec = lp.LeaseSpec(claims=[memory(64 << 20, "fake:0"), memory(64 << 20)], ttl=Duration(seconds=60))
    lease_id: str = (await connection.leases.CreateLease(ls.CreateLeaseRequest(spec=spec))).lease.lease_id
    await connection.models.LoadModel(ms.LoadModelRequest(name="fake"), metadata=under(lease_id))
    return lease_id


async def check_repeats(connection: Connection, asked: Asked) -> None:
    """Each request, with its metadata, finds its task."""
    for task_id, (request, metadata) in asked.items():
        assert (await connection.tasks.CreateTask(request, metadata=metadata)).task.task_id == task_id


@pytest.mark.parametrize("waits", [True, False], ids=["async", "sync"])
async def test_a_creation_whose_answer_is_lost_is_asked_for_again(tmp_path: Path, *, waits: bool) -> None:
    """A connection that breaks when the task is kept leaves one task, which the client gets by itself."""
    async with kernel(tmp_path) as connection, proxy_to(connection.kernel.addresses[0]) as proxy:
        await connection.create()
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write, loop, breaks = keeper._store.write, asyncio.get_running_loop(), [1]

        def lossy(writes: Any) -> None:
            write(writes)
            if breaks:
                breaks.pop()
                asyncio.run_coroutine_threadsafe(broken(proxy), loop).result(20)

        keeper._store.write = lossy  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            if waits:
                async with AsyncClient(proxy.address) as client:
                    task = await client.create_task("fake", "la", max_tokens=3)
            else:
                with Client(proxy.address) as other:
                    task = await asyncio.to_thread(other.create_task, "fake", "la", max_tokens=3)
        assert not breaks
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
        assert [each.task_id for each in listed] == [task.task_id]


async def broken(proxy: Proxy) -> None:
    proxy.abort()


async def test_a_creation_that_is_given_up_tells_its_request_id(tmp_path: Path) -> None:
    """An error of `create_task` has the id with which it is asked for again; where no kernel is it comes at once."""
    async with kernel(tmp_path) as connection, AsyncClient(connection.kernel.addresses[0]) as client:
        with pytest.raises(ModelNotFoundError) as caught:
            await client.create_task("other", "la")
        request_id = caught.value.metadata["request_id"]
        await connection.create("other")
        task = await client.create_task("other", "la", max_tokens=3, request_id=request_id)
        again = await client.create_task("other", "la", max_tokens=3, request_id=request_id)
        assert task.task_id == again.task_id
    async with AsyncClient("unix:" + str(tmp_path / "nobody")) as client:
        with pytest.raises(KernelUnreachableError) as gone:
            await client.create_task("other", "la", request_id="mine")
        assert gone.value.metadata["request_id"] == "mine"
