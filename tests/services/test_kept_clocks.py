"""What is kept while the wall clock is stepped, or the system is started again, between two kernels."""

import time
from functools import partial
from pathlib import Path

import pytest
from connection import Connection, read_until
from google.protobuf.duration_pb2 import Duration
from test_kept_tasks import get, kernel, wanted, watch

from inferd.core.ids import TaskId, Tenant
from inferd.runtime import driver as driver_module
from inferd.runtime.clock import Boot, Clock
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

HOUR, TEN_YEARS = 3600.0, 3650 * 86_400.0


def step(patch: pytest.MonkeyPatch, seconds: float, boot: str = "first") -> None:
    """The kernels that are started from now on have a wall clock that is so far off, and run in this boot."""
    stepped = partial(Clock, wall=lambda: time.time() + seconds, boot=Boot(boot))
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
