"""Tasks that outlive their clients, their connections and their kernel."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, info_of, read_all, read_failing, read_until, reason_of, refusal, text_of
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from stores import Stores
from time_limits import LONG_S

from inferd.core.ids import TaskId
from inferd.errors import StoreUnavailableError
from inferd.store.store import NO_TENANT, Drop, Kind
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


@pytest.fixture(autouse=True)
def _place(stores: Stores, tmp_path: Path) -> None:
    """The kernels in this folder have a store of each kind."""
    (tmp_path / "store.json").write_text(json.dumps(stores.settings))


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[Connection]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    place = folder / "store.json"
    store = json.loads(place.read_text()) if place.exists() else {"url": f"sqlite:{folder}/kept/store"}
    store |= {"output_interval_s": 0.0, "retry_s": 0.01, **settings.pop("store", {})}
    workers = {"restart_backoff_s": 0.01}
    async with kernel_here(folder, store=store, **{"workers": workers, **settings}) as made:
        connection = Connection(made, folder)
        yield connection
        await connection.channel.close()


def wanted(tokens: int = 20, prompt: str = "la", **more: Any) -> ts.CreateTaskRequest:
    """A task of the FakeBackend, which repeats its prompt."""
    sampling = sp.SamplingParams(max_tokens=tokens, temperature=0)
    return ts.CreateTaskRequest(spec=tp.TaskSpec(model="fake", prompt=prompt, sampling=sampling), **more)


async def get(connection: Connection, task_id: str) -> tp.Task:
    return (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=task_id))).task


def watch(connection: Connection, task_id: str, after: int = 0) -> Any:
    return connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id, after_sequence=after))


async def test_a_created_task_is_read_by_the_kernel_after_this_one(tmp_path: Path) -> None:
    """Its state, its times, its labels, its end and every event, to the number, are what they were."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        request = wanted()
        request.spec.labels["mine"] = "yes"
        task = (await connection.tasks.CreateTask(request)).task
        assert task.HasField("expire_time")
        assert text_of(await read_all(watch(connection, task.task_id))) == "la" * 10
        told = await read_all(watch(connection, task.task_id))
        before = await get(connection, task.task_id)
    async with kernel(tmp_path) as connection:
        after = await get(connection, task.task_id)
        assert (before.state, before.labels["mine"]) == (tp.TASK_STATE_SUCCEEDED, "yes")
        for field in ("create_time", "start_time", "finish_time", "expire_time"):  # a clock may have been adjusted
            earlier, later = (getattr(each, field).ToNanoseconds() for each in (before, after))
            assert abs(later - earlier) < 1e9
            before.ClearField(field)  # type: ignore[arg-type] # a name
            after.ClearField(field)  # type: ignore[arg-type] # a name
        assert after == before
        assert await read_all(watch(connection, task.task_id)) == told
        middle = told[len(told) // 2].sequence
        rest = await read_all(watch(connection, task.task_id, middle))
        assert rest == [event for event in told if event.sequence > middle]


async def test_a_request_id_makes_one_task_over_all_kernels(tmp_path: Path) -> None:
    """The same request is answered with the same task by this kernel and the next; other contents are refused."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        calls = [connection.another().tasks.CreateTask(wanted(request_id="once")) for _ in range(10)]
        (task_id,) = {(await call).task.task_id for call in calls}
    async with kernel(tmp_path) as connection:
        assert (await connection.tasks.CreateTask(wanted(request_id="once"))).task.task_id == task_id
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tasks.CreateTask(wanted(tokens=21, request_id="once"))
        assert reason_of(caught.value)[0] == "REQUEST_CONFLICT"
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
        assert [task.task_id for task in listed] == [task_id]


async def test_a_kernel_that_ends_in_order_leaves_its_tasks_to_the_next(tmp_path: Path) -> None:
    """Who watches is told SHUTTING_DOWN with a time, no end; the next kernel goes on behind what was told, in order."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        ids = [(await connection.tasks.CreateTask(wanted(tokens))).task.task_id for tokens in (100, 4, 4)]
        call = watch(connection, ids[0])
        seen = await read_until(call, "output")
        many = connection.another().tasks.RunTasks()
        await many.write(ts.RunTasksRequest(orders=[ts.TaskOrder(tag=5, watch=watch_order(ids[1]))]))
        assert (await many.read()).updates[0].event.HasField("queued")
        connection.kernel.driver.close()
        rest, error = await read_failing(call)
        assert reason_of(error)[0] == "SHUTTING_DOWN"
        assert retry_s(error) > 0
        seen += rest
        assert not any(event.HasField("finished") for event in seen)
        (update,) = (await many.read()).updates
        assert update.tag == 5
        assert "SHUTTING_DOWN" in str(update.error)
    async with kernel(tmp_path) as connection:
        seen += await read_all(watch(connection, ids[0], seen[-1].sequence))
        assert text_of(seen) == "la" * 50
        numbers = [event.sequence for event in seen]
        assert numbers == sorted(set(numbers))
        for task_id in ids[1:]:
            assert text_of(await read_all(watch(connection, task_id))) == "la" * 2
        tasks = [await get(connection, task_id) for task_id in ids]
        started = [task.start_time.ToNanoseconds() for task in tasks]
        assert started == sorted(started)
        assert [task.attempt for task in tasks] == [2, 1, 1]


async def test_a_detached_run_is_kept_and_a_watched_one_is_not(tmp_path: Path) -> None:
    """`detach_on_disconnect` keeps a task, given at once or by a second call for the same; other runs end with all."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.002)
        detached = await read_until(connection.endless(tokens=300, detach_on_disconnect=True), "output")
        later = connection.endless(tokens=400, request_id="later")
        seen = await read_until(later, "output")
        again = connection.another().endless(tokens=400, request_id="later", detach_on_disconnect=True)
        await read_until(again, "output")
        watched = await read_until(connection.endless(tokens=300), "output")
    async with kernel(tmp_path) as connection:
        assert text_of(await read_all(watch(connection, detached[0].task_id))) == "la" * 150
        rest = await read_all(watch(connection, seen[0].task_id, seen[-1].sequence))
        assert text_of([*seen, *rest]) == "la" * 200
        assert text_of(await read_all(watch(connection, seen[0].task_id))) == "la" * 200
        assert (await refusal(connection.tasks.GetTask(ts.GetTaskRequest(task_id=watched[0].task_id))))[0] == (
            "TASK_NOT_FOUND"
        )


async def test_a_suspended_task_stays_so_until_it_is_resumed(tmp_path: Path) -> None:
    """The next kernel does not begin what its client has stopped, and goes on with it when asked to."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.02)
        task_id = (await connection.tasks.CreateTask(wanted(100))).task.task_id
        await read_until(watch(connection, task_id), "output")
        await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=task_id))
    async with kernel(tmp_path) as connection:
        assert (await get(connection, task_id)).state == tp.TASK_STATE_SUSPENDED
        assert (await connection.tasks.ResumeTask(ts.ResumeTaskRequest(task_id=task_id))).task.task_id == task_id
        assert text_of(await read_all(watch(connection, task_id))) == "la" * 50


async def test_a_cancelled_task_is_so_for_the_next_kernel(tmp_path: Path) -> None:
    """What `CancelTask` answered is kept when it answers."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.02)
        task_id = (await connection.tasks.CreateTask(wanted(900))).task.task_id
        answer = await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id))
        assert answer.task.state == tp.TASK_STATE_CANCELLED
        ended = answer.task.finished
    async with kernel(tmp_path) as connection:
        assert (await get(connection, task_id)).finished == ended
        assert (await read_all(watch(connection, task_id)))[-1].finished == ended


async def test_a_task_expires_while_no_kernel_runs(tmp_path: Path) -> None:
    """A deadline goes on without a kernel; one that has passed, or lies beyond the bound, is refused at once."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.05)
        await connection.tasks.CreateTask(wanted(900))
        task = (await connection.tasks.CreateTask(wanted(900, ttl=Duration(nanos=400_000_000)))).task
        assert task.expire_time.ToNanoseconds() - task.create_time.ToNanoseconds() == pytest.approx(4e8, abs=3e8)
        for expiry in ({"expire_time": Timestamp(seconds=1)}, {"ttl": Duration()}, {"ttl": Duration(seconds=-1)}):
            reason, _ = await refusal(connection.tasks.CreateTask(wanted(**expiry)))
            assert reason == "INVALID_FIELD"
    async with kernel(tmp_path) as connection:
        end = (await read_all(watch(connection, task.task_id)))[-1].finished
        assert end.state == tp.TASK_STATE_EXPIRED


async def test_a_model_of_a_client_comes_back_unless_it_was_deleted(tmp_path: Path) -> None:
    """The next kernel has the models that clients created, as they were, and loads none that nobody waits for."""
    async with kernel(tmp_path) as connection:
        for name in ("fake", "other", "gone"):
            await connection.create(name, max_sequences=3)
        before = (await connection.models.GetModel(ms.GetModelRequest(name="other"))).model
        await connection.models.DeleteModel(ms.DeleteModelRequest(name="gone"))
        await connection.models.LoadModel(ms.LoadModelRequest(name="other"))
    async with kernel(tmp_path) as connection:
        models = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in models] == ["fake", "other"]
        for model in (models[1], before):
            for field in ("create_time", "content_digest", "digest_fraction"):  # of its file, once somebody has asked
                model.ClearField(field)
        assert models[1] == before


async def test_a_task_whose_model_is_gone_ends_with_that(tmp_path: Path, stores: Stores) -> None:
    """A kept task that no model is there for any more FAILED with MODEL_NOT_FOUND, and is known as such."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.05)
        task_id = (await connection.tasks.CreateTask(wanted(900))).task.task_id
    with closing(stores.open()) as store:
        store.write([Drop(NO_TENANT, Kind.MODEL, "fake")])
    async with kernel(tmp_path) as connection:
        end = (await read_all(watch(connection, task_id)))[-1].finished
        assert end.state == tp.TASK_STATE_FAILED
        assert info_of(end.error)[0] == "MODEL_NOT_FOUND"


async def test_a_forgotten_task_leaves_the_store(tmp_path: Path, stores: Stores) -> None:
    """When the retention of a task ends, nothing of it is kept either, and its request makes a new one."""
    settings = {"retained_tasks": 1}
    async with kernel(tmp_path, store=settings) as connection:
        await connection.create()
        ids = []
        for number in range(3):
            ids.append((await connection.tasks.CreateTask(wanted(request_id=str(number)))).task.task_id)
            await read_all(watch(connection, ids[-1]))
    with closing(stores.open()) as store:
        assert [record.key for record in store.records(Kind.TASK)] == ids[2:]
        assert [record.key for record in store.records(Kind.PROGRESS)] == ids[2:]
    async with kernel(tmp_path, store=settings) as connection:
        assert (await connection.tasks.CreateTask(wanted(request_id="0"))).task.task_id not in ids
        assert (await connection.tasks.CreateTask(wanted(request_id="2"))).task.task_id == ids[2]


async def test_a_full_disk_refuses_and_tells_no_end_until_there_is_room(tmp_path: Path, stores: Stores) -> None:
    """New tasks are refused by name and leave nothing; ends wait; with room all goes on, with the same request too."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.002)
        running = (await connection.tasks.CreateTask(wanted(300))).task.task_id
        await read_until(watch(connection, running), "output")
        store = connection.kernel.driver.keeper._store  # type: ignore[union-attr] # it has one
        stores.fill(store)
        large = wanted(5, request_id="large")
        large.spec.labels.update({str(number): "🙂" * 256 for number in range(16)})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tasks.CreateTask(large)
        assert reason_of(caught.value)[0] == "STORE_UNAVAILABLE"
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert retry_s(caught.value) > 0
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
        assert [task.task_id for task in listed] == [running]
        stores.give_room(store)
        task_id = await created(connection, large)
        assert (await read_all(watch(connection, task_id)))[-1].finished.state == tp.TASK_STATE_SUCCEEDED
        assert text_of(await read_all(watch(connection, running))) == "la" * 150
    async with kernel(tmp_path) as connection:
        for each in (running, task_id):
            assert (await get(connection, each)).state == tp.TASK_STATE_SUCCEEDED


async def created(connection: Connection, request: ts.CreateTaskRequest) -> str:
    """The task of a request that is repeated as long as the store takes nothing."""
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                return str((await connection.tasks.CreateTask(request)).task.task_id)
            except grpc.aio.AioRpcError as error:
                if reason_of(error)[0] != "STORE_UNAVAILABLE":
                    raise


async def test_an_end_that_cannot_be_kept_is_not_told(tmp_path: Path) -> None:
    """While the store takes nothing a task that has ended is RUNNING for all who ask, and its watchers wait."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.05)
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        await read_all(connection.endless(tokens=2))  # the model is loaded
        task_id = (await connection.tasks.CreateTask(wanted(900, prompt="x"))).task.task_id
        await read_until(call := watch(connection, task_id), "started")
        await keeper.drain()  # else it is the start that the store refuses, and the cancel never comes to the core
        write, failing = keeper._store.write, [True]
        tried, loop = asyncio.Event(), asyncio.get_running_loop()

        def refuse(writes: Any) -> None:
            if failing:
                loop.call_soon_threadsafe(tried.set)
                raise StoreUnavailableError("no room", metadata={"cause": "a test"})
            write(writes)

        keeper._store.write = refuse  # type: ignore[method-assign]
        reason, _ = await refusal(connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id)))
        assert reason == "STORE_UNAVAILABLE"
        assert (await get(connection, task_id)).state == tp.TASK_STATE_RUNNING
        tried.clear()
        await tried.wait()
        assert (await get(connection, task_id)).state == tp.TASK_STATE_RUNNING
        failing.clear()
        assert (await read_all(call))[-1].finished.state == tp.TASK_STATE_CANCELLED
        assert (await get(connection, task_id)).state == tp.TASK_STATE_CANCELLED


async def test_a_second_kernel_with_the_same_store_does_not_start(tmp_path: Path) -> None:
    """It is refused with the process that has the store, unless it may stand by, and the first one serves on."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        with pytest.raises(StoreUnavailableError, match="in use by process"):
            async with kernel(tmp_path, standby={"enabled": False}):
                pass
        assert (await connection.tasks.CreateTask(wanted())).task.task_id


async def test_what_cannot_be_read_is_left_out_and_the_rest_served(tmp_path: Path, stores: Stores) -> None:
    """What was changed in a name or a model, and a task without its progress, cost what they are in alone.

    A task of which an event was changed is known with its end; what cannot be read of its events is told by name.
    """
    async with kernel(tmp_path) as connection:
        await connection.create()
        await connection.create("other")
        ids = [(await connection.tasks.CreateTask(wanted(2))).task.task_id for _ in range(4)]
        for task_id in ids:
            await read_all(watch(connection, task_id))
    with closing(stores.open()) as store:
        (tenant,) = {record.tenant for record in store.records(Kind.TASK)}
        store.write([Drop(tenant, Kind.PROGRESS, ids[0])])
        for statement, *more in (
            ("UPDATE pieces SET value = substr(value, 1, length(value) - 1) WHERE key = '{}'", ids[1]),
            ("UPDATE records SET key = {} WHERE key = '{}' AND kind = 'task'", stores.bad_name, ids[2]),
            ("UPDATE records SET value = {} WHERE key = 'other'", stores.bad_value),
        ):
            stores.run(store, statement.format(*more))
    for _ in range(2):  # nothing of it is lost
        async with kernel(tmp_path) as connection:
            listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
            assert {task.task_id: task.state for task in listed} == dict.fromkeys(ids[1::2], tp.TASK_STATE_SUCCEEDED)
            reason, metadata = await refusal(watch(connection, ids[1]).read())
            assert (reason, "damaged" in metadata["cause"]) == ("EVENTS_DROPPED", True)
            behind = int(metadata["first_sequence"]) - 1
            assert (await read_all(watch(connection, ids[1], behind)))[-1].finished.state == tp.TASK_STATE_SUCCEEDED
            assert text_of(await read_all(watch(connection, ids[3]))) == "la"
            models = (await connection.models.ListModels(ms.ListModelsRequest())).models
            assert [model.name for model in models] == ["fake"]
    with closing(stores.open()) as store:
        assert len(store.check()) >= 3


async def test_events_that_are_not_held_are_read_from_the_store(tmp_path: Path) -> None:
    """Beyond `limits.stream_bytes` and `retained_bytes` a kept task tells every event, before and after a restart.

    So on a call of its own and on one for many, from any number on, while it runs and when it has ended.
    """
    limits = {"stream_bytes": 4096, "retained_bytes": 4096}
    async with kernel(tmp_path, limits=limits) as connection:
        await connection.create(step_s=0.001)
        ids = [(await connection.tasks.CreateTask(wanted(400))).task.task_id for _ in range(4)]
        running = await asyncio.gather(*(read_all(watch(connection, task_id)) for task_id in ids))
        await check_events(connection, ids, running)
        (stream,) = {connection.kernel.driver.streams.get(TaskId(task_id)) for task_id in ids[:1]}
        assert stream.dropped > 100
    async with kernel(tmp_path, limits=limits) as connection:
        await check_events(connection, ids, running)


async def check_events(connection: Connection, ids: list[str], told: list[list[Any]]) -> None:
    """Each task tells the same text and end again, from its beginning and from its middle."""
    for after_of in (lambda _: 0, lambda events: events[len(events) // 2].sequence):
        afters = [after_of(events) for events in told]  # type: ignore[no-untyped-call] # of two lines
        many = connection.another().tasks.RunTasks()
        orders = [
            ts.TaskOrder(tag=tag, watch=watch_order(task_id, after))
            for tag, (task_id, after) in enumerate(zip(ids, afters, strict=True))
        ]
        await many.write(ts.RunTasksRequest(orders=orders))
        await many.done_writing()
        found = [[] for _ in ids]  # type: list[list[Any]]
        async for response in many:
            for update in response.updates:
                found[update.tag].append(update.event)
        alone = [await read_all(watch(connection, *each)) for each in zip(ids, afters, strict=True)]
        for events, by_tag, by_call, after in zip(told, found, alone, afters, strict=True):
            text = text_of([event for event in events if event.sequence > after])
            for again in (by_tag, by_call):
                assert text_of(again) == text
                assert again[-1].finished == events[-1].finished
                numbers = [event.sequence for event in again]
                assert numbers == sorted(set(numbers))


async def test_a_start_reads_no_events_of_tasks_that_wait_or_have_ended(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a list shows of a task stands in its record: a start takes no longer the more its tasks have told."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        done, running, queued = [(await connection.tasks.CreateTask(wanted(n))).task.task_id for n in (4, 100, 4)]
        ended = (await read_all(watch(connection, done)))[-1]
        await read_until(watch(connection, running), "output")
    read: list[str] = []
    with closing(stores.open()) as store:
        kind = type(store)
    pieces = kind.pieces
    monkeypatch.setattr(kind, "pieces", lambda self, *key, **more: read.append(key[2]) or pieces(self, *key, **more))
    async with kernel(tmp_path) as connection:
        assert read == [running]
        listed = {task.task_id: task for task in (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks}
        assert (listed[done].finished, listed[done].last_sequence) == (ended.finished, ended.sequence)
        assert text_of(await read_all(watch(connection, done))) == "la" * 2
        assert text_of(await read_all(watch(connection, queued))) == "la" * 2


async def test_what_a_long_task_was_to_do_goes_with_its_end(stores: Stores, tmp_path: Path) -> None:
    """The record of a task with a long prompt is short once it has ended, so that a start does not read the prompt."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        task_id = (await connection.tasks.CreateTask(wanted(2, prompt="la" * 5000))).task.task_id
        ended = (await read_all(watch(connection, task_id)))[-1].finished  # its model has no room for it
    with closing(stores.open()) as store:
        (record,) = store.records(Kind.TASK)
        assert len(record.value) < 2000
    async with kernel(tmp_path) as connection:
        assert (await get(connection, task_id)).finished == ended


async def test_a_kernel_without_a_store_takes_tasks_as_long_as_it_lives(connection: Connection) -> None:
    """`CreateTask` makes a task that no call has to stay for, also where nothing outlives the kernel."""
    await connection.create()
    task_id = (await connection.tasks.CreateTask(wanted())).task.task_id
    assert text_of(await read_all(watch(connection, task_id))) == "la" * 10


def watch_order(task_id: str, after: int = 0) -> ts.WatchOrder:
    return ts.WatchOrder(request=ts.WatchTaskRequest(task_id=task_id, after_sequence=after))


def retry_s(error: grpc.aio.AioRpcError) -> float:
    """What an error says of when to try again, in seconds; 0 where it does not."""
    status, retry = rpc_status.from_call(error), error_details_pb2.RetryInfo()
    found = [retry.retry_delay.ToNanoseconds() / 1e9 for detail in status.details if detail.Unpack(retry)]
    return sum(found)
