"""What is kept beside the things themselves: what their bounds were, and what tenants were served, and its files."""

from contextlib import closing
from pathlib import Path

import grpc
import pytest
from connection import Connection, read_all, read_until, reason_of, refusal, text_of
from stores import opened_store
from structlog.testing import capture_logs
from test_kept_tasks import created, get, kernel, wanted, watch

from inferd.core.ids import ModelName, Tenant
from inferd.store.store import Kind
from inferd.testing.kernel import write_fake_model
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts


async def test_what_is_kept_is_taken_up_beyond_lowered_bounds(tmp_path: Path) -> None:
    """Models and tasks are all there, and go on; new ones are refused until there is room, and the log tells of it."""
    async with kernel(tmp_path) as connection:
        for name in ("fake", "other", "third"):
            await connection.create(name, max_sequences=1, step_s=0.02)
        ids = [(await connection.tasks.CreateTask(wanted(30))).task.task_id for _ in range(4)]
        await connection.tasks.SuspendTask(ts.SuspendTaskRequest(task_id=ids[3]))
    bounds = {"models": 1, "tasks": 1, "queued_tasks": 1, "queued_high": 0, "detached_tasks": 1, "input_bytes": 4096}
    with capture_logs() as logs:
        async with kernel(tmp_path, limits=bounds) as connection:
            models = (await connection.models.ListModels(ms.ListModelsRequest())).models
            assert [model.name for model in models] == ["fake", "other", "third"]
            new = mp.Model(name="new", source=str(write_fake_model(tmp_path, "new")))
            assert (await refusal(connection.models.CreateModel(ms.CreateModelRequest(model=new))))[0] == (
                "LIMIT_EXCEEDED"
            )
            assert (await refusal(connection.tasks.CreateTask(wanted(1))))[0] == "QUEUE_FULL"
            assert (await get(connection, ids[3])).state == tp.TASK_STATE_SUSPENDED
            await connection.tasks.ResumeTask(ts.ResumeTaskRequest(task_id=ids[3]))
            for task_id in ids:
                assert text_of(await read_all(watch(connection, task_id))) == "la" * 15
            assert (await connection.tasks.CreateTask(wanted(1))).task.task_id not in ids
    told = {line.get("bound", line.get("model")) for line in logs if "taken up beyond" in line["event"]}
    assert {"other", "third", "limits.tasks", "limits.detached_tasks"} <= told


async def test_what_a_tenant_was_served_is_kept(tmp_path: Path) -> None:
    """The next kernel has the share of a tenant, of a task that runs too, and drops it when nothing waits any more."""
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.02)
        ids = [(await connection.tasks.CreateTask(wanted(tokens))).task.task_id for tokens in (10, 900, 900)]
        await read_all(watch(connection, ids[0]))
        await read_until(watch(connection, ids[1]), "output")
        before = share(connection)
        assert before is not None
        assert before > 0
    assert on_disk(tmp_path) == [("default", "fake")]
    async with kernel(tmp_path) as connection:
        await read_until(watch(connection, ids[1]), "resumed")
        assert share(connection) == before
        for task_id in reversed(ids):
            await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=task_id))
        assert share(connection) is None
    assert on_disk(tmp_path) == []


def share(connection: Connection) -> float | None:
    queues = connection.kernel.driver.machine.tasks._queues
    return queues[ModelName("fake")].shared.share(Tenant("default"))


def on_disk(folder: Path) -> list[tuple[str, str]]:
    with closing(opened_store(folder / "kept/store")) as store:
        return [(record.tenant, record.key) for record in store.records(Kind.SHARE)]


@pytest.mark.parametrize("gone", ["store", "store-wal", "."])
async def test_nothing_is_acknowledged_into_a_store_that_is_gone(tmp_path: Path, gone: str) -> None:
    """Where a file of the store was removed while it is open, new tasks are refused with its name, until it is back."""
    async with kernel(tmp_path) as connection:
        await connection.create()
        (tmp_path / "kept" / gone).resolve().rename(tmp_path / "away")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tasks.CreateTask(wanted())
        assert reason_of(caught.value)[0] == "STORE_UNAVAILABLE"
        assert reason_of(caught.value)[1]["cause"] == "removed"
        assert str(tmp_path / "kept/store") in str(caught.value.details())
        (tmp_path / "away").rename((tmp_path / "kept" / gone).resolve())
        task_id = await created(connection, wanted())
    async with kernel(tmp_path) as connection:
        assert (await get(connection, task_id)).task_id == task_id
