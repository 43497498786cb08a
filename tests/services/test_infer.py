"""Tasks of tensors, from clients through a kernel and its worker to the fake backend and back."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from connection import Connection, kinds_of, read_all, read_failing
from wire_requests import refusal_of

from inferd.plugin.tensor import BITS, ElementType, size_bytes
from inferd.runtime import stream
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_client import AsyncClient, Client, InferSequence
from inferd_client.errors import InvalidFieldError, SequenceNotFoundError, UnsupportedInputError

pytestmark = pytest.mark.asyncio(loop_scope="module")

X = np.array([[1, 2], [3, 4]], np.float32)
DEADLINE_S = 60.0
MODELS: dict[str, dict[str, Any]] = {
    "text": {},
    **{name: {"tensor": name} for name in ("identity", "add", "accumulate", "repeat", "types")},
    "stretch": {"tensor": "stretch", "most_batch": 8},
    "accumulate8": {"tensor": "accumulate", "most_batch": 8},
    "unloaded": {"tensor": "identity"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connection]:
    """A connection to a kernel with a model of each kind, for all tests here."""
    folder = tmp_path_factory.mktemp("served")
    async with kernel_here(folder) as kernel:
        made = Connection(kernel, folder)
        for name, behaviour in MODELS.items():
            await made.create(name, **behaviour)
        yield made
        await made.channel.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(served: Connection) -> AsyncIterator[AsyncClient]:
    """A client of it."""
    async with AsyncClient(served.kernel.addresses[0]) as made:
        yield made


def tensor(name: str = "x", kind: int = 1, shape: tuple[int, ...] = (1, 1), **elements: Any) -> pb.Tensor:
    """A tensor of the wire, by default one float."""
    return pb.Tensor(name=name, element_type=kind, shape=shape, **(elements or {"data": bytes(4)}))


def task(*inputs: pb.Tensor, model: str = "identity", **spec: Any) -> ts.RunTaskRequest:
    """The request for a task of tensors."""
    return ts.RunTaskRequest(spec=tp.TaskSpec(model=model, infer=pb.InferInput(inputs=inputs), **spec))


async def test_a_short_task_is_one_response(served: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `several_events` all of a task that ends at once is one response; without it each event has its own."""
    monkeypatch.setattr(stream, "MOMENT_S", 3600.0)
    request = task(tensor())
    await read_all(served.tasks.RunTask(request))  # the model is loaded
    single = [response async for response in served.tasks.RunTask(request)]
    assert [len(response.more_events) for response in single] == [0, 0, 0]
    request.several_events = True
    (response,) = [response async for response in served.tasks.RunTask(request)]
    events = [response.event, *response.more_events]
    assert kinds_of(events) == ["started", "output", "finished"]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert len({event.task_id for event in events}) == 1
    watch = ts.WatchTaskRequest(task_id=events[0].task_id, several_events=True)
    (again,) = [response async for response in served.tasks.WatchTask(watch)]
    assert [again.event, *again.more_events] == events


async def test_large_events_are_not_put_together(served: Connection) -> None:
    """With `several_events` nothing shares a message of a large set, not even the end, which goes with the status."""
    x = tensor(shape=(1, 400_000), data=bytes(1_600_000))
    request = ts.RunTaskRequest(
        spec=tp.TaskSpec(model="identity", infer=pb.InferInput(inputs=[x])), several_events=True
    )
    responses = [response async for response in served.tasks.RunTask(request)]
    events = [event for response in responses for event in (response.event, *response.more_events)]
    kinds = kinds_of(events)
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("started", "finished", {"output"})
    assert b"".join(each.data for e in events for each in e.output.infer.outputs) == x.data
    assert [kinds_of(response.more_events) for response in responses] == [[]] * len(responses)


async def test_tensors_come_back(served: Connection, client: AsyncClient) -> None:
    """Both clients are given the arrays of a model's outputs by name; the events are those of every task."""
    assert {name: array.tolist() for name, array in (await client.infer("add", {"a": X, "b": X})).items()} == {
        "sum": [[2, 4], [6, 8]],
        "rows": [2, 2],
    }
    with Client(served.kernel.addresses[0]) as other:
        given = await asyncio.to_thread(other.infer, "add", {"a": X, "b": X}, outputs=["sum"])
    assert list(given) == ["sum"]
    assert given["sum"].dtype == np.float32
    inputs = [tensor("a"), tensor("b")]
    events = await read_all(served.tasks.RunTask(task(*inputs, model="add")))
    assert kinds_of(events) == ["started", "output", "finished"]
    assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    assert events[-1].finished.receipt.backend == "fake"


def contents(kind: ElementType, shape: tuple[int, ...]) -> dict[str, Any]:
    """Elements of a type, no two bytes alike where there are few."""
    if kind is ElementType.STRING:
        return {"strings": pb.StringElements(values=["", "é", "a\0b", "🗼" * 300, "x", "\n"])}
    count = size_bytes(kind, shape)
    data = bytes(n % 2 if kind is ElementType.BOOL else 7 * n % 256 for n in range(count))
    return {"data": data}


async def test_every_type_of_element(served: Connection) -> None:
    """A tensor of each type, also of several elements in a byte, comes back bit by bit as it went."""
    shape = (2, 3)
    given = [tensor(kind.name.lower(), kind, shape, **contents(kind, shape)) for kind in ElementType]
    request = task(*given, model="types")
    request.spec.infer.outputs.extend(each.name for each in given)
    events = await read_all(served.tasks.RunTask(request))
    (output,) = [event.output for event in events if event.HasField("output")]
    assert list(output.infer.outputs) == given
    assert {kind for kind in ElementType if kind is not ElementType.STRING} == set(BITS)


@pytest.mark.parametrize(
    "array",
    [
        *(np.array([[0, 1], [1, 0]], dtype) for dtype in ("?", "u1", "i1", "<u2", ">i2", "<i4", ">i8", "u4", "u8")),
        *(np.array([[0.5, -1.5]], dtype) for dtype in ("<f2", ">f4", "f8", "c8", "c16")),
        np.array(3, np.float32),
        np.zeros((0, 5), np.int64),
        np.array([["ä", ""]]),
        np.array(["ä", "b"], object),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
    ],
)
async def test_arrays_of_clients(client: AsyncClient, array: Any) -> None:
    """What numpy has of types, in whatever order of bytes and in memory, comes back equal and in its own order."""
    names = {"b": "bool", "U": "string", "O": "string", "f8": "double", "f4": "float"}
    name = names.get(array.dtype.kind) if array.dtype.kind in "bUO" else array.dtype.name
    name = {"float64": "double", "float32": "float"}.get(str(name), str(name))
    given = (await client.infer("types", {name: array}, outputs=[name]))[name]
    assert given.shape == array.shape
    assert np.array_equal(given, array)
    assert given.dtype.isnative
    given[...] = given  # it is the client's own


async def test_signature(client: AsyncClient) -> None:
    """A model tells what it takes and gives, loading for that; one that reads text has none, and says so."""
    signature = await client.model_signature("accumulate8")
    x, before = signature.inputs
    assert (x.name, before.name, x.element_type) == ("x", "before", pb.ELEMENT_TYPE_FLOAT)
    assert list(x.shape) == [pb.Dimension(name="batch"), pb.Dimension(size=2)]
    assert [info.name for info in signature.outputs] == ["total", "after"]
    assert list(signature.states) == [pb.TensorState(input_name="before", output_name="after", start_shape=[2])]
    assert (signature.most_batch, signature.threads) == (8, 1)
    with pytest.raises(UnsupportedInputError, match="prompt"):
        await client.model_signature("text")


async def test_signature_of_batches(client: AsyncClient) -> None:
    """A model tells what is filled up and cut back, how long tasks wait, and what waits for nothing."""
    batching = (await client.model_signature("stretch")).batching
    assert (list(batching.preferred_batches), batching.delay.ToTimedelta().total_seconds()) == ([8], 0.002)
    fill, cut = pb.TensorFill(input_name="x", dimension=1, whole=0), pb.TensorCut(output_name="y", dimension=1)
    assert list(batching.paddings) == [pb.TensorPadding(fills=[fill], cuts=[cut])]
    assert batching.padding_times == 2.0
    assert not (await client.model_signature("identity")).HasField("batching")


async def test_tasks_of_several_widths_are_one_call(client: AsyncClient) -> None:
    """Tasks whose rows are not equally wide are computed together, and each has the answer that is its own."""
    widths = [1, 2, 3, 4, 3, 2, 1, 2]
    rows = [np.arange(1, width + 1, dtype=np.float32)[None] for width in widths]
    found = await asyncio.gather(*(client.infer("stretch", {"x": row}) for row in rows))
    for row, outputs in zip(rows, found, strict=True):
        assert outputs["y"].tolist() == (2 * row).tolist()
        assert outputs["sum"].tolist() == row.sum(1).tolist()
    assert max(outputs["rows"].item() for outputs in found) > 1


async def test_work_of_the_other_kind(client: AsyncClient) -> None:
    """Text for a model of tensors, and tensors for one of text, are refused with the field and the way out."""
    with pytest.raises(UnsupportedInputError, match=r"reads no text; give spec\.infer") as caught:
        await client.generate("identity", "Hello")
    assert caught.value.field == "spec.prompt"
    with pytest.raises(UnsupportedInputError, match="conversation"):
        await client.generate("identity", [{"role": "user", "content": "Hello"}])
    with pytest.raises(UnsupportedInputError, match="GetModelSignature"):
        await client.tokenize("identity", "Hello")
    with pytest.raises(UnsupportedInputError, match="takes no tensors; give it a prompt") as caught:
        await client.infer("text", {"x": X})
    assert caught.value.field == "spec.infer"
    assert (await client.generate("text", "Hello", max_tokens=5)).text == "Hello"
    assert (await client.infer("identity", {"x": X}))["y"].tolist() == X.tolist()


async def refused(served: Connection, request: ts.RunTaskRequest) -> tuple[str, str, str]:
    """Reason, field and message of the error of a task."""
    _, error = await read_failing(served.tasks.RunTask(request, timeout=DEADLINE_S))
    _, reason, field = refusal_of(error)
    return reason, field, error.details() or ""


DAMAGED = {
    "inputs[0].data": [
        (tensor(shape=(1, 2), data=bytes(4)), "has 4 bytes; type FLOAT and shape [1, 2] need 8"),
        (tensor(shape=(1, 0), data=bytes(4)), "need 0"),
        (tensor(kind=ElementType.INT4, shape=(3,), data=bytes(1)), "need 2"),
        (tensor(kind=ElementType.STRING, shape=(1,), data=b"x"), "strings"),
        (pb.Tensor(name="x", element_type=1, shape=[1, 1]), "has 0 bytes"),
    ],
    "inputs[0].strings": [
        (tensor(kind=ElementType.STRING, shape=(2,), strings=pb.StringElements(values=["a"])), "has 1 texts"),
        (tensor(strings=pb.StringElements(values=["a"])), "data"),
    ],
    "inputs[0].element_type": [(tensor(kind=0), "from 1 to 26"), (tensor(kind=27), "is 27"), (tensor(kind=-1), "-1")],
    "inputs[0].shape": [(tensor(shape=(1, -1)), "-1"), (tensor(shape=(-(2**63), 0)), "0 or more")],
    "inputs[0].name": [(tensor(name=""), "")],
}


@pytest.mark.parametrize(
    ("field", "wrong", "why"), [(field, wrong, why) for field, each in DAMAGED.items() for wrong, why in each]
)
async def test_tensors_that_contradict_themselves(served: Connection, field: str, wrong: pb.Tensor, why: str) -> None:
    """A tensor without what its type and shape say is INVALID_FIELD by its path, before a worker hears of it."""
    reason, path, message = await refused(served, task(wrong, model="unloaded"))
    assert (reason, path) == ("INVALID_FIELD", f"spec.infer.{field}")
    assert why in message
    model = (await served.models.GetModel(ms.GetModelRequest(name="unloaded"))).model
    assert not model.instances


@pytest.mark.parametrize("name", ["sampling", "embedding"])
async def test_parameters_of_text(served: Connection, name: str) -> None:
    """Parameters of sampling and of embeddings beside tensors are INVALID_FIELD: they would change nothing."""
    given = {"sampling": SamplingParams(top_k=1), "embedding": tp.EmbeddingParams()}[name]
    reason, field, _ = await refused(served, task(tensor(), **{name: given}))
    assert (reason, field) == ("INVALID_FIELD", f"spec.{name}")


@pytest.mark.parametrize(
    ("inputs", "field", "why"),
    [
        ([tensor("z")], "inputs[0].name", "did you mean 'x'|It has: x"),
        ([], "inputs", "'x' is missing"),
        ([tensor(kind=11, data=bytes(8))], "inputs[0].element_type", r"DOUBLE; the model takes FLOAT of shape"),
        ([tensor(shape=(1,))], "inputs[0].shape", "has 1 dimensions"),
        ([tensor(shape=(1, 3), data=bytes(12))], "inputs[0].shape", "size 3 in dimension 1"),
        ([tensor(shape=(1, 2), data=bytes(8)), tensor("x")], "inputs[1].name", "once"),
        (
            [tensor(shape=(1, 2), data=bytes(8)), tensor("before", shape=(2, 2), data=bytes(16))],
            "inputs[1].shape",
            "batch 2 and input 'x' has 1",
        ),
    ],
)
async def test_inputs_that_a_model_does_not_take(
    served: Connection, inputs: list[pb.Tensor], field: str, why: str
) -> None:
    """Inputs that are not those of the signature are INVALID_FIELD, with what was given and what the model takes."""
    reason, path, message = await refused(served, task(*inputs, model="accumulate"))
    assert (reason, path) == ("INVALID_FIELD", f"spec.infer.{field}")
    assert re.search(why, message), message


async def test_outputs_that_a_model_does_not_give(client: AsyncClient) -> None:
    """An output that the model does not give is INVALID_FIELD with the nearest one; a name twice, too."""
    with pytest.raises(InvalidFieldError, match="did you mean 'sum'"):
        await client.infer("add", {"a": X, "b": X}, outputs=["rows", "sun"])
    with pytest.raises(InvalidFieldError, match="once") as caught:
        await client.infer("add", {"a": X, "b": X}, outputs=["rows", "rows"])
    assert caught.value.field == "spec.infer.outputs[1]"


async def total(client: AsyncClient, model: str, name: str, value: float, **step: bool) -> list[float]:
    """What a sequence has summed up after one more request."""
    given = await client.infer(model, {"x": np.full((1, 2), value, "f4")}, sequence=InferSequence(id=name, **step))
    assert list(given) == ["total"]
    numbers: list[float] = given["total"][0].tolist()
    return numbers


@pytest.mark.parametrize("model", ["accumulate", "accumulate8"])
async def test_sequences_keep_their_state(served: Connection, client: AsyncClient, model: str) -> None:
    """Each of many sequences, side by side, goes on from its own state; a start begins anew, an end gives it up."""

    async def live(number: int) -> None:
        assert await total(client, model, f"s{number}", number, start=True) == [number] * 2
        for count in range(2, 6):
            assert await total(client, model, f"s{number}", number) == [number * count] * 2

    await asyncio.gather(*(live(number) for number in range(1, 17)))
    assert await total(client, model, "s3", 1, start=True) == [1, 1]
    assert await total(client, model, "s3", 1, end=True) == [2, 2]
    with pytest.raises(SequenceNotFoundError, match="it has ended"):
        await total(client, model, "s3", 1)
    with pytest.raises(SequenceNotFoundError, match="not started here"):
        await total(client, model, "never", 1)
    async with AsyncClient(served.kernel.addresses[0], tenant="other") as other:
        with pytest.raises(SequenceNotFoundError):
            await total(other, model, "s4", 1)
    with pytest.raises(InvalidFieldError, match="carried by the sequence"):
        await client.infer(model, {"x": X, "before": X}, sequence=InferSequence(id="s4"))


async def test_a_failed_request_leaves_its_sequence(client: AsyncClient) -> None:
    """A request that the model does not take changes nothing: its sequence goes on from where it was."""
    model = "accumulate"
    assert await total(client, model, "s", 2, start=True) == [2, 2]
    with pytest.raises(InvalidFieldError, match="-7 is not taken"):
        await total(client, model, "s", -7)
    assert await total(client, model, "s", 3) == [5, 5]


async def test_one_after_the_other(client: AsyncClient) -> None:
    """A model that gives several sets of outputs streams them in order; who waits for one is told how many came."""
    sets = [each["y"].item() async for each in client.infer_stream("repeat", {"count": np.float32(5)})]
    assert sets == [0, 1, 2, 3, 4]
    assert [each async for each in client.infer_stream("repeat", {"count": np.float32(0)})] == []
    with pytest.raises(ValueError, match="gave more than one set of outputs; infer_stream"):
        await client.infer("repeat", {"count": np.float32(2)})
    with pytest.raises(ValueError, match="gave no set of outputs"):
        await client.infer("repeat", {"count": np.float32(0)})
    assert (await client.infer("repeat", {"count": np.float32(1)}))["y"].item() == 0


async def test_one_of_a_stream_without_end(served: Connection, client: AsyncClient) -> None:
    """Who waits for one set of a model that never ends is told at the second one, and the task is cancelled."""
    endless = {"count": np.float32(1e9)}

    def wait() -> None:
        with Client(served.kernel.addresses[0]) as other:
            other.infer("repeat", endless, labels={"kind": "endless"})

    for waiting in (client.infer("repeat", endless, labels={"kind": "endless"}), asyncio.to_thread(wait)):
        with pytest.raises(ValueError, match="more than one set of outputs"):
            await asyncio.wait_for(waiting, DEADLINE_S)
    found = [
        task.task_id
        for task in (await served.tasks.ListTasks(ts.ListTasksRequest(page_size=1000))).tasks
        if task.labels.get("kind") == "endless"
    ]
    assert len(found) == 2
    for task_id in found:
        events = await read_all(served.tasks.WatchTask(ts.WatchTaskRequest(task_id=task_id), timeout=DEADLINE_S))
        assert events[-1].finished.state == tp.TASK_STATE_CANCELLED


async def test_many_large_outputs_on_one_call(client: AsyncClient) -> None:
    """Outputs that fit into a message each, and not together, all come, however many are ready at once."""
    arrays = [np.full((1, 700_000), n, "f4") for n in range(4)]
    given = await asyncio.gather(*(client.infer("identity", {"x": array}) for array in arrays))
    assert [each["y"][0, 0].item() for each in given] == [0, 1, 2, 3]


async def test_wrong_words(client: AsyncClient) -> None:
    """Inputs that are no arrays, and options of text, are told at once, before anything is sent."""
    with pytest.raises(TypeError, match="no 'max_tokens'"):
        client.infer_stream("identity", {"x": X}, max_tokens=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"inputs is .* it must be a mapping"):
        client.infer_stream("identity", X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="InferSequence"):
        client.infer_stream("identity", {"x": X}, sequence="s")  # type: ignore[arg-type]
    for wrong in (np.array(["2020-01-01"], "datetime64[D]"), [[1], [1, 2]], np.array([object()])):
        with pytest.raises(TypeError, match="input 'x'"):
            await client.infer("identity", {"x": wrong})
