"""Calls a kernel by `tritonclient`, in an environment of its own; knows nothing of inferd.

    python triton_program.py descriptors          what the wheel says of the protocol, as JSON
    python triton_program.py calls ADDRESS        each kind of call; one line for each that did what it should

The kernel has models `identity` (x to y), `add` (a, b to sum and rows), `accumulate` (a sequence), `repeat` (several
sets) and `types` (string to string).
"""

import asyncio
import base64
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TIMEOUT_S = 30


def descriptors() -> None:
    """The files of the wheel."""
    files = {}
    for name, module in (("grpc_service", triton.service_pb2), ("model_config", triton.model_config_pb2)):
        proto = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(proto)
        files[name] = base64.b64encode(proto.SerializeToString()).decode()
    print(json.dumps(files))


def given(name: str, array: Any) -> Any:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


X = np.array([[1, 2]], np.float32)


def health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert not client.is_model_ready("none")
    assert client.get_server_metadata().name == "inferd"


def control(client: Any) -> None:
    client.load_model("identity")
    assert client.is_model_ready("identity", "1")
    assert "identity" in [each.name for each in client.get_model_repository_index().models]
    client.unload_model("identity")
    assert not client.is_model_ready("identity")


def metadata(client: Any) -> None:
    assert [each.name for each in client.get_model_metadata("add").inputs] == ["a", "b"]
    assert client.get_model_config("add").config.backend == "fake"


def infer(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("sum")]
    got = client.infer("add", [given("a", X), given("b", X)], outputs=wanted, request_id="1", timeout=20_000_000)
    assert (got.as_numpy("sum") == 2 * X).all()
    assert got.as_numpy("rows") is None
    assert got.get_response().id == "1"
    assert client.get_inference_statistics("add").model_stats[0].inference_count >= 1


def texts(client: Any) -> None:
    words = np.array([["é", ""], ["x" * 300, "\n"]], object)
    got = client.infer("types", [given("string", words)], outputs=[triton.InferRequestedOutput("string")])
    assert [each.decode() for each in got.as_numpy("string").flat] == list(words.flat)


def custom(client: Any) -> None:
    client.infer("identity", [given("x", X)], priority=1, parameters={"colour": "red", "count": 3, "flag": True})


def sequence(client: Any) -> None:
    for name in (7, "seven"):
        for step in range(3):
            got = client.infer(
                "accumulate", [given("x", X)], sequence_id=name, sequence_start=step == 0, sequence_end=step == 2
            )
        assert (got.as_numpy("total") == 3 * X).all()


def streamed(client: Any) -> None:
    told: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: told.put((result, error)))
    for name in (8, "eight"):
        for step in range(3):
            client.async_stream_infer(
                "accumulate",
                [given("x", (step + 1) * X)],
                request_id=f"{name}-{step}",
                sequence_id=name,
                sequence_start=step == 0,
                sequence_end=step == 2,
            )
    results = [told.get(timeout=TIMEOUT_S) for _ in range(6)]
    client.stop_stream()
    assert not [error for _, error in results if error]
    assert [result.get_response().id for result, _ in results] == [f"{n}-{s}" for n in (8, "eight") for s in range(3)]
    assert (results[5][0].as_numpy("total") == 6 * X).all()


def decoupled(client: Any) -> None:
    told: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: told.put((result, error)))
    count = np.array(4, np.float32)
    client.async_stream_infer("repeat", [given("count", count)], enable_empty_final_response=True)
    sets, final = [], False
    while not final:
        result, error = told.get(timeout=TIMEOUT_S)
        assert error is None, error
        response = result.get_response()
        final = response.parameters["triton_final_response"].bool_param
        sets += [float(result.as_numpy("y"))] if response.outputs else []
    assert sets == [0, 1, 2, 3]
    client.async_stream_infer("none", [given("x", X)])
    _, error = told.get(timeout=TIMEOUT_S)
    assert "Request for unknown model: 'none' is not found" in str(error)
    client.stop_stream()


def called_back(client: Any) -> None:
    told: queue.Queue[Any] = queue.Queue()
    client.async_infer("identity", [given("x", X)], callback=lambda result, error: told.put((result, error)))
    result, error = told.get(timeout=TIMEOUT_S)
    assert error is None
    assert (result.as_numpy("y") == X).all()


def refused(client: Any) -> None:
    for model, name, array, words in (
        ("none", "x", X, "Request for unknown model"),
        ("identity", "z", X, "unexpected inference input 'z' for model 'identity'"),
        ("identity", "x", X.astype(np.int32), "expects 'FP32'"),
    ):
        error = failing(client.infer, model, [given(name, array)])
        assert words in error.message(), error.message()
    assert "UNIMPLEMENTED" in failing(client.get_system_shared_memory_status).status()


def failing(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        call(*arguments)
    except InferenceServerException as error:
        return error
    raise AssertionError("it did not fail")


CALLS: tuple[Callable[[Any], None], ...] = (
    *(health, control, metadata, infer, texts, custom, sequence, streamed, decoupled, called_back, refused),
)


async def with_asyncio(address: str) -> None:
    """The same by the client for asyncio, many at once."""
    async with triton_aio.InferenceServerClient(address) as client:
        inputs = [[given("x", n * X)] for n in range(32)]
        results = await asyncio.gather(*(client.infer("identity", each) for each in inputs))
        assert all((result.as_numpy("y") == n * X).all() for n, result in enumerate(results))


def main() -> None:
    """What the command line says."""
    if sys.argv[1] == "descriptors":
        descriptors()
        return
    with triton.InferenceServerClient(sys.argv[2]) as client:
        for call in CALLS:
            call(client)
            print(call.__name__, flush=True)
    asyncio.run(with_asyncio(sys.argv[2]))
    print("with_asyncio", flush=True)


if __name__ == "__main__":
    main()
