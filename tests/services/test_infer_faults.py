"""What becomes of tasks of tensors when something fails, dies, hangs, is stopped or is too much."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from connection import Connection, kinds_of, read_failing, read_until, reason_of

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.v1.model_pb2 import InstanceState
from inferd_client import AsyncClient, Client, InferSequence, claims
from inferd_client.errors import (
    BackendFailedError,
    InvalidFieldError,
    LeaseEndedError,
    LimitExceededError,
    PoisonError,
    SequenceNotFoundError,
    TaskExpiredError,
)

X = np.array([[1, 2], [3, 4]], np.float32)
DEADLINE_S = 60.0


@pytest.fixture
async def client(connection: Connection) -> AsyncIterator[AsyncClient]:
    """A client of the kernel."""
    async with AsyncClient(connection.kernel.addresses[0]) as made:
        yield made


def tensor(name: str = "x", kind: int = 1, shape: tuple[int, ...] = (1, 1), **elements: Any) -> pb.Tensor:
    """A tensor of the wire, by default one float."""
    return pb.Tensor(name=name, element_type=kind, shape=shape, **(elements or {"data": bytes(4)}))


def task(*inputs: pb.Tensor, model: str = "m", **spec: Any) -> ts.RunTaskRequest:
    """The request for a task of tensors."""
    return ts.RunTaskRequest(spec=tp.TaskSpec(model=model, infer=pb.InferInput(inputs=inputs), **spec))


async def test_tensors_beyond_bounds(tmp_path: Path) -> None:
    """More tensors, dimensions, elements or texts than the configuration permits are LIMIT_EXCEEDED by its setting."""
    limits = {"tensors": 2, "tensor_rank": 2, "tensor_elements": 100, "tensor_strings": 3}
    async with kernel_here(tmp_path, limits=limits) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("m", tensor="identity")
        texts = tensor(kind=8, shape=(4,), strings=pb.StringElements(values="abcd"))
        huge = tensor(shape=(2**62, 2**62), data=b"")
        empty = tensor(shape=(0, 101), data=b"")
        names = task(tensor())
        names.spec.infer.outputs.extend("abc")
        for request, bound in (
            (task(tensor("a"), tensor("b"), tensor("c")), "tensors"),
            (names, "tensors"),
            (task(tensor(shape=(1, 1, 1))), "tensor_rank"),
            (task(huge), "tensor_elements"),
            (task(empty), "tensor_elements"),
            (task(texts), "tensor_strings"),
        ):
            _, error = await read_failing(connection.tasks.RunTask(request))
            reason, facts = reason_of(error)
            assert (reason, facts["bound"]) == ("LIMIT_EXCEEDED", f"limits.{bound}")
            assert facts["limit"] == str(limits[bound])
        await connection.channel.close()


async def test_a_stream_that_fails(connection: Connection, client: AsyncClient) -> None:
    """What was told before an error stays told, and the error is the task's end."""
    await connection.create("m", tensor="repeat", fail_on_token=3)
    sets = client.infer_stream("m", {"count": np.float32(9)})
    assert [(await anext(sets))["y"].item() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BackendFailedError, match="is among the inputs"):
        await anext(sets)


async def test_bad_ones_among_many(connection: Connection, client: AsyncClient) -> None:
    """Of requests that are computed as one, those that the model refuses or fails at fail, and no other one."""
    await connection.create("m", tensor="add", most_batch=16, fail_on_token=99)

    async def ask(value: float) -> object:
        array = np.full((1, 2), value, "f4")
        try:
            return (await client.infer("m", {"a": array, "b": array}))["sum"][0, 0].item()
        except (InvalidFieldError, BackendFailedError) as error:
            return type(error)

    values = [float(n) for n in range(1, 30)] + [-7.0, 99.0]
    told = await asyncio.gather(*(ask(value) for value in values))
    assert told == [2 * value for value in values[:-2]] + [InvalidFieldError, BackendFailedError]


async def test_a_task_that_kills_workers(connection: Connection, client: AsyncClient) -> None:
    """Tensors of which workers die are found out: their task fails with POISON, those beside it succeed."""
    await connection.create("m", tensor="identity", most_batch=8, die_on_token=13)

    async def ask(value: float) -> str:
        try:
            given = await client.infer("m", {"x": np.full((1, 1), value, "f4")}, timeout_s=DEADLINE_S)
        except PoisonError as error:
            return error.reason
        return str(given["y"].item())

    told = await asyncio.gather(*(ask(value) for value in (1.0, 13.0, 2.0, 3.0)))
    assert told == ["1.0", "POISON", "2.0", "3.0"]
    assert await ask(13.0) == "POISON"


async def test_going_on_after_a_death(connection: Connection) -> None:
    """A stream of tensors whose worker dies goes on behind the last set that it told: none is lost or told twice."""
    await connection.create("m", tensor="repeat", step_s=0.02)
    call = connection.tasks.RunTask(task(tensor("count", shape=(), data=np.float32(12).tobytes())), timeout=DEADLINE_S)
    events = await read_until(call, "output")
    model = (await connection.models.GetModel(ms.GetModelRequest(name="m"))).model

    os.kill(model.instances[0].pid, signal.SIGKILL)
    events += [response.event async for response in call]
    told = [np.frombuffer(e.output.infer.outputs[0].data, "f4").item() for e in events if e.HasField("output")]
    assert told == list(range(12))
    assert "suspended" in kinds_of(events)


async def test_cancel_in_a_stream(connection: Connection, client: AsyncClient) -> None:
    """A client that leaves ends its task between two sets: the only place is free for the next one."""
    await connection.create("m", tensor="repeat", step_s=0.02)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            sets = client.infer_stream("m", {"count": np.float32(1e6)})
            assert (await anext(sets))["y"].item() == 0
            await sets.aclose()
        assert [each["y"].item() async for each in client.infer_stream("m", {"count": np.float32(2)})] == [0, 1]


async def test_deadline(connection: Connection, client: AsyncClient) -> None:
    """A task of tensors that is not done at its deadline expires."""
    await connection.create("m", tensor="repeat", step_s=0.05)
    with pytest.raises(TaskExpiredError):
        async for _ in client.infer_stream("m", {"count": np.float32(1e6)}, timeout_s=0.5):
            pass


async def test_suspended_before_it_began(connection: Connection, client: AsyncClient) -> None:
    """A task that waits behind another is suspended and resumed as any other, and gives its outputs once."""
    await connection.create("m", tensor="repeat", step_s=0.02)
    first = client.infer_stream("m", {"count": np.float32(1e6)})
    await anext(first)
    call = connection.tasks.RunTask(task(tensor("count", shape=(), data=np.float32(2).tobytes())), timeout=DEADLINE_S)
    task_id = (await read_until(call, "started"))[0].task_id
    await client.suspend_task(task_id)
    await first.aclose()
    await client.resume_task(task_id)
    events = [response.event async for response in call]
    assert [e for e in kinds_of(events) if e != "queued"] == ["suspended", "resumed", "output", "finished"]
    assert sum(event.HasField("output") for event in events) == 2


async def test_outputs_that_are_too_large(tmp_path: Path) -> None:
    """Outputs that are larger than they may be fail their task with the setting and both numbers, and no worker."""
    async with kernel_here(tmp_path, limits={"output_bytes": 1_000_000}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("m", tensor="add")
        async with AsyncClient(kernel.addresses[0]) as client:
            array = np.ones((120_000, 1), "f4")
            small = await client.infer("m", {"a": array, "b": array}, outputs=["sum"])
            assert small["sum"].nbytes == 480_000
            array = np.ones((128_000, 1), "f4")
            with pytest.raises(LimitExceededError, match=r"limits\.output_bytes") as caught:
                await client.infer("m", {"a": array, "b": array})
            assert caught.value.metadata == {
                "bound": "limits.output_bytes",
                "value": str(1_024_000),
                "limit": str(1_000_000),
                "model": "m",
            } | {k: v for k, v in caught.value.metadata.items() if k == "log"}
            assert (await client.infer("m", {"a": X, "b": X}))["rows"].tolist() == [2, 2]
        await connection.channel.close()


async def test_outputs_beyond_what_is_held_of_a_task(tmp_path: Path) -> None:
    """A set of outputs that is larger than what is held of a task's events is held and told all the same."""
    limits = {"message_bytes": 2 << 20, "stream_bytes": 1 << 20}
    async with kernel_here(tmp_path, limits=limits) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("m", tensor="identity")
        async with AsyncClient(kernel.addresses[0]) as client:
            for width in (240_000, 400_000, 900_000):
                array = np.arange(width, dtype="f4")[None]
                assert np.array_equal((await client.infer("m", {"x": array}))["y"], array)
        await connection.channel.close()


async def test_a_hung_predict(tmp_path: Path) -> None:
    """A `predict` that never returns is seen, its worker is ended, and the task is found to be the cause."""
    workers = {"heartbeat_s": 0.05, "step_floor_s": 0.3, "step_ceiling_s": 0.3, "restart_backoff_s": 0.01}
    async with kernel_here(tmp_path, workers=workers) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("m", tensor="identity", hang_on_token=5, hang_by="deadlock_in_c", threads=2)
        async with AsyncClient(kernel.addresses[0]) as client:
            with pytest.raises(PoisonError, match="step 1 has run for"):
                await client.infer("m", {"x": np.full((1, 1), 5, "f4")}, timeout_s=DEADLINE_S)
            assert (await client.infer("m", {"x": X}))["y"].tolist() == X.tolist()
        await connection.channel.close()


async def test_leases_hold_places(connection: Connection, client: AsyncClient) -> None:
    """A lease on sequences of a model of tensors holds as many places; its tasks run, those after its end do not."""
    await connection.create("m", tensor="identity")
    await client.model_signature("m")
    async with client.lease(claims.model("m", sequences=1), wait=True) as lease:
        assert (await client.infer("m", {"x": X}, lease=lease))["y"].tolist() == X.tolist()
        assert (await client.infer("m", {"x": X}))["y"].tolist() == X.tolist()
    with pytest.raises(LeaseEndedError):
        await client.infer("m", {"x": X}, lease=lease)


async def test_inputs_that_are_too_large(connection: Connection, client: AsyncClient) -> None:
    """Texts of more bytes than a message may have are refused with both numbers and the setting, in both clients."""
    await connection.create("m", tensor="types")
    texts = {"string": ["x" * 1_100_000] * 4}
    with pytest.raises(LimitExceededError, match=r"limits\.message_bytes.* raise that setting") as caught:
        await client.infer("m", texts)
    facts = caught.value.metadata
    assert (facts["bound"], facts["limit"]) == ("limits.message_bytes", str(4 << 20))
    assert 4_400_000 < int(facts["value"]) < 4_401_000
    with Client(connection.kernel.addresses[0]) as other, pytest.raises(LimitExceededError, match=str(4 << 20)):
        await asyncio.to_thread(other.infer, "m", texts)
    assert (await client.infer("m", {"string": ["a"]}))["string"].tolist() == ["a"]


async def test_sequences_on_several_instances(connection: Connection, client: AsyncClient) -> None:
    """Each sequence keeps to the instance that has its state, however many there are and however full they are."""
    path = write_fake_model(connection.folder, "m", tensor="accumulate", step_s=0.01)
    await client.create_model("m", source=str(path), min_instances=2, max_instances=2)
    async with asyncio.timeout(DEADLINE_S):
        async for model in client.watch_model("m"):
            if sum(instance.state == InstanceState.INSTANCE_STATE_READY for instance in model.instances) == 2:
                break

    async def live(number: int) -> float:
        for count in range(6):
            step = InferSequence(id=f"s{number}", start=count == 0)
            given = await client.infer("m", {"x": np.full((1, 2), number, "f4")}, sequence=step)
        total: float = given["total"][0, 0].item()
        return total

    async def crowd() -> None:
        for _ in range(30):
            zeros = np.zeros((1, 2), "f4")
            await client.infer("m", {"x": zeros, "before": zeros})

    *_, totals = await asyncio.gather(crowd(), crowd(), crowd(), asyncio.gather(*(live(n) for n in range(1, 9))))
    assert totals == [6 * number for number in range(1, 9)]


async def test_an_idle_sequence_ends(tmp_path: Path) -> None:
    """A sequence without a task for `workers.sequence_idle_s` makes room for another one, and its next task is told."""
    async with kernel_here(tmp_path, workers={"sequence_idle_s": 0.2, "sequences": 1}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("m", tensor="accumulate")
        async with AsyncClient(kernel.addresses[0]) as client, asyncio.timeout(DEADLINE_S):
            await client.infer("m", {"x": X[:1]}, sequence=InferSequence(id="idle", start=True))
            refused = True
            while refused:
                try:
                    await client.infer("m", {"x": X[:1]}, sequence=InferSequence(id="next", start=True))
                    refused = False
                except LimitExceededError as error:
                    refused = error.metadata["bound"] == "workers.sequences"
            with pytest.raises(SequenceNotFoundError, match=r"idle for 0\.2 s \(workers\.sequence_idle_s\)"):
                await client.infer("m", {"x": X[:1]}, sequence=InferSequence(id="idle"))
        await connection.channel.close()
