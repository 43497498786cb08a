"""Leases of what other hosts have, and what is loaded under them: held by the kernel that follows, as it was."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, memory, read_all, read_until, refusal, text_of, under
from far_host import far_host, place, until_state
from google.protobuf.duration_pb2 import Duration
from stores import opened_store
from test_adopted_workers import FAR, kernel, pid_of, started
from test_far_hosts import QUICK, attempts_of

from inferd.core.host import HostState
from inferd.store.store import Drop, Kind
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

MIB = 1 << 20
DEVICE = "b/fake:0"
PATIENT = {**QUICK, "return_s": 60.0}


@asynccontextmanager
async def patient(folder: Path, address: str, **hosts: Any) -> AsyncIterator[Connection]:
    """A kernel that waits long for the hosts of the one before it."""
    async with kernel(folder, address, hosts={**PATIENT, **hosts}) as connection:
        yield connection


async def leased(connection: Connection, **claim: Any) -> lp.Lease:
    """A lease of memory of the host's device, with the model `far` loaded under it."""
    await until_state(connection.kernel, "b", HostState.READY)
    await place(connection, "far", "b", step_s=0.002)
    lease = await connection.claim(memory(64 * MIB, DEVICE), **{"ttl": Duration(seconds=300)} | claim)
    await connection.models.LoadModel(ms.LoadModelRequest(name="far"), metadata=under(lease.lease_id))
    return lease


async def begun(connection: Connection, lease: lp.Lease, tokens: int) -> str:
    """A kept task under the lease that has told something; its id."""
    sampling = sp.SamplingParams(max_tokens=tokens, temperature=0)
    request = ts.CreateTaskRequest(spec=tp.TaskSpec(model="far", prompt="la", sampling=sampling))
    task = (await connection.tasks.CreateTask(request, metadata=under(lease.lease_id))).task
    await read_until(watch(connection, task.task_id), "output")
    return str(task.task_id)


def watch(connection: Connection, task_id: str) -> Any:
    return connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id))


async def get(connection: Connection, lease_id: str) -> lp.Lease:
    return (await connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease_id))).lease


async def test_what_is_loaded_under_a_lease_outlives_its_kernel(tmp_path: Path, address: str) -> None:
    """Twice: the same process, of the same lease and fencing token, computes on, and nobody else has what it holds."""
    async with far_host(tmp_path, address):
        async with patient(tmp_path, address) as first:
            before = await leased(first)
            task_id = await begun(first, before, 900)
            pid = pid_of(first)
        for attempts in ([1, 2], [1, 2, 3]):
            async with patient(tmp_path, address) as after:
                early = after.endless(model="far", tokens=10, metadata=under(before.lease_id))  # no host is there yet
                assert text_of(await read_all(early)) == "la" * 5
                found = await get(after, before.lease_id)
                assert (found.state, found.fencing_token) == (lp.LEASE_STATE_ACTIVE, before.fencing_token)
                assert (pid_of(after), started(after)) == (pid, 0)
                account = after.kernel.driver.views.devices[DEVICE]  # type: ignore[index] # a name
                instance = after.kernel.driver.views.find_instance(FAR)
                assert instance is not None
                assert instance.need is not None
                held = (account.lease_bytes, account.drawn_bytes, account.instance_bytes)
                assert held == (64 * MIB, instance.need.total_bytes, 0)
                if len(attempts) == 3:
                    assert text_of(events := await read_all(watch(after, task_id))) == "la" * 450
                    assert attempts_of(events) == attempts
                    await after.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=before.lease_id))
                else:
                    await read_until(watch(after, task_id), "output")


async def test_a_worker_whose_lease_is_over_is_not_gone_on_with(tmp_path: Path, address: str) -> None:
    """The next kernel knows it no longer: the worker is gone before its host is READY, and nothing is held."""
    async with far_host(tmp_path, address):
        async with patient(tmp_path, address) as first:
            lease = await leased(first)
            pid = pid_of(first)
        with closing(opened_store(tmp_path / "kept/store")) as store:
            (record,) = store.records(Kind.LEASE)
            store.write([Drop(record.tenant, Kind.LEASE, record.key)])
        async with patient(tmp_path, address) as second:
            await until_state(second.kernel, "b", HostState.READY)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
            assert second.kernel.driver.views.find_instance(FAR) is None
            account = second.kernel.driver.views.devices[DEVICE]  # type: ignore[index] # a name
            assert (account.lease_bytes, account.instance_bytes) == (0, 0)
            reason, _ = await refusal(read_all(second.endless(model="far", metadata=under(lease.lease_id))))
            assert reason == "LEASE_NOT_FOUND"


async def test_a_host_that_is_back_without_the_worker_loads_anew_under_the_lease(tmp_path: Path, address: str) -> None:
    """Its agent was started again: what the lease held of it is held, and what was loaded under it is loaded again."""
    async with far_host(tmp_path, address), patient(tmp_path, address) as first:
        lease = await leased(first)
        task_id = await begun(first, lease, 300)
    async with far_host(tmp_path, address), patient(tmp_path, address) as second:
        events = await read_all(watch(second, task_id))
        assert (text_of(events), attempts_of(events)) == ("la" * 150, [1, 2])
        assert started(second) == 1
        assert (await get(second, lease.lease_id)).fencing_token == lease.fencing_token
        instance = second.kernel.driver.views.find_instance(FAR)
        assert instance is not None
        assert instance.lease_id == lease.lease_id


async def test_a_lease_of_a_host_that_is_not_back_in_time_ends(tmp_path: Path, address: str) -> None:
    """With its tasks, and with the name of the host; and one can be released while its host is away."""
    async with far_host(tmp_path, address), patient(tmp_path, address) as first:
        lost = await leased(first)
        task_id = await begun(first, lost, 900)
        given = await first.claim(memory(MIB, DEVICE), ttl=Duration(seconds=300))
    async with patient(tmp_path, address, return_s=0.5) as second:
        await second.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=given.lease_id))
        told = await second.until(lost.lease_id, lp.LEASE_STATE_EXPIRED)
        assert "host 'b', of which it held a part, is not back in time" in told[-1].error.message
        (*_, last) = await read_all(watch(second, task_id))
        assert last.finished.state == tp.TASK_STATE_CANCELLED
