"""A kernel whose store is in PostgreSQL, while the server ends, comes back, and has others."""

import asyncio
import json
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from connection import Connection, read_all, read_until, reason_of, refusal, text_of
from postgres_server import PostgresServer
from stores import Postgres
from test_audit_service import entries, verdict
from test_kept_outcomes import read_text
from test_kept_tasks import created, get, kernel, retry_s, wanted, watch

from inferd.audit_settings import Audit
from inferd.core.audit_check import check
from inferd.errors import StoreUnavailableError
from inferd.runtime.kept_trail import all_lines, read_parts
from inferd.runtime.trail_opening import tell_of_store
from inferd.signatures import holds
from inferd.store.postgres import PostgresStore
from inferd.store.store import NO_TENANT, Kind, Put
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


@pytest.fixture
def stores(postgres: PostgresServer, database: str, tmp_path: Path) -> Postgres:
    """The store of the kernels in the folder of the test."""
    made = Postgres(postgres, database)
    (tmp_path / "store.json").write_text(json.dumps(made.settings))
    return made


async def test_a_server_that_is_gone_is_told_and_all_goes_on_when_it_is_back(tmp_path: Path, stores: Postgres) -> None:
    """New tasks are refused by name and leave nothing, ends wait; then all goes on, with the same request too."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.002)
        running = (await connection.tasks.CreateTask(wanted(300))).task.task_id
        await read_until(watch(connection, running), "output")
        await asyncio.to_thread(stores.server.stop)
        request = wanted(5, request_id="again")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tasks.CreateTask(request)
        assert reason_of(caught.value)[0] == "STORE_UNAVAILABLE"
        assert retry_s(caught.value) > 0
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest())).tasks
        assert [task.task_id for task in listed] == [running]
        await asyncio.to_thread(stores.server.start)
        task_id = await created(connection, request)
        assert text_of(await read_all(watch(connection, running))) == "la" * 150
        assert (await read_all(watch(connection, task_id)))[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    async with kernel(tmp_path) as connection:
        for each in (running, task_id):
            assert (await get(connection, each)).state == tp.TASK_STATE_SUCCEEDED


async def test_a_server_that_crashes_under_load_costs_no_task(tmp_path: Path, stores: Postgres) -> None:
    """Clients that ask again get one task for each request; every stream is whole, for this kernel and the next."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=8)

        async def ask(client: Connection, numbers: range) -> list[str]:
            return [await created(client, wanted(20, request_id=str(number))) for number in numbers]

        clients = [
            asyncio.create_task(ask(connection.another(), range(first, first + 12))) for first in range(0, 48, 12)
        ]
        for _ in range(2):
            await asyncio.to_thread(stores.server.stop)
            await asyncio.to_thread(stores.server.start)
        ids = [task_id for made in await asyncio.gather(*clients) for task_id in made]
        assert len(set(ids)) == 48
        told = {task_id: await read_all(watch(connection, task_id)) for task_id in ids}
        assert {text_of(events) for events in told.values()} == {"la" * 10}
    async with kernel(tmp_path) as connection:
        listed = (await connection.tasks.ListTasks(ts.ListTasksRequest(page_size=100))).tasks
        assert {task.task_id for task in listed} == set(ids)
        for task_id in ids[::7]:
            events = await read_all(watch(connection, task_id))
            assert (text_of(events), events[-1]) == ("la" * 10, told[task_id][-1])


async def take_over(stores: Postgres) -> PostgresStore:
    """The store, opened as soon as its kernel has lost it: a kernel that writes meanwhile may have it back first."""
    for _ in range(50):
        await asyncio.to_thread(stores.server.cut, stores.database)
        with suppress(StoreUnavailableError):
            return stores.open()
    pytest.fail("the kernel had its store back 50 times")


async def test_a_kernel_whose_store_was_taken_over_says_so(tmp_path: Path, stores: Postgres) -> None:
    """Once another has written behind its back, what is to be kept is refused for that reason, and nothing is added."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        await connection.tasks.CreateTask(wanted())
        with closing(await take_over(stores)) as other:
            other.write([Put(NO_TENANT, Kind.MODEL, "another", b"{}")])
            before = set(other.kept())
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await connection.tasks.CreateTask(wanted())
            assert reason_of(caught.value)[0] == "STORE_UNAVAILABLE"
            assert "another kernel has written it" in str(caught.value.details())
    with closing(stores.open()) as after:
        assert set(after.kept()) == before


async def test_kernels_that_take_a_store_from_each_other_do_not_fork_its_trail(
    tmp_path: Path, stores: Postgres
) -> None:
    """Whoever has the store goes on with the trail; the other one adds nothing, and its changes are refused."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        with closing(await take_over(stores)) as other:
            tell_of_store(Audit(), other, tmp_path / "state", {"event": "taken over"}, is_own=True)
        error = await refusal(connection.models.DeleteModel(ms.DeleteModelRequest(name="fake")))
        assert error[0] == "STORE_UNAVAILABLE"
    async with kernel(tmp_path) as connection:
        models = (await connection.models.ListModels(ms.ListModelsRequest())).models
        assert [model.name for model in models] == ["fake"]
        events = [each.get("event") for each in await entries(connection, type="kernel")]
        assert events == ["started", "taken over", "started"]
        assert (await verdict(connection)).fault is None
    with closing(stores.open()) as after:
        assert check(all_lines(after, read_parts(after)[1]), holds).fault is None


@pytest.mark.usefixtures("_started_workers")
async def test_processes_with_backends_are_not_told_how_the_store_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has the variables that it is to have, but none with the URL of the store, or a password."""
    named = ("INFERD_STORE__URL", "PGPASSWORD", "MINE")
    for name in (*named, "inferd_store", "DATABASE_URL"):
        monkeypatch.setenv(name, "{}" if name == "inferd_store" else "postgresql://u:s3cret@h/d")
    async with kernel_here(tmp_path, workers={"variables": named}) as made:
        connection = Connection(made, tmp_path)
        await connection.create()
        await connection.models.LoadModel(ms.LoadModelRequest(name="fake"))
        environments = []
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # one that has ended, which nobody has waited for yet
                if "inferd.worker" in child.cmdline():
                    environments.append(child.environ())
        await connection.channel.close()
    assert environments
    for each in environments:
        assert [name for name, value in each.items() if "s3cret" in value] == ["MINE"]


async def test_a_commit_whose_answer_never_came_doubles_nothing(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has done a commit, and is gone for longer than its outcome is waited for, has each event once."""
    async with kernel(
        tmp_path, store={"postgres": {**stores.settings["postgres"], "outcome_wait_s": 0.0}}
    ) as connection:
        await connection.create(step_s=0.002)
        task_id = (await connection.tasks.CreateTask(wanted(200))).task.task_id
        call = watch(connection, task_id)
        seen = await read_until(call, "output")
        _cut(connection.kernel.driver.keeper._store, monkeypatch)  # type: ignore[union-attr] # it has one
        seen += await read_text(call, 100)
    async with kernel(tmp_path) as connection:
        rest = await read_all(watch(connection, task_id, seen[-1].sequence))
        assert text_of([*seen, *rest]) == "la" * 100


def _cut(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next commit is done and its answer lost, and at the first attempt there is no other session."""
    session, connect = store._session, store._server.connect
    execute = session.execute

    def gone() -> Any:
        monkeypatch.setattr(store._server, "connect", connect)
        raise StoreUnavailableError("no server", metadata={"cause": "a test"})

    def cut(query: str, *values: Any, **more: Any) -> Any:
        done = execute(query, *values, **more)
        if query == "COMMIT":
            session.close()
            monkeypatch.setattr(store._server, "connect", gone)
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return done

    session.execute = cut
