"""What a kernel makes of tasks that the one before it accepted, or saw the end of."""

import asyncio
from pathlib import Path

from connection import read_all, refusal, text_of
from test_kept_tasks import _place, get, kernel, wanted, watch  # noqa: F401 - the fixture gives kernels their stores

from inferd.store.store import Kind
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
        assert end.finished.error.message == "max_tokens is 51; it must be from 1 to 50"


async def test_ended_tasks_are_looked_up_when_somebody_asks(tmp_path: Path) -> None:
    """Of tasks that ended before its start a kernel has no stream until one is asked for; all of them can be read.

    Those that nobody asked for go from the store with their retention as others do, and so do the others.
    """
    async with kernel(tmp_path) as connection:
        await connection.create()
        ids = [(await connection.tasks.CreateTask(wanted(8, request_id=name))).task.task_id for name in "abcd"]
        for task_id in ids:
            await read_all(watch(connection, task_id))
        before = [await get(connection, task_id) for task_id in ids]
    async with kernel(tmp_path) as connection:
        driver = connection.kernel.driver
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
        assert [(task.task_id, task.finished) for task in listed] == [(t.task_id, t.finished) for t in reversed(before)]
        assert not driver.streams._streams
        assert text_of(await read_all(watch(connection, ids[1]))) == "la" * 4
        assert (await connection.tasks.CreateTask(wanted(8, request_id="c"))).task.task_id == ids[2]
        assert sorted(driver.streams._streams) == sorted(ids[1:3])
        assert driver.keeper is not None
        before_bytes = driver.keeper.tasks.room.all_bytes
        assert before_bytes > 4 * 500
    async with kernel(tmp_path, store={"retention_s": 0.0}) as connection:
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        async with asyncio.timeout(60):
            while await keeper.read(lambda store: [*store.records(Kind.TASK)]):  # noqa: ASYNC110 - it is asked again
                await asyncio.sleep(0)
        assert not await keeper.read(lambda store: [*store.records(Kind.PROGRESS)])
        assert keeper.tasks.room.all_bytes == 0
        assert (await refusal(connection.tasks.GetTask(ts.GetTaskRequest(task_id=ids[0]))))[0] == "TASK_NOT_FOUND"
