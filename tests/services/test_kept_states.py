"""What is shown of a kept task while that is being written."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connection import Connection, read_until, refusal
from test_kept_tasks import _place, get, kernel, wanted, watch  # noqa: F401 - a fixture of these tests, too

from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

SUSPENDED, CANCELLED = tp.TASK_STATE_SUSPENDED, tp.TASK_STATE_CANCELLED
GOING = (tp.TASK_STATE_QUEUED, tp.TASK_STATE_RUNNING)


@asynccontextmanager
async def held_up(connection: Connection, call: Any) -> AsyncIterator[None]:
    """The write that a call waits for is under way as long as the block; then the call is answered."""
    keeper = connection.kernel.driver.keeper
    assert keeper is not None
    write, going_on, entered = keeper._store.write, threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(writes: Any) -> None:
        loop.call_soon_threadsafe(entered.set)
        going_on.wait(60)
        write(writes)

    keeper._store.write = slow  # type: ignore[method-assign]
    waiting = asyncio.ensure_future(call)
    try:
        await entered.wait()
        yield
        assert not waiting.done()
    finally:
        keeper._store.write = write  # type: ignore[method-assign]
        going_on.set()
        await waiting


async def listed(connection: Connection, states: Collection[tp.TaskState.ValueType] = ()) -> dict[str, int]:
    """The tasks in some states, none for all, page by page, and their states."""
    found, token = dict[str, int](), ""
    while True:
        answer = await connection.tasks.ListTasks(ts.ListTasksRequest(states=states, page_size=1, page_token=token))
        found |= {task.task_id: task.state for task in answer.tasks}
        if not (token := answer.next_page_token):
            return found


async def test_a_task_is_where_it_is_written(tmp_path: Path) -> None:
    """Until it is written a task is in no list, and one that is suspended, resumed or cancelled is where it was.

    Lists by state agree with what is shown of each, page by page, and who watches the list is told when it is written.
    """
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.01, max_sequences=1)
        other, tasks = connection.another(), connection.tasks
        first = (await tasks.CreateTask(wanted(900))).task.task_id
        await read_until(watch(connection, first), "output")
        async with held_up(connection, tasks.CreateTask(wanted(900, request_id="second"))):
            assert list(await listed(other)) == [first]
        second = (await tasks.CreateTask(wanted(900, request_id="second"))).task.task_id
        assert list(await listed(other)) == [second, first]
        suspend = ts.SuspendTaskRequest(task_id=second)
        updates = other.tasks.WatchTasks(ts.WatchTasksRequest(states=[SUSPENDED]))
        assert not (await updates.read()).tasks
        async with held_up(connection, tasks.SuspendTask(suspend)):
            assert (await get(other, second)).state in GOING
            assert await listed(other, [SUSPENDED]) == {}
            assert list(await listed(other, GOING)) == [second, first]
        assert [task.task_id for task in (await updates.read()).tasks] == [second]
        await stays_suspended(connection, second, tasks.ResumeTask, ts.ResumeTaskRequest(task_id=second), beside=first)
        await tasks.SuspendTask(suspend)
        await stays_suspended(connection, second, tasks.CancelTask, ts.CancelTaskRequest(task_id=second), beside=first)
        assert await listed(other, [SUSPENDED, CANCELLED]) == {second: CANCELLED}


async def stays_suspended(connection: Connection, task_id: str, method: Any, request: Any, *, beside: str) -> None:
    """A suspended task is that while a change of it is being written; another one goes on."""
    other = connection.another()
    async with held_up(connection, method(request)):
        assert (await get(other, task_id)).state == SUSPENDED
        assert await listed(other, [SUSPENDED]) == {task_id: SUSPENDED}
        assert list(await listed(other, [*GOING, CANCELLED])) == [beside]


async def test_a_model_is_gone_when_that_is_written(tmp_path: Path) -> None:
    """A second `DeleteModel` is answered when the first one is: before that the model could come back."""
    async with kernel(tmp_path) as connection:
        await connection.create("one")
        delete = ms.DeleteModelRequest(name="one")
        async with held_up(connection, connection.models.DeleteModel(delete)):
            second = asyncio.ensure_future(connection.another().models.DeleteModel(delete))
            await asyncio.wait([second], timeout=0.5)
            assert not second.done()
        assert (await refusal(second))[0] == "MODEL_NOT_FOUND"
