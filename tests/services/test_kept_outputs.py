"""What is large of what kept tasks tell: in blobs, read back in parts, over the end of a kernel."""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from connection import Connection, text_of
from stores import Stores

from inferd.core.ids import DEFAULT_TENANT
from inferd.errors import StoreUnavailableError
from inferd.runtime.blobs import Blobs
from inferd.store.blob_files import BlobFiles
from inferd.store.sealing.sealed_file import Owner
from inferd.store.store import NO_TENANT, Drop, Kind
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_client import AsyncClient, blob_tensor
from inferd_client.errors import EventsDroppedError, LimitExceededError
from inferd_client.errors import StoreUnavailableError as Unavailable

ARRAY = np.arange(1 << 20, dtype="f4").reshape(4, -1)
DEADLINE_S = 60.0
T = TypeVar("T")


@asynccontextmanager
async def kernel(folder: Path, stores: Stores, **settings: Any) -> AsyncIterator[tuple[Connection, AsyncClient]]:
    """A kernel that keeps what it has in this folder; with the same folder again, the one after it."""
    store = {**stores.settings, "output_interval_s": 0.0, "retry_s": 0.01, **settings.pop("store", {})}
    blobs = {"inline_bytes": 1 << 20, **settings.pop("blobs", {})}
    async with kernel_here(folder, store=store, blobs=blobs, **settings) as made:
        connection = Connection(made, folder)
        async with AsyncClient(made.addresses[0]) as client:
            yield connection, client
        await connection.channel.close()


async def run(client: AsyncClient, connection: Connection, array: Any = ARRAY) -> str:
    """A kept task that gives this back, to its end; its id."""
    spec = tp.TaskSpec(model="m", infer=pb.InferInput(inputs=[await tensor(client, array)]))
    made = (await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec))).task
    assert await outputs(client, made.task_id) == [array.tobytes()]
    return str(made.task_id)


async def tensor(client: AsyncClient, array: Any) -> pb.Tensor:
    """The input, which is in a blob."""
    made = blob_tensor((await client.put_blob(array.tobytes())).digest, "float32", array.shape)
    made.name = "x"
    return made


async def outputs(client: AsyncClient, task_id: str) -> list[bytes]:
    """What a task has given."""
    async with asyncio.timeout(DEADLINE_S):
        return [e.output.infer.outputs[0].data async for e in client.watch(task_id) if e.HasField("output")]


def blobs_of(connection: Connection) -> Blobs:
    """The kernel's."""
    keeper = connection.kernel.driver.keeper
    assert keeper is not None
    blobs: Blobs | None = keeper.blobs
    assert blobs is not None
    return blobs


def held(connection: Connection) -> list[int]:
    """The sizes of the blobs that tasks hold."""
    page = blobs_of(connection).list(DEFAULT_TENANT, after=None, size=100)
    return sorted(blob.size_bytes for blob in page.records if any(each.startswith("task ") for each in blob.holders))


async def test_large_outputs_are_read_back_from_blobs(tmp_path: Path, stores: Stores) -> None:
    """An output larger than a message, and than a record may be, is told whole by the next kernel, in parts.

    The store has none of its bytes; its blob stays as long as the task is known, and goes with it.
    """
    async with kernel(tmp_path, stores, limits={"message_bytes": 1 << 20}) as (connection, client):
        await connection.create("m", tensor="identity")
        ids = [await run(client, connection, each) for each in (ARRAY, ARRAY + 1, ARRAY[:1, :9])]
        assert connection.kernel.driver.keeper is not None
        stored = await connection.kernel.driver.keeper.read(lambda store: sum(len(w.value) for w in store.kept()))
        assert stored < ARRAY.nbytes / 10
    async with kernel(tmp_path, stores, limits={"message_bytes": 1 << 20}) as (connection, client):
        await blobs_of(connection).sweep()
        assert [size >= ARRAY.nbytes for size in held(connection)] == [True, True]
        for task_id, array in zip(ids, (ARRAY, ARRAY + 1, ARRAY[:1, :9]), strict=True):
            assert await outputs(client, task_id) == [array.tobytes()]
            events = [event async for event in client.watch(task_id)]
            rest = [event async for event in client.watch(task_id, after_sequence=events[-2].sequence)]
            assert rest == events[-1:]
    async with kernel(tmp_path, stores, store={"retention_s": 0.0}) as (connection, client):
        async with asyncio.timeout(DEADLINE_S):
            while held(connection):  # noqa: ASYNC110 - nobody is told when one lets go
                await asyncio.sleep(0)
        await blobs_of(connection).sweep()
        assert connection.kernel.driver.keeper is not None
        kinds = {write.kind for write in await connection.kernel.driver.keeper.read(lambda store: [*store.kept()])}
        assert not kinds & {Kind.TASK, Kind.PROGRESS, Kind.OUTPUT}


async def test_an_output_waits_until_its_blob_can_be_written(
    tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk nothing of the output is told; it is told once there is room, and only then the task has ended."""
    async with kernel(tmp_path, stores) as (connection, client):
        await connection.create("m", tensor="identity")
        write, refused, room = BlobFiles.write, asyncio.Event(), False
        loop = asyncio.get_running_loop()

        def full(files: BlobFiles, path: Path, start: int, data: bytes, owner: Owner) -> None:
            if room:
                return write(files, path, start, data, owner)
            loop.call_soon_threadsafe(refused.set)
            with files.typed():
                raise OSError(errno.ENOSPC, "No space left on device")
            return None

        given = await tensor(client, ARRAY)
        monkeypatch.setattr(BlobFiles, "write", full)
        spec = tp.TaskSpec(model="m", infer=pb.InferInput(inputs=[given]))
        run = connection.tasks.RunTask(ts.RunTaskRequest(spec=spec, detach_on_disconnect=True))
        events: list[tp.TaskEvent] = []

        async def follow() -> None:
            events.extend([response.event async for response in run])

        following = asyncio.create_task(follow())
        async with asyncio.timeout(DEADLINE_S):
            await refused.wait()
            assert not any(event.HasField("output") for event in events)
            room = True
            await following
        parts = [e.output.infer.outputs[0].data for e in events if e.HasField("output")]
        assert b"".join(parts) == ARRAY.tobytes()


async def test_a_lost_output_is_an_error_and_no_empty_one(tmp_path: Path, stores: Stores) -> None:
    """Where the file of an output is gone or damaged its event is EVENTS_DROPPED with the reason; others are told."""
    async with kernel(tmp_path, stores) as (connection, client):
        await connection.create("m", tensor="identity")
        task_id = await run(client, connection)
        (blob,) = [each async for each in client.list_blobs() if each.size_bytes > ARRAY.nbytes]
        path = blobs_of(connection)._files.path(DEFAULT_TENANT, blob.digest.removeprefix("sha256:"))
        path.write_bytes(b"other" + path.read_bytes()[5:])
    async with kernel(tmp_path, stores) as (connection, client):
        with pytest.raises(EventsDroppedError, match=r"cannot be read: blob sha256:.* is damaged") as caught:
            await outputs(client, task_id)
        first = int(caught.value.metadata["first_sequence"])
        rest = [event async for event in client.watch(task_id, after_sequence=first - 1)]
        assert [event.WhichOneof("kind") for event in rest] == ["finished"]


async def test_outputs_beyond_the_bound_are_deleted_and_said_to_be(tmp_path: Path, stores: Stores) -> None:
    """The outputs of the task that ended first go where too much is stored, in rows and blobs, here and after a start.

    Its end and what it was stay, it says that its output was deleted, and reading it is an error with the setting.
    """
    bound = {"bytes": 3 * ARRAY.nbytes}
    async with kernel(tmp_path, stores, store=bound) as (connection, client):
        await connection.create("m", tensor="identity")
        ids = [await run(client, connection, ARRAY + each) for each in range(3)]
        await deleted(client, ids[0])
        assert await outputs(client, ids[1]) == [(ARRAY + 1).tobytes()]
        await connection.create("fake")
        spec = tp.TaskSpec(model="fake", prompt="la " * 200)
        made = (await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec, request_id="text"))).task.task_id
        text = text_of([event async for event in client.watch(made)])
        assert text.startswith("la la")
    async with kernel(tmp_path, stores, store=bound) as (connection, client):
        await deleted(client, ids[0])
        assert await outputs(client, ids[2]) == [(ARRAY + 2).tobytes()]
        assert text_of([event async for event in client.watch(made)]) == text
    async with kernel(tmp_path, stores, store={"bytes": 100}) as (connection, client):
        for task_id in (*ids, made):
            await deleted(client, task_id)
        with pytest.raises(LimitExceededError, match=r"takes \d+ bytes of the store.* store.bytes is 100"):
            await client.create_task("fake", "la " * 300)
        again = await connection.tasks.CreateTask(ts.CreateTaskRequest(spec=spec, request_id="text"))
        assert again.task.task_id == made
        await blobs_of(connection).sweep()
        assert not [each async for each in client.list_blobs() if each.size_bytes > ARRAY.nbytes]


async def deleted(client: AsyncClient, task_id: str) -> None:
    """A task says that what it gave is gone, once that is written."""
    async with asyncio.timeout(DEADLINE_S):
        while not (await client.get_task(task_id)).output_deleted:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    with pytest.raises(EventsDroppedError, match=r"were deleted, as more was stored .* store.bytes") as caught:
        await outputs(client, task_id)
    first = int(caught.value.metadata["first_sequence"])
    rest = [event async for event in client.watch(task_id, after_sequence=first - 1)]
    assert [event.WhichOneof("kind") for event in rest] == ["finished"]
    assert rest[0].finished.state == tp.TASK_STATE_SUCCEEDED


async def test_a_kernel_starts_on_a_full_disk(tmp_path: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves what is there and refuses what is to be kept, tasks and blobs, until there is room; without a restart.

    So does one that begins to have blobs on that disk, as behind an older version.
    """
    async with kernel(tmp_path, stores) as (connection, client):
        await connection.create("fake")
        made = await client.create_task("fake", "la", max_tokens=5)
        events = [event async for event in client.watch(made.task_id)]
    with closing(stores.open()) as store:
        store.write([Drop(NO_TENANT, Kind.FOLDER, "blobs")])
    write, full = type(store).write, StoreUnavailableError("its disk is full; make room")

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr(type(store), "write", refuse)
    async with kernel(tmp_path, stores) as (connection, client):
        assert text_of([event async for event in client.watch(made.task_id)]) == text_of(events)
        for keeping in (client.create_task("fake", "la"), client.put_blob(b"some")):
            with pytest.raises(Unavailable, match="its disk is full"):
                await keeping
        monkeypatch.setattr(type(store), "write", write)
        async with asyncio.timeout(DEADLINE_S):
            while (blob := await again(client.put_blob(b"some"))) is None:  # noqa: ASYNC110 - it is asked again
                await asyncio.sleep(0)
            while await again(client.create_task("fake", "la", max_tokens=5)) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        digest = blob.digest
        assert b"".join([chunk async for chunk in client.read_blob(digest)]) == b"some"
    async with kernel(tmp_path, stores) as (connection, client):
        assert (await client.get_blob(digest)).size_bytes == 4


async def again(asked: Awaitable[T]) -> T | None:
    """What is answered; None where it is to be asked again."""
    with suppress(Unavailable):
        return await asked
    return None
