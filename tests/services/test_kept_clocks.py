"""What is kept while the wall clock is stepped, or the system is started again, between two kernels."""

import json
import time
from functools import partial
from pathlib import Path

import pytest
from connection import Connection, memory, read_until
from google.protobuf.duration_pb2 import Duration
from postgres_server import PostgresServer
from stores import Postgres
from test_kept_tasks import get, kernel, wanted, watch

from inferd.core.ids import TaskId, Tenant
from inferd.runtime import driver as driver_module
from inferd.runtime.clock import Boot, Clock
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

HOUR, TEN_YEARS = 3600.0, 3650 * 86_400.0


def step(patch: pytest.MonkeyPatch, seconds: float, boot: str = "first", *, sure: bool = False) -> None:
    """The kernels that are started from now on have a wall clock that is so far off, and run in this boot.

    It is `sure` where a time service keeps the clock.
    """
    stepped = partial(Clock, wall=lambda: time.time() + seconds, boot=Boot(boot), confirmed=lambda: sure)
    patch.setattr(driver_module, "Clock", stepped)


def left_s(connection: Connection, task_id: str) -> float:
    """How long a task has until it expires, by its kernel."""
    driver = connection.kernel.driver
    expires = driver.views.task(TaskId(task_id), Tenant("default")).expires
    assert expires is not None
    return expires - driver.clock.now()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, TEN_YEARS])
async def test_no_step_of_the_clock_ends_or_prolongs_a_kept_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """In one boot a waiting task has as long as it had, and an ended one can be read as long, however the clock is."""
    step(monkeypatch, 0)
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        ended = (await connection.tasks.CreateTask(wanted(1))).task.task_id
        await read_until(watch(connection, ended), "finished")
        await connection.tasks.CreateTask(wanted(900))
        waits = (await connection.tasks.CreateTask(wanted(900, ttl=Duration(seconds=600)))).task.task_id
        before = left_s(connection, waits)
    step(monkeypatch, seconds)
    async with kernel(tmp_path) as connection:
        assert before - 60 < left_s(connection, waits) <= before
        assert (await get(connection, waits)).state == tp.TASK_STATE_QUEUED
        assert (await get(connection, ended)).state == tp.TASK_STATE_SUCCEEDED


async def test_what_the_wall_clock_told_once_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After another boot a task has what the clock of then leaves it, also for the next kernels of that boot."""
    step(monkeypatch, 0)
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        await connection.tasks.CreateTask(wanted(900))
        waits = (await connection.tasks.CreateTask(wanted(900, ttl=Duration(seconds=600)))).task.task_id
    step(monkeypatch, 400, "second")
    async with kernel(tmp_path) as connection:
        assert 100 < (before := left_s(connection, waits)) <= 200
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        await keeper.settled(TaskId(waits))
    step(monkeypatch, 0, "second")
    async with kernel(tmp_path) as connection:
        assert before - 60 < left_s(connection, waits) <= before
        await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=waits))
    step(monkeypatch, -HOUR, "third")
    async with kernel(tmp_path) as connection:
        assert (await get(connection, waits)).state == tp.TASK_STATE_CANCELLED


async def test_one_boot_with_a_wrong_clock_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is years off takes no result, no deadline and no lease: not in that boot, nor in those after it."""
    step(monkeypatch, 0, "first")
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        ended = (await connection.tasks.CreateTask(wanted(1))).task.task_id
        await read_until(watch(connection, ended), "finished")
        await connection.tasks.CreateTask(wanted(900))
        waits = (await connection.tasks.CreateTask(wanted(900, ttl=Duration(seconds=600)))).task.task_id
        lease = (await connection.claim(memory(1000), ttl=Duration(seconds=300))).lease_id
    for boot, seconds in (("second", TEN_YEARS), ("second", TEN_YEARS), ("third", -TEN_YEARS), ("fourth", 0)):
        step(monkeypatch, seconds, boot)
        async with kernel(tmp_path) as connection:
            assert (await get(connection, ended)).state == tp.TASK_STATE_SUCCEEDED
            assert 500 < left_s(connection, waits) <= 600
            found = (await connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease))).lease
            assert found.state == lp.LEASE_STATE_ACTIVE
            assert 200 < found.remaining.seconds <= 300


@pytest.mark.parametrize("seconds", [700, TEN_YEARS])
async def test_hosts_with_one_store_have_the_time_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, database: str, seconds: float
) -> None:
    """A lease and a deadline go on by it on another host, whose own clock and whose uptime say nothing."""
    (tmp_path / "store.json").write_text(json.dumps(Postgres(postgres, database).settings))
    step(monkeypatch, 0, "host a")
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        await connection.tasks.CreateTask(wanted(900))
        waits = (await connection.tasks.CreateTask(wanted(900, ttl=Duration(seconds=600)))).task.task_id
        lease = (await connection.claim(memory(1000), ttl=Duration(seconds=300))).lease_id
    stepped = partial(Clock, wall=lambda: time.time() + seconds, boot=Boot("host b", time.monotonic() - 9 * HOUR))
    monkeypatch.setattr(driver_module, "Clock", stepped)
    async with kernel(tmp_path) as connection:
        assert 500 < left_s(connection, waits) <= 600
        found = (await connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease))).lease
        assert found.state == lp.LEASE_STATE_ACTIVE
        assert 200 < found.remaining.seconds <= 300
