"""Tasks of tensors whose inputs are in blobs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from connection import Connection, read_until

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_client import AsyncClient, blob_tensor
from inferd_client.errors import (
    BlobDamagedError,
    BlobHeldError,
    BlobNotFoundError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
)

ARRAY = np.arange(1 << 20, dtype="f4").reshape(4, -1)
DEADLINE_S = 60.0


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[tuple[Connection, AsyncClient]]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    store = {"url": f"sqlite:{folder}/kept/store", **settings.pop("store", {})}
    async with kernel_here(folder, store=store, **settings) as made:
        connection = Connection(made, folder)
        async with AsyncClient(made.addresses[0]) as client:
            yield connection, client
        await connection.channel.close()


def task(tensor: pb.Tensor) -> ts.CreateTaskRequest:
    """A task that outlives its client, and gives its input back."""
    tensor.name = "x"
    return ts.CreateTaskRequest(spec=tp.TaskSpec(model="m", infer=pb.InferInput(inputs=[tensor])))


async def outputs(client: AsyncClient, task_id: str) -> list[bytes]:
    """What a task has given."""
    return [e.output.infer.outputs[0].data async for e in client.watch(task_id) if e.HasField("output")]


async def test_many_tasks_name_one_blob(tmp_path: Path) -> None:
    """What was given once is the input of many tasks, whole or in part, beside inputs that are sent."""
    async with kernel(tmp_path) as (connection, client):
        await connection.create("m", tensor="identity")
        digest = (await client.put_blob(ARRAY.tobytes())).digest
        whole = blob_tensor(digest, "float32", ARRAY.shape)
        told = await asyncio.gather(*(client.infer("m", {"x": whole}) for _ in range(5)))
        assert all(np.array_equal(each["y"], ARRAY) for each in told)
        for row in range(4):
            part = blob_tensor(digest, "float32", (1, 3), start=row * ARRAY.nbytes // 4)
            assert np.array_equal((await client.infer("m", {"x": part}))["y"], ARRAY[row : row + 1, :3])
        await client.delete_blob(digest)


@pytest.mark.parametrize(
    ("digest", "shape", "start", "error", "why"),
    [
        ("sha256:" + "0" * 64, (4,), 0, BlobNotFoundError, "is not there; give it first"),
        ("../x", (4,), 0, InvalidFieldError, "it must be sha256: and 64"),
        ("", (4, 1 << 18), 4, InvalidFieldError, "are asked for and the blob ends at 4194304"),
        ("", (2, 1 << 20), 0, LimitExceededError, "name 8388608 bytes of blobs and limits.task_input_bytes is 5242880"),
        ("", (3,), 0, InvalidFieldError, "blob.size_bytes has 16 bytes; type FLOAT and shape"),
    ],
)
async def test_what_cannot_be_an_input(  # noqa: PLR0917 - a table
    tmp_path: Path, digest: str, shape: tuple[int, ...], start: int, error: type[InferdError], why: str
) -> None:
    """A blob that is not there, ends before, or is too large is refused with the path of the field and the numbers."""
    async with kernel(tmp_path, limits={"task_input_bytes": 5 << 20}) as (connection, client):
        await connection.create("m", tensor="identity")
        mine = (await client.put_blob(ARRAY.tobytes())).digest
        tensor = blob_tensor(digest or mine, "float32", shape, start=start)
        if shape == (3,):
            tensor.blob.size_bytes = 16
        with pytest.raises(error) as caught:
            await client.infer("m", {"x": tensor})
        assert why in caught.value.message
        assert caught.value.field.startswith("spec.infer.inputs[0].blob.")
        async with AsyncClient(connection.kernel.addresses[0], tenant="other") as other:
            with pytest.raises(BlobNotFoundError):
                await other.infer("m", {"x": blob_tensor(mine, "float32", ARRAY.shape)})


async def test_a_kept_task_names_its_blob_over_a_restart(tmp_path: Path) -> None:
    """A task that outlives its kernel keeps no copy of its input, holds the blob, and runs with the next kernel."""
    async with kernel(tmp_path) as (connection, client):
        await connection.create("m", tensor="identity", step_s=3600.0)
        digest = (await client.put_blob(ARRAY.tobytes())).digest
        request = task(blob_tensor(digest, "float32", ARRAY.shape))
        made = (await connection.tasks.CreateTask(request)).task
        await read_until(connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=made.task_id)), "started")
        with pytest.raises(BlobHeldError, match=f"is held by task {made.task_id}"):
            await client.delete_blob(digest)
    assert (tmp_path / "kept" / "store").stat().st_size < ARRAY.nbytes / 4
    (tmp_path / "m.fake").unlink()
    async with kernel(tmp_path, store={"retention_s": 0.0}) as (connection, client):
        assert (await client.get_blob(digest)).holders == [f"task {made.task_id}"]
        with pytest.raises(BlobHeldError):
            await client.delete_blob(digest)
        with suppress(grpc.aio.AioRpcError):  # it is forgotten with its end
            await connection.tasks.CancelTask(ts.CancelTaskRequest(task_id=made.task_id))
        async with asyncio.timeout(DEADLINE_S):
            while (await client.get_blob(digest)).holders:  # noqa: ASYNC110 - nobody is told when one lets go
                await asyncio.sleep(0)
        await client.delete_blob(digest)


async def test_a_kept_task_goes_on_with_what_is_in_its_blob(tmp_path: Path) -> None:
    """The kernel after the one that took a task gives its worker the same bytes."""
    async with kernel(tmp_path, failpoints=("task.dispatch=delay(0)",)) as (connection, client):
        await connection.create("m", tensor="identity")
        digest = (await client.put_blob(ARRAY.tobytes())).digest
        made = (await connection.tasks.CreateTask(task(blob_tensor(digest, "float32", ARRAY.shape)))).task
    async with kernel(tmp_path) as (connection, client):
        assert await outputs(client, made.task_id) == [ARRAY.tobytes()]


async def test_large_inputs_of_kept_tasks_become_blobs(tmp_path: Path) -> None:
    """What a kept task was sent is a blob of the kernel's own, gone with the task, unless its client gives it, too."""
    large = ARRAY.tobytes()
    async with kernel(tmp_path, blobs={"inline_bytes": 1 << 20}, limits={"message_bytes": 8 << 20}) as (connection, _):
        await connection.create("m", tensor="identity")
        sent = [pb.Tensor(element_type=1, shape=a.shape, data=a.tobytes()) for a in (ARRAY, ARRAY + 1, ARRAY[:1, :9])]
        made = [(await connection.tasks.CreateTask(task(each))).task.task_id for each in sent]
    assert (tmp_path / "kept" / "store").stat().st_size < ARRAY.nbytes / 4
    async with kernel(tmp_path, store={"retention_s": 3600.0}) as (connection, client):
        assert [await outputs(client, each) for each in made] == [[each.data] for each in sent]
        digest = (await client.put_blob(large)).digest
        blobs = connection.kernel.driver.keeper.blobs
        assert blobs is not None
        await blobs.sweep()
        assert len([blob async for blob in client.list_blobs()]) >= 1
    async with kernel(tmp_path, store={"retention_s": 0.0}) as (connection, client):
        blobs = connection.kernel.driver.keeper.blobs
        assert blobs is not None
        async with asyncio.timeout(DEADLINE_S):
            while [b async for b in client.list_blobs() if b.holders]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        await blobs.sweep()
        assert [blob.digest async for blob in client.list_blobs()] == [digest]
        assert b"".join([chunk async for chunk in client.read_blob(digest)]) == large


async def test_a_damaged_blob_is_no_input(tmp_path: Path) -> None:
    """A task is refused with BLOB_DAMAGED, and never computes with other bytes."""
    async with kernel(tmp_path) as (connection, client):
        await connection.create("m", tensor="identity")
        digest = (await client.put_blob(ARRAY.tobytes())).digest
        (file,) = (tmp_path / "data" / "blobs").rglob("*-s")
        file.write_bytes(bytes(ARRAY.nbytes))
        with pytest.raises(BlobDamagedError):
            await client.infer("m", {"x": blob_tensor(digest, "float32", ARRAY.shape)})
