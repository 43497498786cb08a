"""What is kept of tasks when nobody knows whether a write was done, and when a part of it is lost."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, read_failing, read_until, reason_of, refusal, text_of, until_written
from stores import Stores
from test_kept_tasks import _place, kernel, wanted, watch  # noqa: F401 - a fixture of these tests, too

from inferd.core.ids import DEFAULT_TENANT, TaskId
from inferd.core.task import TaskState
from inferd.core.task_events import Output
from inferd.errors import StoreUnavailableError
from inferd.store.store import Kind
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


def lose(connection: Connection, every: int) -> None:
    """Each so many writes count as failed though they were done."""
    keeper = connection.kernel.driver.keeper
    assert keeper is not None
    write, count = keeper._store.write, 0

    def lossy(writes: Any) -> None:
        nonlocal count
        write(writes)
        count += 1
        if count % every == 0:
            raise StoreUnavailableError("nobody knows", metadata={"outcome": "unknown"})

    keeper._store.write = lossy  # type: ignore[method-assign]


async def read_text(call: Any, characters: int) -> list[Any]:
    """The events up to so many characters of output."""
    events: list[Any] = []
    async for response in call:
        events.append(response.event)
        if len(text_of(events)) >= characters:
            break
    return events


@pytest.mark.parametrize("ends", [True, False], ids=["with its end", "before its end"])
async def test_a_write_that_was_done_though_it_failed_is_there_once(
    tmp_path: Path, stores: Stores, *, ends: bool
) -> None:
    """What follows on a write of which nobody knows doubles nothing: clients get each token once, and so do tasks."""
    limits = {"stream_bytes": 4096, "retained_bytes": 4096}
    async with kernel(tmp_path, limits=limits) as connection:
        await connection.create(step_s=0.002)
        task_id = (await connection.tasks.CreateTask(wanted(200))).task.task_id
        call = watch(connection, task_id)
        seen = await read_until(call, "output")
        lose(connection, every=3)
        seen += await read_all(call) if ends else await read_text(call, 100)
        if ends:
            assert text_of(seen) == "la" * 100
            assert text_of(await read_all(watch(connection, task_id))) == "la" * 100
    async with kernel(tmp_path, limits=limits) as connection:
        rest = await read_all(watch(connection, task_id, seen[-1].sequence))
        assert text_of([*seen, *rest]) == "la" * 100
        again = await read_all(watch(connection, task_id))
        assert text_of(again) == "la" * 100
        assert again[-1].finished.usage.output_tokens == 200
    with closing(stores.open()) as store:
        assert store.check() == []


def break_off(connection: Connection) -> Callable[[], None]:
    """Nothing can be written until the call of what this gives."""
    keeper = connection.kernel.driver.keeper
    assert keeper is not None
    write = keeper._store.write

    def refuse(_: Any) -> None:
        raise StoreUnavailableError("no room", metadata={"cause": "a test"})

    def mend() -> None:
        keeper._store.write = write  # type: ignore[method-assign]

    keeper._store.write = refuse  # type: ignore[method-assign]
    return mend


async def test_a_task_that_tells_more_than_is_held_waits_for_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written what is held back is bounded: the task stops by itself and goes on by itself."""
    async with kernel(tmp_path, limits={"stream_bytes": 4096}) as connection:
        await connection.create(step_s=0.005)
        task_id = (await connection.tasks.CreateTask(wanted(500))).task.task_id
        call = watch(connection, task_id)
        seen = await read_until(call, "output")
        driver = connection.kernel.driver
        assert driver.keeper is not None
        suspend, stopped = driver.suspend, asyncio.Event()
        monkeypatch.setattr(driver, "suspend", lambda *of: (suspend(*of), stopped.set()))
        mend = break_off(connection)
        async with asyncio.timeout(60):
            await stopped.wait()
        (kept,) = driver.keeper.tasks._known.values()
        assert kept.task.state is TaskState.SUSPENDED
        assert 4096 < kept.held_bytes < 1 << 16
        mend()
        seen += await read_all(call)
        assert text_of(seen) == "la" * 250
        reasons = {event.suspended.reason for event in seen if event.HasField("suspended")}
        assert reasons == {tp.SUSPEND_REASON_STORE}


async def test_what_cannot_be_kept_is_not_done(tmp_path: Path) -> None:
    """While nothing can be written a kept task is not suspended, resumed and cancelled: that is refused before."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.01, max_sequences=2)
        ids = [(await connection.tasks.CreateTask(wanted(900))).task.task_id for _ in range(2)]
        running, suspended = ids
        await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=suspended))
        call = watch(connection, running)
        await read_until(call, "output")
        mend = break_off(connection)
        with pytest.raises(grpc.aio.AioRpcError, match="no room"):
            await connection.tasks.CreateTask(wanted(1))
        for change in (
            connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=running)),
            connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=running)),
            connection.tasks.ResumeTask(ts.ResumeTaskRequest(task_id=suspended)),
        ):
            assert (await refusal(change))[0] == "STORE_UNAVAILABLE"
        states = [connection.kernel.driver.machine.tasks.known[TaskId(task_id)].state for task_id in ids]
        assert states == [TaskState.RUNNING, TaskState.SUSPENDED]
        mend()
        await until_written(connection.kernel)  # what is read next may have been told before the store broke
        await read_until(call, "output")
        assert (await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=running))).task.HasField("finish_time")


async def test_who_reads_a_task_reads_it_to_its_end(tmp_path: Path, stores: Stores) -> None:
    """One that is forgotten meanwhile gives its events to those who follow it, and is dropped when they have them."""
    settings = {"retained_tasks": 2}
    limits = {"stream_bytes": 4096, "retained_bytes": 4096}
    async with kernel(tmp_path, limits=limits, store=settings) as connection:
        await connection.create(max_sequences=8, blocks=8192, context_tokens=9000)
        large = (await connection.tasks.CreateTask(wanted(3000))).task.task_id
        end = (await read_all(watch(connection, large)))[-1]
        stream = connection.kernel.driver.watch(TaskId(large), DEFAULT_TENANT, after=0)
        reading = stream.follow(0)
        batches = [await anext(reading)]
        for _ in range(4):
            task_id = (await connection.tasks.CreateTask(wanted(1))).task.task_id
            await read_all(watch(connection, task_id))
        assert (await refusal(connection.tasks.GetTask(ts.GetTaskRequest(task_id=large))))[0] == "TASK_NOT_FOUND"
        batches += [batch async for batch in reading]
        events = [numbered.event for batch in batches for numbered in batch]
        assert "".join(event.text for event in events if isinstance(event, Output)) == "la" * 1500
        assert batches[-1][-1].sequence == end.sequence
        await connection.tasks.CreateTask(wanted(1))  # written with it, or before
    with closing(stores.open()) as store:
        assert large not in [record.key for record in store.records(Kind.TASK)]
        assert not list(store.pieces(DEFAULT_TENANT, Kind.TASK, large))


async def test_a_task_that_lacks_events_is_told_so(tmp_path: Path, stores: Stores) -> None:
    """A piece that is not there is EVENTS_DROPPED for who reads, and a task that would go on from there does not.

    Its other events are read, and no other task suffers.
    """
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.01, max_sequences=2)
        ended, running = [(await connection.tasks.CreateTask(wanted(n))).task.task_id for n in (20, 900)]
        await read_all(watch(connection, ended))
        await read_until(watch(connection, running), "output")
        other = (await connection.tasks.CreateTask(wanted(20))).task.task_id
        await read_all(watch(connection, other))
    with closing(stores.open()) as store:
        for task_id in (ended, running):
            first = f"SELECT min(number) FROM pieces WHERE key = '{task_id}'"  # noqa: S608 - ours
            second = f"{first} AND number > ({first})"
            stores.run(store, f"DELETE FROM pieces WHERE number = ({second}) AND key = '{task_id}'")  # noqa: S608 - as above
    async with kernel(tmp_path) as connection:
        seen, error = await read_failing(watch(connection, ended))
        reason, metadata = reason_of(error)
        assert (reason, "missing in the store" in str(error.details())) == ("EVENTS_DROPPED", True)
        behind = int(metadata["first_sequence"]) - 1
        assert behind > seen[-1].sequence
        assert (await read_all(watch(connection, ended, behind)))[-1].finished.state == tp.TASK_STATE_SUCCEEDED
        assert (await refusal(connection.tasks.GetTask(ts.GetTaskRequest(task_id=running))))[0] == "TASK_NOT_FOUND"
        assert text_of(await read_all(watch(connection, other))) == "la" * 10
