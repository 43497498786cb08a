"""Classes of tasks, tasks that are suspended, and how many streams a tenant may have."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from connection import Connection, kinds_of, read_all, read_failing, read_until, reason_of, refusal, text_of

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel with the FakeBackend, where a tenant may have two streams."""
    async with kernel_here(tmp_path, scheduler={"tenant_streams": 2}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


async def test_a_task_is_suspended_and_goes_on_where_it_stopped(connection: Connection) -> None:
    """A suspended task gives its place to the next one; resumed, its text goes on without a gap or a repeat."""
    await connection.create(max_sequences=1, step_s=0.02)
    call = connection.endless(tokens=100)
    events = await read_until(call, "output")
    task_id = events[0].task_id
    suspended = (await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))).task
    assert suspended.state == tp.TASK_STATE_SUSPENDED
    events += await read_until(call, "suspended")
    assert events[-1].suspended.by_client
    again = (await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))).task
    assert again.state == tp.TASK_STATE_SUSPENDED
    assert text_of(await read_all(connection.chat("between"))) == "between"
    await connection.tasks.ResumeTask(ts.ResumeTaskRequest(task_id=task_id))
    events += await read_all(call)
    assert text_of(events) == "la" * 50
    assert [e for e in events if e.WhichOneof("kind") == "resumed"][-1].resumed.instance_id
    assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED


async def test_what_has_ended_is_neither_suspended_nor_resumed(connection: Connection) -> None:
    """Either call on a task that has ended is TASK_STATE with its state; on one that is unknown TASK_NOT_FOUND."""
    await connection.create()
    task_id = (await read_all(connection.chat("x")))[0].task_id
    tasks = connection.tasks
    ended = ("TASK_STATE", {"state": "SUCCEEDED"})
    assert await refusal(tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))) == ended
    assert await refusal(tasks.ResumeTask(ts.ResumeTaskRequest(task_id=task_id))) == ended
    assert (await refusal(tasks.SuspendTask(ts.SuspendTaskRequest(task_id="no"))))[0] == "TASK_NOT_FOUND"
    assert (await refusal(tasks.ResumeTask(ts.ResumeTaskRequest(task_id="no"))))[0] == "TASK_NOT_FOUND"


async def test_a_suspended_task_can_be_cancelled(connection: Connection) -> None:
    """Cancelling ends a suspended task with what it had written."""
    await connection.create(step_s=0.02)
    call = connection.endless()
    task_id = (await read_until(call, "output"))[0].task_id
    await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))
    await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id))
    events, _ = await read_failing(call)
    assert events[-1].finished.state == tp.TASK_STATE_CANCELLED
    assert events[-1].finished.usage.output_tokens > 0


async def test_a_high_task_takes_the_place_of_a_low_one(connection: Connection) -> None:
    """On a full instance a task of class high starts at once; the low one is told, and goes on to its whole text."""
    await connection.create(max_sequences=1, step_s=0.02)
    low = connection.endless(tokens=100, priority=pp.PRIORITY_LOW)
    events = await read_until(low, "output")
    task = (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=events[0].task_id))).task
    assert (task.priority, task.lease_id) == (pp.PRIORITY_LOW, "")
    high = await read_all(connection.another().endless(tokens=20, priority=pp.PRIORITY_HIGH))
    assert text_of(high) == "la" * 10
    events += await read_all(low)
    assert "suspended" in kinds_of(events)
    assert not next(e for e in events if e.WhichOneof("kind") == "suspended").suspended.by_client
    assert text_of(events) == "la" * 50


async def test_an_unknown_class_is_refused(connection: Connection) -> None:
    """A class that does not exist is INVALID_FIELD, with those that do."""
    await connection.create()
    _, error = await read_failing(connection.endless(priority=7))
    assert reason_of(error)[0] == "INVALID_FIELD"
    assert "3 (HIGH)" in str(error.details())


async def test_the_streams_of_a_tenant_are_bounded(connection: Connection) -> None:
    """One stream more than a tenant may have is LIMIT_EXCEEDED and starts nothing; another tenant has its own."""
    await connection.create(step_s=0.02)
    first = connection.endless()
    task_id = (await read_until(first, "output"))[0].task_id
    second = connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id))
    await read_until(second, "output")
    _, error = await read_failing(connection.chat("x"))
    facts = {"bound": "scheduler.tenant_streams", "value": "2", "limit": "2", "model": "fake"}
    assert reason_of(error) == ("LIMIT_EXCEEDED", facts)
    _, error = await read_failing(connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id)))
    assert reason_of(error)[0] == "LIMIT_EXCEEDED"
    assert len((await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks) == 1
    other = await read_all(connection.chat("other", metadata=(("inferd-tenant", "other"),)))
    assert text_of(other) == "other"
    first.cancel()
