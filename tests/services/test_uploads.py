"""Tensors that are too large for a message: given in chunks, and told in chunks."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from connection import Connection, read_failing, reason_of

from inferd.testing.kernel import kernel_here
from inferd.testing.spoilt_memory import HOWS
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.v1 import upload_service_pb2 as us
from inferd_api.v1.upload_service_pb2_grpc import UploadServiceStub
from inferd_client import AsyncClient, Client
from inferd_client.errors import BackendFailedError, PoisonError, TaskExpiredError

MIB = 1 << 20
DEADLINE_S = 60.0
LIMITS = {"task_input_bytes": 8 * MIB, "upload_bytes": 12 * MIB}


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A kernel with small bounds."""
    async with kernel_here(tmp_path, limits=LIMITS, scheduler={"tenant_share": 1e6}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


class Upload:
    """A call of `Upload`."""

    def __init__(self, connection: Connection, size_bytes: int, tenant: str = "default") -> None:
        self._stub: Any = UploadServiceStub(connection.channel)
        self.call = self._stub.Upload(metadata=(("inferd-tenant", tenant),), timeout=DEADLINE_S)
        self._start = us.UploadRequest(start=us.UploadStart(size_bytes=size_bytes))

    async def begin(self) -> str:
        """Its id, once it is accepted."""
        await self.call.write(self._start)
        return str((await self.call.read()).accepted.upload_id)

    async def give(self, data: bytes) -> Any:
        await self.call.write(us.UploadRequest(chunk=data))

    async def refusal(self) -> tuple[str, dict[str, str], str]:
        """Why it was ended."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return *reason_of(error), str(error.details())
        raise AssertionError("it ended well")


def named(upload_id: str, size_bytes: int, *, start: int = 0, shape: tuple[int, ...] = ()) -> ts.RunTaskRequest:
    """A task whose input is in an upload."""
    elements = pb.UploadedElements(upload_id=upload_id, start=start, size_bytes=size_bytes)
    tensor = pb.Tensor(name="x", element_type=1, shape=shape or (1, size_bytes // 4), uploaded=elements)
    return ts.RunTaskRequest(spec=tp.TaskSpec(model="m", infer=pb.InferInput(inputs=[tensor])))


def memories(pid: int | str = "self") -> int:
    """Descriptors of a process, by default this one, that are memories."""
    gc.collect()
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            found += "memfd:inferd" in str(descriptor.readlink())
    return found


async def until_none_is_left() -> None:
    """Wait until no memory is left of what ended just now: the kernel is on this loop, which goes round."""
    async with asyncio.timeout(DEADLINE_S):
        while memories():  # noqa: ASYNC110 - descriptors tell nobody when they are closed
            await asyncio.sleep(0)


async def test_large_tensors_both_ways(connection: Connection) -> None:
    """Tensors beyond a message come to the model and back as they are, in both clients, beside small ones."""
    await connection.create("m", tensor="identity")
    address = connection.kernel.addresses[0]
    async with AsyncClient(address) as client:
        arrays = [np.arange(n, dtype="f4")[None] for n in (3, 200_000, 700_000, 2_000_000)]
        told = await asyncio.gather(*(client.infer("m", {"x": array}) for array in arrays))
    for array, outputs in zip(arrays, told, strict=True):
        assert np.array_equal(outputs["y"], array)
    with Client(address) as client:
        outputs = await asyncio.to_thread(client.infer, "m", {"x": arrays[-1]})
        assert np.array_equal(outputs["y"], arrays[-1])


async def test_a_kernel_of_small_messages(tmp_path: Path) -> None:
    """Where a kernel takes smaller messages than by default, chunks and parts are as small, and nobody sees that."""
    async with kernel_here(tmp_path, limits={"message_bytes": 600_000}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("m", tensor="identity")
        async with AsyncClient(kernel.addresses[0]) as client:
            for width in (300_000, 900_000):
                array = np.arange(width, dtype="f4")[None]
                assert np.array_equal((await client.infer("m", {"x": array}))["y"], array)
        await connection.channel.close()


@pytest.mark.parametrize(
    ("size_bytes", "bound", "limit"),
    [(8 * MIB + 1, "task_input_bytes", 8 * MIB), (5 * MIB, "upload_bytes", 12 * MIB), (0, "", 0)],
)
async def test_refused_before_a_chunk(connection: Connection, size_bytes: int, bound: str, limit: int) -> None:
    """An upload too large, or too large beside others, is refused by what it states, with numbers and setting."""
    other = Upload(connection, 8 * MIB)
    await other.begin()
    upload = Upload(connection, size_bytes)
    await upload.call.write(us.UploadRequest(start=us.UploadStart(size_bytes=size_bytes)))
    reason, facts, message = await upload.refusal()
    assert reason == ("LIMIT_EXCEEDED" if bound else "INVALID_FIELD")
    assert str(size_bytes) in message
    if bound:
        assert (facts["bound"], facts["value"], facts["limit"]) == (f"limits.{bound}", str(size_bytes), str(limit))
    other.call.cancel()


async def test_uploads_have_a_bound(tmp_path: Path) -> None:
    """So many uploads as the setting says are open at once, of one tenant its share, however small they are."""
    async with kernel_here(tmp_path, limits={"uploads": 4}, scheduler={"tenant_share": 1}) as kernel:
        connection = Connection(kernel, tmp_path)
        uploads = [Upload(connection, 1) for _ in range(3)]
        for upload in uploads[:2]:
            assert await upload.begin()
        await uploads[2].call.write(us.UploadRequest(start=us.UploadStart(size_bytes=1)))
        reason, facts, message = await uploads[2].refusal()
        assert (reason, facts["bound"], facts["held"], facts["limit"]) == ("LIMIT_EXCEEDED", "limits.uploads", "2", "4")
        assert "limits.uploads is 4" in message
        assert await Upload(connection, 1, "other").begin()
        for upload in uploads[:2]:
            upload.call.cancel()
        await connection.channel.close()


@pytest.mark.parametrize("how", ["cancel", "short", "long", "empty", "start again", "behind"])
async def test_half_an_upload_leaves_nothing(connection: Connection, how: str) -> None:
    """A client that stops half-way, sends too much or nothing leaves nothing behind: its bytes are free at once."""
    upload = Upload(connection, 8 * MIB)
    upload_id = await upload.begin()
    await upload.give(bytes(MIB))
    match how:
        case "cancel":
            upload.call.cancel()
        case "short":
            await upload.call.done_writing()
        case "long":
            for _ in range(8):
                await upload.give(bytes(MIB))
        case "empty":
            await upload.give(b"")
        case "start again":
            await upload.call.write(us.UploadRequest(start=us.UploadStart(size_bytes=1)))
        case "behind":
            for _ in range(7):
                await upload.give(bytes(MIB))
            await upload.give(b"1")
    if how != "cancel":
        reason, facts, message = await upload.refusal()
        assert (reason, facts.get("bound")) == ("INVALID_FIELD", None), message
    await until_none_is_left()
    _, error = await read_failing(connection.tasks.RunTask(named(upload_id, MIB)))
    assert reason_of(error)[0] in {"UPLOAD_NOT_FOUND", "MODEL_NOT_FOUND"}
    async with asyncio.timeout(DEADLINE_S):
        again = Upload(connection, 8 * MIB)
        assert await again.begin()
        again.call.cancel()
    await until_none_is_left()


@pytest.mark.parametrize(("given", "why"), [(0, "start"), (1, "no chunk behind 1 of 2"), (2, "no task named")])
async def test_an_upload_of_which_nothing_comes(tmp_path: Path, given: int, why: str) -> None:
    """An upload of which nothing comes for long, or that no task names, ends by its setting and leaves nothing."""
    async with kernel_here(tmp_path, limits={"upload_idle_s": 0.2}) as kernel:
        connection = Connection(kernel, tmp_path)
        upload = Upload(connection, 2)
        await upload.begin()
        if given:
            await upload.give(b"1" * given)
        reason, facts, message = await upload.refusal()
        assert (reason, facts["bound"]) == ("LIMIT_EXCEEDED", "limits.upload_idle_s")
        assert given == 0 or why in message
        await until_none_is_left()
        await connection.channel.close()


async def test_what_a_task_names(connection: Connection) -> None:
    """A task names the tenant's own complete uploads, within their bytes and as large as type and shape say."""
    await connection.create("m", tensor="identity")
    upload = Upload(connection, 8)
    upload_id = await upload.begin()
    _, error = await read_failing(connection.tasks.RunTask(named(upload_id, 8)))
    assert reason_of(error)[0] == "UPLOAD_NOT_FOUND"  # nothing has come yet
    await upload.give(np.array([1, 2], "f4").tobytes())
    assert (await upload.call.read()).HasField("complete")
    for request, tenant, reason, numbers in (
        (named(upload_id, 8), "other", "UPLOAD_NOT_FOUND", upload_id),
        (named("none", 8), "default", "UPLOAD_NOT_FOUND", "none"),
        (named(upload_id, 8, start=4), "default", "INVALID_FIELD", "start is 4 and size_bytes 8; the upload ends at 8"),
        (named(upload_id, 8, start=2**64 - 4), "default", "INVALID_FIELD", "the upload ends at 8"),
        (named(upload_id, 8, shape=(1, 3)), "default", "INVALID_FIELD", "8 bytes; type FLOAT and shape [1, 3] need 12"),
    ):
        _, error = await read_failing(connection.tasks.RunTask(request, metadata=(("inferd-tenant", tenant),)))
        assert reason_of(error)[0] == reason
        assert numbers in str(error.details())
    for start, value in ((0, 1.0), (4, 2.0)):  # several tasks may name one
        events = [r.event async for r in connection.tasks.RunTask(named(upload_id, 4, start=start))]
        (output,) = (e.output.infer.outputs[0] for e in events if e.HasField("output"))
        assert np.frombuffer(output.data, "f4").tolist() == [value]
    await upload.call.done_writing()
    assert await upload.call.read() is grpc.aio.EOF


async def test_parts_are_told_again(connection: Connection) -> None:
    """A set in parts has one number: who comes back behind the event before it is told all of its parts again."""
    await connection.create("m", tensor="identity")
    array = np.arange(1_500_000, dtype="f4")[None]
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        await client.infer("m", {"x": array})
        (task,) = [task async for task in client.list_tasks()]
        whole = [e async for e in client.watch(task.task_id) if e.HasField("output")]
    call = connection.tasks.WatchTask(ts.WatchTaskRequest(task_id=task.task_id))
    parts = [r.event async for r in call if r.event.HasField("output")]
    assert {part.sequence for part in parts} == {whole[0].sequence}
    assert [part.output.infer.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert len(parts) > 1
    assert b"".join(part.output.infer.outputs[0].data for part in parts) == array.tobytes()
    assert len(whole) == 1
    assert whole[0].output.infer.outputs[0].data == array.tobytes()


async def test_a_large_message_lowers_the_calls(tmp_path: Path) -> None:
    """The calls that are accepted at once, times the largest message, are no more than `call_bytes`."""
    limits = {"message_bytes": 8 * MIB, "call_bytes": 16 * MIB, "calls": 100}
    async with kernel_here(tmp_path, limits=limits) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create(step_s=0.01)
        calls = [connection.endless() for _ in range(2)]
        for call in calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.chat("hello").read()
        reason, facts = reason_of(caught.value)
        assert (reason, facts["limit"], facts["bound"]) == ("LIMIT_EXCEEDED", "2", "limits.calls")
        assert "limits.call_bytes" in str(caught.value.details())
        for call in calls:
            call.cancel()
        await connection.channel.close()


@pytest.mark.parametrize("how", HOWS)
async def test_memories_that_are_not_what_they_must_be(connection: Connection, how: str) -> None:
    """Outputs in a memory that is unsealed, short or elsewhere fail their task, typed; kernel and worker live."""
    await connection.create("m", tensor="identity", memory=how)
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        small = np.ones((1, 4), "f4")
        assert (await client.infer("m", {"x": small}))["y"].tolist() == small.tolist()
        before = [(m.name, [i.pid for i in m.instances]) async for m in client.list_models()]
        for _ in range(3):
            with pytest.raises(BackendFailedError, match="outputs that cannot be read") as caught:
                await client.infer("m", {"x": np.ones((1, 300_000), "f4")})
            assert caught.value.metadata["cause"]
        assert (await client.infer("m", {"x": small}))["y"].tolist() == small.tolist()
        assert [(m.name, [i.pid for i in m.instances]) async for m in client.list_models()] == before
    await until_none_is_left()


async def test_descriptors_are_closed(connection: Connection) -> None:
    """After tasks of large tensors that succeed, fail, are cancelled, or whose worker dies, no memory is left open."""
    await connection.create("m", tensor="identity", fail_on_token=2, die_on_token=3, threads=2)
    large = np.ones((1, 300_000), "f4")
    async with AsyncClient(connection.kernel.addresses[0]) as client:
        for value, error in ((1, None), (2, BackendFailedError), (1, TaskExpiredError), (3, PoisonError), (1, None)):
            with pytest.raises(error) if error is not None else nullcontext():
                timeout_s = 1e-3 if error is TaskExpiredError else None
                await client.infer("m", {"x": large * value}, timeout_s=timeout_s)
        cancelled = asyncio.create_task(client.infer("m", {"x": large}))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        for _ in range(2):  # the last one may still be held by the thread that computed it
            await client.infer("m", {"x": np.ones((1, 1), "f4")})
        (pid,) = [i.pid async for m in client.list_models() for i in m.instances]
        async with asyncio.timeout(DEADLINE_S):
            while memories(pid) > 1:
                await client.infer("m", {"x": np.ones((1, 1), "f4")})
        for task in [task async for task in client.list_tasks()]:
            assert task.HasField("finished")
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="m"))
    assert memories() <= 3  # the sets of tasks that have ended and can still be read
