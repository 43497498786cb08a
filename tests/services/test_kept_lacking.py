"""Tasks that were kept for models that the next kernel cannot load, and of tensors."""

import json
import time
from contextlib import aclosing
from pathlib import Path

import grpc
import numpy as np
import pytest
from connection import read_all, read_until, reason_of, text_of
from grpc_health.v1 import health_pb2 as hp
from structlog.testing import capture_logs
from test_kept_tasks import get, kernel, wanted, watch

from inferd.errors import StoreUnavailableError
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_client import AsyncClient
from inferd_client.errors import StoreUnavailableError as Refused
from inferd_client.tensors import to_arrays


@pytest.mark.parametrize("lacking", ["backend", "file"])
async def test_a_task_waits_while_its_model_cannot_be_loaded(tmp_path: Path, lacking: str) -> None:
    """A kernel that lacks the backend or the file of a model ends none of its tasks: they go on when that is back."""
    file = tmp_path / "fake.fake"
    async with kernel(tmp_path) as connection:
        await connection.create(max_sequences=1, step_s=0.01)
        ids = [(await connection.tasks.CreateTask(wanted(200))).task.task_id for _ in range(2)]
        await read_until(watch(connection, ids[0]), "output")
    if lacking == "file":
        file.rename(tmp_path / "elsewhere")
    async with kernel(
        tmp_path, **({"backends": (), "plugin_modules": ()} if lacking == "backend" else {})
    ) as connection:
        assert [(await get(connection, task_id)).state for task_id in ids] == [tp.TASK_STATE_QUEUED] * 2
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.tasks.CreateTask(wanted())
        assert reason_of(caught.value)[0] == "MODEL_LOAD_FAILED"
        assert ("'fake'" if lacking == "backend" else str(file)) in str(caught.value.details())
        if lacking == "file":
            (tmp_path / "elsewhere").rename(file)
            await connection.models.GetModel(ms.GetModelRequest(name="fake"))  # whoever asks has it looked for
            assert text_of(await read_all(watch(connection, ids[1]))) == "la" * 100
    if lacking == "backend":
        async with kernel(tmp_path) as connection:
            for task_id in ids:
                assert text_of(await read_all(watch(connection, task_id))) == "la" * 100


@pytest.mark.parametrize("rows", [1, 1 << 20])
async def test_a_task_of_tensors_is_created_and_read_by_another_client(tmp_path: Path, rows: int) -> None:
    """`create_infer` returns when the task is kept, small or larger than a message; its outputs are read after that."""
    x = np.full((rows, 2), 3, np.float32)
    async with kernel(tmp_path) as connection:
        await connection.create("id", tensor="identity")
        address = connection.kernel.addresses[0]
        async with AsyncClient(address) as client:
            task = await client.create_infer("id", {"x": x}, request_id="once")
            assert (await client.create_infer("id", {"x": x}, request_id="once")).task_id == task.task_id
            with pytest.raises(TypeError, match="create_infer"):
                await client.create_task("id", {"x": 1})  # type: ignore[arg-type] # what is tried first
        async with AsyncClient(address) as client, aclosing(client.watch(task.task_id)) as events:
            (given,) = [to_arrays(event.output.infer) async for event in events if event.output.HasField("infer")]
        assert [array.tolist() for array in given.values()] == [x.tolist()]


async def test_a_receipt_has_the_first_token_of_the_kernel_that_told_it(tmp_path: Path) -> None:
    """A task that goes on with the next kernel was first heard from when its client was, not when it went on."""
    async with kernel(tmp_path) as connection:
        await connection.create(step_s=0.005)
        task_id = (await connection.tasks.CreateTask(wanted(400))).task.task_id
        seen = await read_until(watch(connection, task_id), "output")
    between_ns = time.time_ns()
    async with kernel(tmp_path) as connection:
        receipt = (await read_all(watch(connection, task_id, seen[-1].sequence)))[-1].finished.receipt
        created_ns = (await get(connection, task_id)).create_time.ToNanoseconds()
    assert created_ns + receipt.first_token_duration.ToNanoseconds() < between_ns


async def test_a_store_that_takes_nothing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health of "store", its watch, the metrics and the log tell that it is not written, and when it is again."""
    (tmp_path / "store.json").write_text(json.dumps({"url": f"sqlite:{tmp_path}/kernel.sqlite"}))
    with capture_logs() as said:
        async with kernel(tmp_path) as connection, AsyncClient(connection.kernel.addresses[0]) as client:
            await connection.create(step_s=0.01)
            await client.create_task("fake", "la", max_tokens=800)  # of which there is always something to be written
            driver = connection.kernel.driver
            health = connection.channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=hp.HealthCheckRequest.SerializeToString,
                response_deserializer=hp.HealthCheckResponse.FromString,
            )(hp.HealthCheckRequest(service="store"))
            assert (await client.health("store"), (await health.read()).status) == ("SERVING", 1)
            with monkeypatch.context() as patch:
                patch.setattr(driver.keeper._store, "write", _refuse)  # type: ignore[union-attr] # it has one
                with pytest.raises(Refused, match="no room"):
                    await client.create_task("fake", "la", max_tokens=2)
                assert (await client.health("store"), (await health.read()).status) == ("NOT_SERVING", 2)
                assert b"inferd_store_writes 0\n" in driver.metrics.registry.page()
            assert (await health.read()).status == 1
            assert b"inferd_store_writes 1\n" in driver.metrics.registry.page()
        async with kernel(tmp_path):
            pass
    events = [entry["event"] for entry in said]
    assert events.index("the store is written again") > 0
    (taken,) = [entry for entry in said if entry["event"] == "what the kernel before this one kept is taken up"]
    assert (taken["models"], taken["store"]) == (1, f"{tmp_path}/kernel.sqlite")


def _refuse(_: object) -> None:
    raise StoreUnavailableError("no room")
