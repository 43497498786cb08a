"""What a kernel makes of tasks that the one before it accepted, or saw the end of."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from connection import read_all, refusal, text_of
from test_kept_tasks import _place, get, kernel, wanted, watch  # noqa: F401 - the fixture gives kernels their stores

from inferd.core.ids import DEFAULT_TENANT, TaskId
from inferd.errors import present
from inferd.runtime.driver import Driver
from inferd.store.store import Kind
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


async def test_a_lower_bound_is_for_new_tasks(tmp_path: Path) -> None:
    """A kept task has the output that its kernel allowed it, with a next one that allows less; a new one is refused."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.002)
        ids = [(await connection.tasks.CreateTask(wanted(100))).task.task_id for _ in range(2)]
    async with kernel(tmp_path, limits={"max_output_tokens": 50}) as connection:
        for task_id in ids:
            assert text_of(await read_all(watch(connection, task_id))) == "la" * 50
        (end,) = (await read_all(watch(connection, (await connection.tasks.CreateTask(wanted(51))).task.task_id)))[-1:]
        assert end.finished.error.message == "max_tokens is 51; it must be from 0 to 50"


def said(*tasks: tp.Task) -> list[tp.Task]:
    """What is said of tasks, but for instants, which are told by another clock."""
    said = [tp.Task.FromString(task.SerializeToString()) for task in tasks]
    for each in said:
        for name in ("create_time", "start_time", "finish_time", "expire_time"):
            each.ClearField(name)  # type: ignore[arg-type] # these are fields
    return said


async def leave_early(driver: Driver, ids: list[TaskId], monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks for tasks that another asks for, too, who goes before they could be read for him."""
    read, reading = present(driver.keeper).read, asyncio.Event()

    async def hang(_: Any) -> Any:
        reading.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(driver.keeper, "read", hang)
        leaves = asyncio.create_task(driver.archive.recall(DEFAULT_TENANT, ids))
        await reading.wait()
        patch.setattr(driver.keeper, "read", read)
        await driver.archive.recall(DEFAULT_TENANT, ids)
        await asyncio.sleep(0)
        assert len(driver.streams._streams) == len(ids), "he waits for them"
    leaves.cancel()
    await asyncio.wait([leaves])
    await asyncio.sleep(0)


async def test_ended_tasks_are_read_when_somebody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tasks that ended before its start a kernel holds no record until one is asked for, and then a bounded number.

    All of them can be read, listed and watched, again and again; what is asked of them is answered as of others. Those
    that nobody asked for go from the store with their retention as others do, and so do the others.
    """
    async with kernel(tmp_path) as connection:
        await connection.create()
        ids = [(await connection.tasks.CreateTask(wanted(8, request_id=name))).task.task_id for name in "abcd"]
        for task_id in ids:
            await read_all(watch(connection, task_id))
        before = [await get(connection, task_id) for task_id in ids]
    async with kernel(tmp_path, store={"held_tasks": 2}) as connection:
        driver, known = connection.kernel.driver, connection.kernel.driver.machine.tasks.known
        assert (dict(known), driver.streams._streams) == ({}, {})
        watched = connection.tasks.WatchTasks(ts.WatchTasksRequest())
        assert said(*(await watched.read()).tasks) == said(*before[::-1])  # else it may still ask for all of them
        for _ in range(2):
            listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
            assert said(*listed) == said(*before[::-1])
            assert len(known) == len(driver.streams._streams) == 2
        page = await connection.tasks.ListTasks(ts.ListTasksRequest(page_size=3, states=[before[0].state]))
        rest = ts.ListTasksRequest(page_size=3, states=[before[0].state], page_token=page.next_page_token)
        assert said(*page.tasks, *(await connection.tasks.ListTasks(rest)).tasks) == said(*before[::-1])
        assert text_of(await read_all(watch(connection, ids[1]))) == "la" * 4
        for name, task in zip("cbad", (before[2], before[1], before[0], before[3]), strict=True):
            assert (await connection.tasks.CreateTask(wanted(8, request_id=name))).task.task_id == task.task_id
            assert (await refusal(connection.tasks.CreateTask(wanted(9, request_id=name))))[0] == "REQUEST_CONFLICT"
            cancelled = (await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task.task_id))).task
            assert said(cancelled) == said(task)
            suspended = connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task.task_id))
            assert (await refusal(suspended))[0] == "TASK_STATE"
        assert len(known) == len(driver.streams._streams) == 2
        assert driver.keeper is not None
        await leave_early(driver, [TaskId(each) for each in ids], monkeypatch)
        assert len(known) == len(driver.streams._streams) == 2
        assert driver.keeper.tasks.room.all_bytes > 4 * 500
        (newer,) = [(await connection.tasks.CreateTask(wanted(2, request_id="e"))).task.task_id]
        await read_all(watch(connection, newer))
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
        assert [task.task_id for task in listed] == [newer, *ids[::-1]]
    async with kernel(tmp_path, store={"retention_s": 0.0}) as connection:
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        async with asyncio.timeout(60):
            while await keeper.read(lambda store: [*store.records(Kind.TASK)]):  # noqa: ASYNC110 - it is asked again
                await asyncio.sleep(0)
        assert not await keeper.read(lambda store: [*store.records(Kind.PROGRESS)])
        assert keeper.tasks.room.all_bytes == 0
        assert (await refusal(connection.tasks.GetTask(ts.GetTaskRequest(task_id=ids[0]))))[0] == "TASK_NOT_FOUND"
