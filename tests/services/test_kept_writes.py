"""What is to be kept while the store is slow, takes nothing or hangs, and what is to be kept only later."""

import asyncio
import signal
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from connection import read_all, read_failing, read_until, reason_of, refusal, text_of, until_written
from stores import Stores, opened_store
from structlog.testing import capture_logs
from test_kept_tasks import _place, created, get, kernel, wanted, watch  # noqa: F401 - a fixture of these tests, too
from time_limits import LONG_S

from inferd import serving
from inferd.core.ids import ModelName
from inferd.errors import StoreUnavailableError
from inferd.runtime import keeper as keeper_module
from inferd.runtime import kept_sent
from inferd.store import opening
from inferd.store.sqlite import SqliteStore
from inferd.store.store import Kind, Put, UnwritableError
from inferd.store_settings import Store
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


def _tell_only(writes: list[Any]) -> bool:
    """Whether these are of the audit trail, and numbers of the kernel: what is to be done is told first."""
    return {each.kind for each in writes} <= {Kind.AUDIT, Kind.COUNT}


async def test_a_task_that_had_ended_before_it_was_to_be_kept_is_kept(tmp_path: Path) -> None:
    """`CreateTask` with the `request_id` of a run that has ended keeps that, its end and its events, as it says."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        request = wanted(request_id="once")
        told = await read_all(connection.tasks.RunTask(ts.RunTaskRequest(spec=request.spec, request_id="once")))
        task = (await connection.tasks.CreateTask(request)).task
        assert (task.task_id, task.state) == (told[0].task_id, tp.TASK_STATE_SUCCEEDED)
        assert (await read_all(watch(connection, task.task_id)))[-1] == told[-1]
    async with kernel(tmp_path) as connection:
        after = await get(connection, task.task_id)
        assert (after.state, after.finished) == (task.state, task.finished)
        events = await read_all(watch(connection, task.task_id))
        assert text_of(events) == "la" * 10
        assert events[-1] == told[-1]
        assert (await connection.tasks.CreateTask(request)).task.task_id == task.task_id


async def test_a_run_whose_beginning_was_dropped_is_not_kept_before_its_end(tmp_path: Path) -> None:
    """The next kernel could not go on from its place: it is EVENTS_DROPPED as long as it runs, and then kept."""
    async with kernel(tmp_path, limits={"stream_bytes": 8192}) as connection:
        await connection.create(step_s=0.005)
        request = wanted(400, request_id="long")
        run = connection.tasks.RunTask(ts.RunTaskRequest(spec=request.spec, request_id="long"))
        text = ""
        async for response in run:
            text += response.event.output.text
            if len(text) > 200:
                break
        reason, metadata = await refusal(connection.another().tasks.CreateTask(request))
        assert reason == "EVENTS_DROPPED"
        assert int(metadata["first_sequence"]) > 1
        assert text + text_of(await read_all(run)) == "la" * 200
        task = (await connection.tasks.CreateTask(request)).task
    async with kernel(tmp_path) as connection:
        assert (await get(connection, task.task_id)).finished == task.finished
        assert int((await refusal(watch(connection, task.task_id).read()))[1]["first_sequence"]) > 1


async def test_equal_creations_of_a_model_are_all_answered(tmp_path: Path) -> None:
    """Clients that create the same model at the same time all have it, and the next kernel has it once."""
    async with kernel(tmp_path) as connection:
        source = str(write_fake_model(tmp_path, "fake"))
        request = ms.CreateModelRequest(model=mp.Model(name="fake", source=source))
        calls = [connection.another().models.CreateModel(request, timeout=LONG_S) for _ in range(5)]
        assert {(await call).model.name for call in calls} == {"fake"}
    async with kernel(tmp_path) as connection:
        models = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in models] == ["fake"]


async def test_the_last_word_on_a_model_is_kept(tmp_path: Path) -> None:
    """Deleted, made again and deleted while the store is busy, a model is not known to the next kernel."""
    async with kernel(tmp_path) as connection:
        await connection.create("mine")
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write, going_on, entered = keeper._store.write, threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(writes: Any) -> None:
            loop.call_soon_threadsafe(entered.set)
            going_on.wait(LONG_S)
            write(writes)

        keeper._store.write = slow  # type: ignore[method-assign]
        models, driver = connection.models, connection.kernel.driver
        spec = driver.views.model(ModelName("mine")).spec
        other = asyncio.create_task(connection.create("other"))
        await entered.wait()
        driver.delete_model(spec.name)
        driver.create_model(spec)
        made = asyncio.create_task(keeper.keep_model(spec))
        await asyncio.sleep(0)  # until it waits
        driver.delete_model(spec.name)
        going_on.set()
        await asyncio.gather(other, made)
        assert [model.name for model in (await models.ListModels(ms.ListModelsRequest())).models] == ["other"]
    async with kernel(tmp_path) as connection:
        listed = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in listed] == ["other"]


async def test_a_model_is_deleted_when_the_answer_says_so(tmp_path: Path) -> None:
    """While the store takes nothing `DeleteModel` and `CreateModel` are refused by name, and then do what they say."""
    async with kernel(tmp_path) as connection:
        for name in ("first", "second"):
            await connection.create(name)
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write = keeper._store.write

        def refuse(writes: Any) -> None:
            if _tell_only(writes):  # that it is to be deleted
                return write(writes)
            raise StoreUnavailableError("no room", metadata={"cause": "a test"})

        keeper._store.write = refuse  # type: ignore[method-assign]
        delete = connection.models.DeleteModel
        for name in ("first", "second"):  # refused by its own write, then by what is known of the one before
            assert (await refusal(delete(ms.DeleteModelRequest(name=name))))[0] == "STORE_UNAVAILABLE"
        with pytest.raises(grpc.aio.AioRpcError, match="no room"):
            await connection.create("third")
        keeper._store.write = write  # type: ignore[method-assign]
        await until_written(connection.kernel)
        listed = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in listed] == ["second"]
    async with kernel(tmp_path) as connection:
        listed = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in listed] == ["second"]


@pytest.mark.parametrize("used", [False, True])
async def test_a_model_that_is_known_is_kept(tmp_path: Path, *, used: bool) -> None:
    """One whose `CreateModel` is refused is not known, or stays where it was used meanwhile: so for the next kernel."""
    async with kernel(tmp_path) as connection:
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write, going_on, entered = keeper._store.write, threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def refuse(writes: Any) -> None:
            if _tell_only(writes):  # that it is to be made
                return write(writes)
            keeper._store.write = write  # type: ignore[method-assign]
            loop.call_soon_threadsafe(entered.set)
            going_on.wait(LONG_S)
            raise StoreUnavailableError("no room", metadata={"cause": "a test"})

        keeper._store.write = refuse  # type: ignore[method-assign]
        creation = asyncio.create_task(connection.create("fake"))
        await entered.wait()
        if used:
            await read_all(connection.another().chat("la"))
        going_on.set()
        with pytest.raises(grpc.aio.AioRpcError, match="no room"):
            await creation
        await keeper.settled_model(ModelName("fake"))
        listed = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in listed] == ["fake"] * used
    async with kernel(tmp_path) as connection:
        listed = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in listed] == ["fake"] * used


async def test_a_call_that_cannot_detach_a_task_leaves_it_alone(tmp_path: Path) -> None:
    """It alone is refused with STORE_UNAVAILABLE; the one that watches gets every event, and the task ends with it."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.01)
        watched = connection.endless(tokens=200, request_id="same")
        left = connection.another().endless(tokens=1000, request_id="other")
        seen = await read_until(watched, "output")
        (other, *_) = await read_until(left, "output")
        keeper = connection.kernel.driver.keeper
        assert keeper is not None

        def refuse(_: Any) -> None:
            raise StoreUnavailableError("no room", metadata={"cause": "a test"})

        keeper._store.write = refuse  # type: ignore[method-assign]
        calls = [
            connection.another().endless(tokens=tokens, request_id=request_id, detach_on_disconnect=True)
            for tokens, request_id in ((200, "same"), (1000, "other"))
        ]
        for _, error in await asyncio.gather(*map(read_failing, calls)):
            assert reason_of(error)[0] == "STORE_UNAVAILABLE"
        seen += await read_all(watched)
        assert seen[-1].finished.state == tp.TASK_STATE_SUCCEEDED
        assert text_of(seen) == "la" * 100
        assert not (await get(connection, seen[0].task_id)).HasField("expire_time")
        left.cancel()
        end = (await read_all(watch(connection, other.task_id)))[-1].finished
        assert end.state == tp.TASK_STATE_CANCELLED
        assert connection.kernel.driver.machine.tasks.census.all.detached == 0


async def test_a_kernel_that_ends_closes_its_store(tmp_path: Path) -> None:
    """The end of a kernel waits for its store and no longer: nothing is told of one that does not answer."""
    with capture_logs() as logs:
        async with kernel(tmp_path) as connection:
            await connection.create()
            await connection.tasks.CreateTask(wanted())
    assert [line["event"] for line in logs if line["log_level"] == "error"] == []


async def test_a_kernel_ends_though_its_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that does not come back is waited for no longer than for a bound, and no thread keeps the process."""
    monkeypatch.setattr(keeper_module, "DRAIN_S", 0.05)
    going_on, entered = threading.Event(), threading.Event()
    try:
        async with asyncio.timeout(LONG_S):
            async with kernel(tmp_path) as connection:
                await connection.create()
                keeper = connection.kernel.driver.keeper
                assert keeper is not None
                write = keeper._store.write

                def hang(writes: Any) -> None:
                    entered.set()
                    going_on.wait(2 * LONG_S)
                    write(writes)

                keeper._store.write = hang  # type: ignore[method-assign]
                call = asyncio.ensure_future(connection.tasks.CreateTask(wanted()))
                await asyncio.to_thread(entered.wait, LONG_S)
        assert not going_on.is_set()
        assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("store"))
        await asyncio.wait([call])
        assert call.cancelled() or isinstance(call.exception(), grpc.aio.AioRpcError)
    finally:
        going_on.set()


async def test_a_second_signal_ends_a_kernel_whose_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM again, or SIGINT, cuts the wait for a store that does not answer short, also one that is under way."""
    monkeypatch.setattr(keeper_module, "DRAIN_S", 1000.0)
    going_on, entered, ends = threading.Event(), threading.Event(), serving._Ends()
    try:
        async with asyncio.timeout(LONG_S):
            async with kernel(tmp_path) as connection:
                keeper = connection.kernel.driver.keeper
                assert keeper is not None
                ends.hurry = keeper.hurry

                def hang(_: Any) -> None:
                    entered.set()
                    going_on.wait(2 * LONG_S)

                keeper._store.write = hang  # type: ignore[method-assign]
                call = asyncio.ensure_future(connection.create())
                await asyncio.to_thread(entered.wait, LONG_S)
                ends.signalled(signal.SIGTERM)
                draining = asyncio.ensure_future(keeper.drain())
                await asyncio.sleep(0)
                assert not draining.done()
                ends.signalled(signal.SIGTERM)
                await draining
        assert not going_on.is_set()
        call.cancel()
    finally:
        going_on.set()


async def test_a_store_whose_closing_hangs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opened it waits for its closing no longer than for a bound, on no thread that keeps the process."""
    monkeypatch.setattr(opening, "CLOSE_S", 0.05)
    going_on, closings = threading.Event(), list[threading.Thread]()

    def hang(_: SqliteStore) -> None:
        closings.append(threading.current_thread())
        going_on.wait(2 * LONG_S)

    try:
        with capture_logs() as logs:
            where = Store(url=f"sqlite:{tmp_path}/s", key_file=tmp_path / "key")
            async with asyncio.timeout(LONG_S), opening.opened(where) as store:
                assert store is not None
                close = store.close
                monkeypatch.setattr(SqliteStore, "close", hang)
        assert [thread.daemon for thread in closings] == [True]
        assert "does not answer" in logs[-1]["event"]
    finally:
        going_on.set()
        close()


async def test_what_cannot_be_kept_refuses_nobody_else(tmp_path: Path, stores: Stores) -> None:
    """A task that no store takes is refused alone: those that were to be written with it are kept."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=8)
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write, going_on, entered = keeper._store.write, threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def choosy(writes: Any) -> None:
            loop.call_soon_threadsafe(entered.set)
            going_on.wait(LONG_S)
            if any(b"unwritable" in each.value for each in writes if isinstance(each, Put)):
                raise UnwritableError("too large", metadata={"cause": "a test"})
            write(writes)

        keeper._store.write = choosy  # type: ignore[method-assign]
        requests = [wanted(2, prompt=prompt) for prompt in ("la", "lo", "unwritable", "lu", "le")]
        calls = [asyncio.ensure_future(connection.another().tasks.CreateTask(request)) for request in requests]
        await entered.wait()  # the first is under way, and the others go together
        while connection.kernel.driver.machine.tasks.census.all.detached < len(calls):
            await asyncio.wait(calls, timeout=0.01)
        going_on.set()
        (bad,) = [call for call in calls if (await asyncio.wait([call])) and call.exception() is not None]
        assert bad is calls[2]
        assert reason_of(bad.exception())[0] == "STORE_UNAVAILABLE"  # type: ignore[arg-type] # it is one
        ids = [call.result().task.task_id for call in calls if call is not bad]
        for task_id in ids:
            await read_all(watch(connection, task_id))
        assert (await connection.tasks.CreateTask(wanted(2))).task.task_id
    with closing(stores.open()) as store:
        assert set(ids) < {record.key for record in store.records(Kind.TASK)}


def test_a_value_that_is_too_large_is_told_from_a_store_that_is_gone(tmp_path: Path) -> None:
    """What SQLite does not take because of its size is `UnwritableError`, and what is written then is kept."""
    with closing(opened_store(tmp_path / "s")) as store:
        store._database.limit(apsw.SQLITE_LIMIT_LENGTH, 1000)  # stands for its 1,000,000,000
        with pytest.raises(UnwritableError, match="too big"):
            store.write([Put("a", Kind.TASK, "x", b"x" * 2000)])
        store.write([Put("a", Kind.TASK, "x", b"x")])
        assert [record.value for record in store.records(Kind.TASK)] == [b"x"]


async def test_what_is_kept_is_made_on_the_thread_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and events of tasks, which may be large, are put into words where they are written: not on the loop."""
    threads: dict[str, set[str]] = {"write_task": set(), "write_pieces": set()}

    def noted(name: str, make: Any, *given: Any, **more: Any) -> Any:
        threads[name].add(threading.current_thread().name)
        return make(*given, **more)

    for name in threads:
        monkeypatch.setattr(kept_sent, name, partial(noted, name, getattr(kept_sent, name)))
    async with kernel(tmp_path) as connection:
        await connection.create()
        task_id = (await connection.tasks.CreateTask(wanted(9, prompt="la" * 5000))).task.task_id
        await read_all(watch(connection, task_id))
    assert threads == {"write_task": {"store"}, "write_pieces": {"store"}}


async def test_a_write_goes_before_what_is_to_be_read(tmp_path: Path) -> None:
    """A task is acknowledged when what is being read has been, however many others wait to read."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        done, going_on, entered = list[str](), threading.Event(), threading.Event()

        def hold(_: Any) -> None:
            entered.set()
            going_on.wait(LONG_S)

        reading = [asyncio.ensure_future(keeper.read(hold))]
        await asyncio.to_thread(entered.wait, LONG_S)
        reading += [asyncio.ensure_future(keeper.read(lambda _: done.append("read"))) for _ in range(5)]
        await asyncio.sleep(0)
        write, writing = keeper._store.write, asyncio.Event()
        flush = keeper._flush

        def flushed() -> None:
            flush()
            writing.set()

        keeper._flush = flushed  # type: ignore[method-assign]
        keeper._store.write = lambda writes: (write(writes), done.append("write"))[0]  # type: ignore[method-assign,func-returns-value]
        creating = asyncio.ensure_future(connection.tasks.CreateTask(wanted()))
        await writing.wait()
        going_on.set()
        await asyncio.gather(creating, *reading)
        assert done[0] == "write"
        assert done.count("read") == 5
