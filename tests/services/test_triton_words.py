"""Codes and words of errors that the tests of Triton's own server, and programs around it, look for."""

import json
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection
from test_model_repository import OWN, put, refusal

from inferd.runtime.front.regions import FOLDER
from inferd.services.inference.tensors import write_texts
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

Code = grpc.StatusCode
KEY = f"inferd-words-{uuid.uuid4().hex}"
SIZE = 64
LOOP = """
platform: "ensemble" input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
ensemble_scheduling { step { model_name: "%s" input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """What a client of Triton calls, of a kernel with a repository and a region of shared memory."""
    folder = tmp_path_factory.mktemp("words")
    root = folder / "models"
    put(root, "simple", config=OWN + "max_batch_size: 8", tensor="add")
    put(root, "sums", config=OWN + "max_batch_size: 8 sequence_batching {}", tensor="accumulate", most_batch=8)
    put(root, "texts", config=OWN, tensor="types")
    put(root, "decoupled", config=OWN, tensor="repeat")
    put(root, "bad", load_error="bad tensor")
    put(root, "named", config=OWN + 'name: "other"')
    for name, other in (("loop", "pool"), ("pool", "loop")):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(LOOP % other)
    chosen = {"folder": root, "mode": "explicit", "load": ("simple", "sums", "texts", "decoupled")}
    memory = FOLDER / KEY
    memory.write_bytes(bytes(SIZE))
    try:
        async with kernel_here(
            folder, backends=(), repository=chosen, inference={"shared_memory": (f"{KEY}*",)}
        ) as kernel:
            await kernel.declaring.settled.wait()
            connection = Connection(kernel, folder)
            made: Any = GRPCInferenceServiceStub(connection.channel)
            await made.SystemSharedMemoryRegister(register("region"))
            yield made
            await connection.channel.close()
    finally:
        memory.unlink()


def infer(model: str = "simple", version: str = "", outputs: Any = (), **inputs: Any) -> gp.ModelInferRequest:
    """A request; an input is its type, its sizes and its bytes."""
    request = gp.ModelInferRequest(model_name=model, model_version=version, outputs=outputs)
    for name, (datatype, shape, data) in (inputs or {"a": FLOAT, "b": FLOAT}).items():
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    return request


KEYED = json.dumps({"parameters": {"key": "K", "value": {"string_value": "V"}}})
FLOAT = ("FP32", [1, 1], bytes(4))


def shared(start: int, size: int, name: str = "region") -> gp.ModelInferRequest:
    """A request whose output goes to shared memory."""
    request = infer(outputs=[{"name": "sum"}])
    given = request.outputs[0].parameters
    given["shared_memory_region"].string_param = name
    given["shared_memory_byte_size"].int64_param = size
    given["shared_memory_offset"].int64_param = start
    return request


def register(name: str, *, key: str = KEY, start: int = 0, size: int = SIZE) -> gp.SystemSharedMemoryRegisterRequest:
    return gp.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=start, byte_size=size)


def load(name: str, **parameters: str | bytes) -> gp.RepositoryModelLoadRequest:
    request = gp.RepositoryModelLoadRequest(model_name=name)
    for key, value in parameters.items():
        kind = "string_param" if isinstance(value, str) else "bytes_param"
        setattr(request.parameters[key.replace("__", ":")], kind, value)
    return request


def texts(count: int, values: list[str]) -> gp.ModelInferRequest:
    return infer("texts", outputs=[{"name": "string"}], string=("BYTES", [count], write_texts(values)))


def sequence(**parameters: int) -> gp.ModelInferRequest:
    request = infer("sums", x=("FP32", [1, 2], bytes(8)))
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


WORDS: Mapping[str, tuple[str, Callable[[], Any], grpc.StatusCode, str]] = {
    "an unknown model": (
        *("ModelInfer", lambda: infer("none"), Code.NOT_FOUND),
        "Request for unknown model: 'none' is not found",
    ),
    "an unknown version": (
        *("ModelInfer", lambda: infer(version="3"), Code.NOT_FOUND),
        "Request for unknown model: 'simple' version 3 is not found",
    ),
    "no model": (*("ModelInfer", lambda: infer(""), Code.INVALID_ARGUMENT), "model_name is empty; name the model"),
    "metadata of an unknown model": (
        *("ModelMetadata", lambda: gp.ModelMetadataRequest(name="none"), Code.NOT_FOUND),
        "Request for unknown model: 'none' is not found",
    ),
    "a load of an unknown model": (
        *("RepositoryModelLoad", lambda: load("none"), Code.INTERNAL),
        "failed to load 'none', failed to poll from model repository",
    ),
    "a load that fails": (
        *("RepositoryModelLoad", lambda: load("bad"), Code.INVALID_ARGUMENT),
        "load failed for model 'bad': version 1 is at UNAVAILABLE state: ",
    ),
    "another name than its folder's": (
        *("RepositoryModelLoad", lambda: load("named"), Code.INVALID_ARGUMENT),
        "unexpected directory name 'named' for model 'other', directory name must equal model name",
    ),
    "ensembles in a circle": (
        *("RepositoryModelLoad", lambda: load("loop"), Code.INVALID_ARGUMENT),
        "circular dependency between ensembles",
    ),
    "a configuration that is none": (
        *("RepositoryModelLoad", lambda: load("simple", config="{"), Code.INVALID_ARGUMENT),
        "Invalid config override",
    ),
    "parameters that are no names": (
        *("RepositoryModelLoad", lambda: load("simple", config=KEYED), Code.INVALID_ARGUMENT),
        'parameters is an object of names: {"NAME": {"string_value": "VALUE"}}',
    ),
    "files without a configuration": (
        *("RepositoryModelLoad", lambda: load("simple", file__1=b"x"), Code.INVALID_ARGUMENT),
        "Load parameter 'config' must be specified for model file override",
    ),
    "outputs twice": (
        *("ModelInfer", lambda: infer(outputs=2 * [{"name": "sum"}]), Code.INVALID_ARGUMENT),
        "output 'sum' already exists in request",
    ),
    "an unknown output": (
        *("ModelInfer", lambda: infer(outputs=[{"name": "z"}]), Code.INVALID_ARGUMENT),
        "unexpected inference output 'z' for model 'simple'",
    ),
    "an unknown input": (
        *("ModelInfer", lambda: infer(a=FLOAT, b=FLOAT, z=FLOAT), Code.INVALID_ARGUMENT),
        "unexpected inference input 'z' for model 'simple'",
    ),
    "a missing input": (
        *("ModelInfer", lambda: infer(a=FLOAT), Code.INVALID_ARGUMENT),
        (
            "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['a'], but missing required input(s)"
            " ['b']. Please provide all required input(s)."
        ),
    ),
    "another type": (
        *("ModelInfer", lambda: infer(a=("INT32", [1, 1], bytes(4)), b=FLOAT), Code.INVALID_ARGUMENT),
        "inference input 'a' data-type is 'INT32', but model 'simple' expects 'FP32'",
    ),
    "another shape": (
        *("ModelInfer", lambda: infer(a=("FP32", [1, 1, 1], bytes(4)), b=FLOAT), Code.INVALID_ARGUMENT),
        "unexpected shape for input 'a' for model 'simple'. Expected [-1,-1], got [1,1,1]",
    ),
    "too few bytes": (
        *("ModelInfer", lambda: infer(a=("FP32", [1, 16], bytes(128)), b=FLOAT), Code.INVALID_ARGUMENT),
        "input byte size mismatch for input 'a' for model 'simple'. Expected 64, got 128",
    ),
    "too many rows": (
        *("ModelInfer", lambda: infer(**dict.fromkeys("ab", ("FP32", [9, 1], bytes(36)))), Code.INVALID_ARGUMENT),
        "inference request batch-size must be <= 8 for 'simple'",
    ),
    "too few texts": (
        *("ModelInfer", lambda: texts(3, ["x"]), Code.INVALID_ARGUMENT),
        "expected 3 string elements for inference input 'string' for model 'texts', got 1",
    ),
    "too many texts": (
        *("ModelInfer", lambda: texts(1, ["x"] * 4), Code.INVALID_ARGUMENT),
        "unexpected number of string elements 2 for inference input 'string' for model 'texts', expecting 1",
    ),
    "half of a length": (
        *("ModelInfer", lambda: infer("texts", string=("BYTES", [1], b"\1\0")), Code.INVALID_ARGUMENT),
        (
            "incomplete string length indicator for inference input 'string' for model 'texts', expecting 4 bytes but"
            " only 2 bytes available"
        ),
    ),
    "half of a text": (
        *("ModelInfer", lambda: infer("texts", string=("BYTES", [1], b"\4\0\0\0ab")), Code.INVALID_ARGUMENT),
        (
            "incomplete string data for inference input 'string' for model 'texts', expecting string of length 4 but"
            " only 2 bytes available"
        ),
    ),
    "several responses at once": (
        *("ModelInfer", lambda: infer("decoupled", count=("FP32", [], struct.pack("<f", 2))), Code.UNIMPLEMENTED),
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
    ),
    "no sequence": (
        *("ModelInfer", sequence, Code.INVALID_ARGUMENT),
        "inference request to model 'sums' must specify a non-zero or non-empty correlation ID",
    ),
    "no start of a sequence": (
        *("ModelInfer", lambda: sequence(sequence_id=7), Code.INVALID_ARGUMENT),
        "inference request for sequence 7 to model 'sums' must specify the START flag on the first request of the",
    ),
    "memory that cannot be opened": (
        *("SystemSharedMemoryRegister", lambda: register("other", key="/not-there"), Code.INTERNAL),
        "Unable to open shared memory region: '/not-there'",
    ),
    "memory twice": (
        *("SystemSharedMemoryRegister", lambda: register("region"), Code.ALREADY_EXISTS),
        "shared memory region 'region' already in manager",
    ),
    "memory that ends before": (
        *("SystemSharedMemoryRegister", lambda: register("other", start=1), Code.INVALID_ARGUMENT),
        "failed to register shared memory region 'other': invalid args",
    ),
    "the state of unknown memory": (
        *("SystemSharedMemoryStatus", lambda: gp.SystemSharedMemoryStatusRequest(name="other"), Code.NOT_FOUND),
        "Unable to find system shared memory region: 'other'",
    ),
    "an output in unknown memory": (
        *("ModelInfer", lambda: shared(0, SIZE, name="other"), Code.NOT_FOUND),
        "Unable to find shared memory region: 'other'",
    ),
    "an output behind memory": (
        *("ModelInfer", lambda: shared(SIZE, 4), Code.INVALID_ARGUMENT),
        "Invalid offset for shared memory region: 'region'",
    ),
    "an output beyond memory": (
        *("ModelInfer", lambda: shared(SIZE - 4, SIZE), Code.INVALID_ARGUMENT),
        "Invalid offset + byte size for shared memory region: 'region'",
    ),
    "an output that is larger": (
        *("ModelInfer", lambda: shared(0, 2), Code.INVALID_ARGUMENT),
        "shared memory size specified with the request for output 'sum' (2 bytes) should be at least 4 bytes to hold",
    ),
}


async def test_minus_one_is_the_newest_version(stub: Any) -> None:
    """Clients that say -1 for the version that serves are understood, wherever a version is named."""
    assert (await stub.ModelInfer(infer(version="-1"))).model_version == "1"
    assert (await stub.ModelReady(gp.ModelReadyRequest(name="simple", version="-1"))).ready
    assert list((await stub.ModelMetadata(gp.ModelMetadataRequest(name="simple", version="-1"))).versions) == ["1"]


@pytest.mark.parametrize("case", WORDS)
async def test_errors_begin_with_the_words_of_triton(stub: Any, case: str) -> None:
    """What a client of Triton looks for in an error is there, with the code that it has."""
    method, make, code, words = WORDS[case]
    got, told = await refusal(getattr(stub, method)(make()))
    assert (got, words in told) == (code, True), told


async def test_a_load_under_polling_is_refused(tmp_path: Path) -> None:
    """Loads and unloads of a repository that is not controlled by calls have Triton's words and code."""
    put(tmp_path / "models", "m")
    chosen = {"folder": tmp_path / "models", "mode": "poll", "poll_s": 3600}
    async with kernel_here(tmp_path, backends=(), repository=chosen) as kernel:
        connection = Connection(kernel, tmp_path)
        made: Any = GRPCInferenceServiceStub(connection.channel)
        for call in (
            made.RepositoryModelLoad(load("m", config=json.dumps({}))),
            made.RepositoryModelUnload(gp.RepositoryModelUnloadRequest(model_name="m")),
        ):
            code, words = await refusal(call)
            assert code is Code.UNAVAILABLE
            assert words.startswith("explicit model load / unload is not allowed if polling is enabled")
        await connection.channel.close()
