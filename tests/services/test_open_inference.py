"""The Open Inference Protocol, from clients through a kernel and its worker to the fake backend and back."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from guarded import guarded

from inferd import __version__
from inferd.services.inference.streams import MOST_AHEAD
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference import model_config_pb2 as cp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS: dict[str, dict[str, Any]] = {
    "text": {},
    **{name: {"tensor": name} for name in ("identity", "add", "accumulate", "repeat", "types")},
    "accumulate8": {"tensor": "accumulate", "most_batch": 8},
    "unloaded": {"tensor": "identity"},
    "slow": {"tensor": "identity", "step_s": 0.2},
}
DEADLINE_S = 60.0
Input = gp.ModelInferRequest.InferInputTensor
Code = grpc.StatusCode


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


@pytest.fixture(scope="module")
def stub(served: Connection) -> Any:
    """What a client of the protocol calls."""
    return GRPCInferenceServiceStub(served.channel)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def request(model: str, raw: dict[str, bytes] | None = None, **more: Any) -> gp.ModelInferRequest:
    """A request with inputs of a row of floats."""
    raw = {"x": floats(1.5, 2)} if raw is None else raw
    inputs = [Input(name=name, datatype="FP32", shape=[1, len(data) // 4]) for name, data in raw.items()]
    return gp.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=raw.values(), **more)


def parameters(into: gp.ModelInferRequest, **given: Any) -> gp.ModelInferRequest:
    for name, value in given.items():
        kind = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "string"
        setattr(into.parameters[name], f"{kind}_param", value)
    return into


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await call
    return caught.value.code(), str(caught.value.details())


async def stream(stub: Any, requests: Iterable[gp.ModelInferRequest]) -> list[gp.ModelStreamInferResponse]:
    return await stream_of(stub, requests, ())


async def stream_of(stub: Any, requests: Iterable[gp.ModelInferRequest], metadata: Any) -> list[Any]:
    """What comes of requests on a stream that says more."""
    async with asyncio.timeout(DEADLINE_S):
        return [response async for response in stub.ModelStreamInfer(iter(list(requests)), metadata=metadata)]


async def test_the_kernel_and_its_models_are_told(stub: Any) -> None:
    """A client is told that the kernel serves, what it is, and which models are ready; a load makes one so."""
    assert (await stub.ServerLive(gp.ServerLiveRequest())).live
    assert (await stub.ServerReady(gp.ServerReadyRequest())).ready
    told = await stub.ServerMetadata(gp.ServerMetadataRequest())
    assert (told.name, told.version) == ("inferd", __version__)
    assert "sequence" in told.extensions
    assert not (await stub.ModelReady(gp.ModelReadyRequest(name="none"))).ready
    assert not (await stub.ModelReady(gp.ModelReadyRequest(name="unloaded"))).ready
    await stub.RepositoryModelLoad(gp.RepositoryModelLoadRequest(model_name="unloaded"))
    assert (await stub.ModelReady(gp.ModelReadyRequest(name="unloaded", version="1"))).ready
    assert not (await stub.ModelReady(gp.ModelReadyRequest(name="unloaded", version="2"))).ready
    ready = await stub.RepositoryIndex(gp.RepositoryIndexRequest(ready=True))
    assert ("unloaded", "1", "READY") in [(each.name, each.version, each.state) for each in ready.models]
    await stub.RepositoryModelUnload(gp.RepositoryModelUnloadRequest(model_name="unloaded"))
    index = {each.name: each for each in (await stub.RepositoryIndex(gp.RepositoryIndexRequest())).models}
    assert set(MODELS) <= set(index)
    assert index["unloaded"].state == "UNAVAILABLE"


async def test_a_model_says_what_it_takes(stub: Any) -> None:
    """Metadata and configuration have a model's tensors by name, with types, shapes, batches and state."""
    told = await stub.ModelMetadata(gp.ModelMetadataRequest(name="add"))
    assert (told.name, list(told.versions)) == ("add", ["1"])
    assert [(each.name, each.datatype) for each in told.inputs] == [("a", "FP32"), ("b", "FP32")]
    config = (await stub.ModelConfig(gp.ModelConfigRequest(name="accumulate8"))).config
    assert (config.name, config.backend, config.max_batch_size) == ("accumulate8", "fake", 8)
    assert config.sequence_batching.state
    assert {each.data_type for each in config.input} == {cp.TYPE_FP32}


async def test_tensors_come_back(stub: Any) -> None:
    """A model's outputs come as raw bytes, with the request's id; raw and typed contents are the same to it."""
    got = await stub.ModelInfer(request("identity", id="7"))
    assert (got.model_name, got.model_version, got.id) == ("identity", "1", "7")
    assert list(got.raw_output_contents) == [floats(1.5, 2)]
    assert [(each.datatype, list(each.shape)) for each in got.outputs] == [("FP32", [1, 2])]
    typed = gp.ModelInferRequest(model_name="identity")
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.5, 2])
    assert (await stub.ModelInfer(typed)).raw_output_contents == got.raw_output_contents


async def test_outputs_are_chosen_by_name(stub: Any) -> None:
    """Of the outputs those come that were asked for."""
    asked = request("add", {"a": floats(1), "b": floats(2)})
    assert {each.name for each in (await stub.ModelInfer(asked)).outputs} == {"sum", "rows"}
    asked.outputs.add(name="sum")
    got = await stub.ModelInfer(asked)
    assert ([each.name for each in got.outputs], list(got.raw_output_contents)) == (["sum"], [floats(3)])


TYPES: dict[str, tuple[str, str, bytes, str, list[Any]]] = {
    "BOOL": ("bool", "bool_contents", b"\1\0", "?", [True, False]),
    "UINT8": ("uint8", "uint_contents", b"\xff\0", "B", [255, 0]),
    "UINT16": ("uint16", "uint_contents", b"\xff\xff\1\0", "H", [65535, 1]),
    "UINT32": ("uint32", "uint_contents", b"\xff\xff\xff\xff\1\0\0\0", "I", [2**32 - 1, 1]),
    "UINT64": ("uint64", "uint64_contents", b"\xff" * 8 + b"\1" + bytes(7), "Q", [2**64 - 1, 1]),
    "INT8": ("int8", "int_contents", b"\xff\1", "b", [-1, 1]),
    "INT16": ("int16", "int_contents", b"\xff\xff\1\0", "h", [-1, 1]),
    "INT32": ("int32", "int_contents", b"\xff\xff\xff\xff\1\0\0\0", "i", [-1, 1]),
    "INT64": ("int64", "int64_contents", b"\xff" * 8 + b"\1" + bytes(7), "q", [-1, 1]),
    "FP64": ("double", "fp64_contents", struct.pack("<2d", 0.5, -2), "d", [0.5, -2]),
    "BYTES": ("string", "bytes_contents", b"\2\0\0\0\xc3\xa9\0\0\0\0", "s", ["é".encode(), b""]),
}


@pytest.mark.parametrize("datatype", TYPES)
async def test_every_type(stub: Any, datatype: str) -> None:
    """Elements of a type come back bit by bit, whether they went raw or as typed contents."""
    name, contents, raw, _, values = TYPES[datatype]
    given = gp.ModelInferRequest(model_name="types", raw_input_contents=[raw])
    given.inputs.add(name=name, datatype=datatype, shape=[2])
    given.outputs.add(name=name)
    got = await stub.ModelInfer(given)
    assert (got.outputs[0].datatype, list(got.raw_output_contents)) == (datatype, [raw])
    del given.raw_input_contents[:]
    getattr(given.inputs[0].contents, contents).extend(values)
    assert list((await stub.ModelInfer(given)).raw_output_contents) == [raw]


async def test_large_tensors(stub: Any) -> None:
    """What is held in shared memory on its way comes back whole."""
    data = bytes(range(256)) * 4096
    assert list((await stub.ModelInfer(request("identity", {"x": data}))).raw_output_contents) == [data]


@pytest.mark.parametrize("name", [5, "five"])
async def test_a_sequence_carries_its_state(stub: Any, name: int | str) -> None:
    """Requests of a sequence, by number or by text, carry a state on; its end gives it up."""
    steps = [{"sequence_start": True}, {}, {"sequence_end": True}]
    one = [parameters(request("accumulate", {"x": floats(2, 3)}), sequence_id=name, **each) for each in steps]
    sums = [(await stub.ModelInfer(each)).raw_output_contents[0] for each in one]
    assert sums == [floats(2, 3), floats(4, 6), floats(6, 9)]
    code, words = await refusal(stub.ModelInfer(one[1]))
    assert code is Code.INVALID_ARGUMENT
    assert "start again" in words


async def test_a_stream_answers_in_order(stub: Any) -> None:
    """Each request of a stream has its answer, in their order; one that is refused has why, and the stream goes on."""
    given = [request("identity", {"x": floats(n)}, id=str(n)) for n in range(20)]
    given[3].model_name = "none"
    given[5].inputs[0].name = "y"
    got = await stream(stub, given)
    assert [each.infer_response.id for each in got] == [str(n) for n in range(20)]
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in got)
    words = {number: each.error_message for number, each in enumerate(got) if each.error_message}
    assert set(words) == {3, 5}
    assert words[3].startswith("Request for unknown model: 'none' is not found")
    assert words[5].startswith("unexpected inference input 'y' for model 'identity'")
    assert got[19].infer_response.raw_output_contents[0] == floats(19)


async def test_a_stream_gives_several_sets(stub: Any) -> None:
    """A model that gives several sets has a response for each, the last marked, or an empty one where asked for."""
    inputs = (await stub.ModelMetadata(gp.ModelMetadataRequest(name="repeat"))).inputs
    given = gp.ModelInferRequest(model_name="repeat", id="r")
    for each in inputs:
        given.inputs.add(name=each.name, datatype=each.datatype, shape=[abs(size) for size in each.shape])
        given.raw_input_contents.append(floats(3) if each.datatype == "FP32" else struct.pack("<q", 3))
    parameters(given, triton_enable_empty_final_response=True)
    got = [each.infer_response for each in await stream(stub, [given])]
    finals = [each.parameters["triton_final_response"].bool_param for each in got]
    assert finals == [False] * (len(got) - 1) + [True]
    assert len([each for each in got if each.outputs]) == 3
    code, words = await refusal(stub.ModelInfer(given))
    assert code is Code.UNIMPLEMENTED
    assert "decoupled" in words


BAD: dict[str, tuple[gp.ModelInferRequest, grpc.StatusCode, str]] = {
    "unknown model": (request("none"), Code.NOT_FOUND, "Request for unknown model: 'none' is not found"),
    "unknown version": (request("identity", model_version="9"), Code.NOT_FOUND, "version 9 is not found"),
    "unknown input": (request("identity", {"y": floats(1)}), Code.INVALID_ARGUMENT, "unexpected inference input 'y'"),
    "no input": (request("identity", {}), Code.INVALID_ARGUMENT, "expected 1 inputs but got 0 inputs for model"),
    "unknown output": (
        request("identity", outputs=[{"name": "z"}]),
        Code.INVALID_ARGUMENT,
        "unexpected inference output 'z' for model 'identity'",
    ),
    "wrong size": (
        gp.ModelInferRequest(
            model_name="identity",
            inputs=[Input(name="x", datatype="FP32", shape=[1, 2])],
            raw_input_contents=[floats(1)],
        ),
        Code.INVALID_ARGUMENT,
        "input byte size mismatch for input 'x' for model 'identity'. Expected 8, got 4",
    ),
    "wrong type": (
        gp.ModelInferRequest(
            model_name="identity",
            inputs=[Input(name="x", datatype="INT32", shape=[1, 1])],
            raw_input_contents=[bytes(4)],
        ),
        Code.INVALID_ARGUMENT,
        "data-type is 'INT32', but model 'identity' expects 'FP32'",
    ),
    "wrong rank": (
        gp.ModelInferRequest(
            model_name="add",
            inputs=[Input(name=name, datatype="FP32", shape=[1, 1, 1]) for name in "ab"],
            raw_input_contents=[bytes(4), bytes(4)],
        ),
        Code.INVALID_ARGUMENT,
        "unexpected shape for input 'a' for model 'add'. Expected [",
    ),
    "no type": (
        gp.ModelInferRequest(model_name="identity", inputs=[Input(name="x", datatype="FP8", shape=[1])]),
        Code.INVALID_ARGUMENT,
        "invalid datatype 'FP8'",
    ),
    "shared memory": (
        gp.ModelInferRequest(
            model_name="identity",
            inputs=[
                Input(
                    name="x", datatype="FP32", parameters={"shared_memory_region": gp.InferParameter(string_param="r")}
                )
            ],
        ),
        Code.UNIMPLEMENTED,
        "shared memory is not offered",
    ),
    "reserved": (
        parameters(request("identity"), triton_other=1),
        Code.INVALID_ARGUMENT,
        "parameter keys starting with 'triton_' are reserved",
    ),
    "cut texts": (
        gp.ModelInferRequest(
            model_name="types",
            inputs=[Input(name="string", datatype="BYTES", shape=[1])],
            raw_input_contents=[b"\xff\xff\xff\xffab"],
        ),
        Code.INVALID_ARGUMENT,
        "incomplete string data for inference input 'string' for model 'types', expecting string of length 4294967295",
    ),
    "many texts": (
        gp.ModelInferRequest(
            model_name="types",
            inputs=[Input(name="string", datatype="BYTES", shape=[1 << 20])],
            raw_input_contents=[bytes(8)],
        ),
        Code.RESOURCE_EXHAUSTED,
        "limits.tensor_strings",
    ),
    "raw and typed": (
        gp.ModelInferRequest(
            model_name="identity",
            inputs=[Input(name="x", datatype="FP32", shape=[1, 1], contents=gp.InferTensorContents(fp32_contents=[1]))],
            raw_input_contents=[bytes(4)],
        ),
        Code.INVALID_ARGUMENT,
        "contents field must not be specified when using raw_input_contents for 'x'",
    ),
    "too large a number": (
        gp.ModelInferRequest(
            model_name="types",
            inputs=[
                Input(name="int8", datatype="INT8", shape=[1], contents=gp.InferTensorContents(int_contents=[128]))
            ],
        ),
        Code.INVALID_ARGUMENT,
        "has a number that is no INT8",
    ),
    "a model of texts": (request("text"), Code.INVALID_ARGUMENT, "tensors"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_refused_is_told_as_elsewhere(stub: Any, case: str) -> None:
    """A request that cannot be served has the code, and the words, that clients of Triton look for."""
    given, code, words = BAD[case]
    got, told = await refusal(stub.ModelInfer(given))
    assert (got, words in told) == (code, True), told


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("SystemSharedMemoryStatus", gp.SystemSharedMemoryStatusRequest()),
        ("SystemSharedMemoryRegister", gp.SystemSharedMemoryRegisterRequest(name="r")),
        ("SystemSharedMemoryUnregister", gp.SystemSharedMemoryUnregisterRequest()),
        ("CudaSharedMemoryRegister", gp.CudaSharedMemoryRegisterRequest(name="r")),
        (
            "RepositoryModelLoad",
            gp.RepositoryModelLoadRequest(
                model_name="add", parameters={"config": gp.ModelRepositoryParameter(string_param="{}")}
            ),
        ),
    ],
)
async def test_what_is_not_offered_says_so(stub: Any, method: str, given: Any) -> None:
    """Parts of the protocol that no kernel has are UNIMPLEMENTED, in words, and never seem to work."""
    code, words = await refusal(getattr(stub, method)(given))
    assert code is Code.UNIMPLEMENTED
    assert "not offered" in words or "takes no other configuration" in words


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (request("none"), "model_name"),
        (request(""), "model_name"),
        (request("identity", {"y": floats(1)}), "inputs[0].name"),
        (parameters(request("identity"), **{"a" * 64: 1}), "parameters"),
        (parameters(request("identity"), priority=-1), "parameters"),
        (request("identity", outputs=[{"name": "y"}, {"name": "y"}]), "outputs[1]"),
    ],
    ids=["unknown", "none", "input", "parameter", "priority", "output"],
)
async def test_errors_name_the_field_of_the_protocol(stub: Any, given: gp.ModelInferRequest, field: str) -> None:
    """The details of an error have the field as it is called in the request that was sent."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(given)
    violation = error_details_pb2.BadRequest()
    for detail in rpc_status.from_call(caught.value).details:
        detail.Unpack(violation)
    assert [each.field for each in violation.field_violations] == [field]


async def test_what_was_counted(stub: Any) -> None:
    """Statistics have how many requests of a model succeeded and failed, and how long they took."""
    before = (await stub.ModelStatistics(gp.ModelStatisticsRequest(name="add"))).model_stats[0]
    await stub.ModelInfer(request("add", {"a": floats(1), "b": floats(2)}))
    await refusal(stub.ModelInfer(request("add", {"a": floats(1)})))
    (after,) = (await stub.ModelStatistics(gp.ModelStatisticsRequest(name="add"))).model_stats
    assert after.inference_count == before.inference_count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    every = (await stub.ModelStatistics(gp.ModelStatisticsRequest())).model_stats
    assert set(MODELS) <= {each.name for each in every}


async def test_a_task_has_what_the_parameters_say(served: Connection, stub: Any) -> None:
    """Priority 1 is the highest class, a timeout ends a task, and parameters without a meaning are labels of it."""
    await stub.ModelInfer(parameters(request("identity"), priority=1, timeout=50_000_000, colour="red", count=3))
    (task,) = (await served.tasks.ListTasks(ts.ListTasksRequest(page_size=1))).tasks
    assert (task.priority, dict(task.labels)) == (pp.PRIORITY_HIGH, {"colour": "red", "count": "3"})
    assert task.HasField("expire_time")
    code, _ = await refusal(stub.ModelInfer(parameters(request("identity"), timeout=1)))
    assert code is Code.DEADLINE_EXCEEDED


async def test_the_door_is_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a login only health is answered; a viewer reads, a user runs, and neither loads."""
    async with guarded(tmp_path_factory.mktemp("kernel")) as kernel:
        stub: Any = GRPCInferenceServiceStub(kernel.tcp.channel)
        assert (await stub.ServerLive(gp.ServerLiveRequest())).live
        assert (await stub.ServerReady(gp.ServerReadyRequest())).ready
        assert (await refusal(stub.ModelInfer(request("none"))))[0] is Code.UNAUTHENTICATED
        assert (await refusal(stub.ServerMetadata(gp.ServerMetadataRequest())))[0] is Code.UNAUTHENTICATED
        viewer, user = await kernel.login("viewer"), await kernel.login("user")
        assert (await stub.ServerMetadata(gp.ServerMetadataRequest(), metadata=viewer)).name == "inferd"
        assert (await refusal(stub.ModelInfer(request("none"), metadata=viewer)))[0] is Code.PERMISSION_DENIED
        assert (await refusal(stub.ModelInfer(request("none"), metadata=user)))[0] is Code.NOT_FOUND
        load = gp.RepositoryModelLoadRequest(model_name="none")
        assert (await refusal(stub.RepositoryModelLoad(load, metadata=user)))[0] is Code.PERMISSION_DENIED
        status = gp.SystemSharedMemoryStatusRequest()
        assert (await refusal(stub.SystemSharedMemoryStatus(status, metadata=user)))[0] is Code.UNIMPLEMENTED
        await kernel.rule("principal:anna", models="secret*")
        denied = await stream_of(stub, [request("secret", id="s"), request("none", id="n")], user)
        assert [each.error_message.partition(" ")[0] for each in denied][1] == "Request"
        assert "may not" in denied[0].error_message


async def test_a_stream_holds_large_tensors(stub: Any) -> None:
    """Large outputs wait for their turn on a stream, whole, while those before them are told."""
    data = [bytes([n]) * (1 << 20) for n in range(10)]
    got = await stream(stub, [request("identity", {"x": each}) for each in data])
    assert [each.infer_response.raw_output_contents[0] for each in got] == data


async def test_a_broken_stream_ends_its_tasks(served: Connection, stub: Any) -> None:
    """When a client breaks its stream, what is under way of it is cancelled, also beyond what is taken at once."""
    given = [request("slow", id=str(n)) for n in range(MOST_AHEAD + 20)]
    call = stub.ModelStreamInfer(iter(given))
    await call.read()
    call.cancel()
    open_states = [tp.TASK_STATE_QUEUED, tp.TASK_STATE_RUNNING]
    async with asyncio.timeout(DEADLINE_S):
        async for told in served.tasks.WatchTasks(ts.WatchTasksRequest(states=open_states)):
            if not (await served.tasks.ListTasks(ts.ListTasksRequest(states=open_states))).tasks and not told.more:
                break
        if reading := [task for task in asyncio.all_tasks() if task.get_name() == "requests"]:
            await asyncio.wait(reading)
