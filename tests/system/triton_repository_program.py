"""Calls a kernel with Triton's example models by `tritonclient`, in an environment of its own; knows nothing of inferd.

    python triton_repository_program.py ADDRESS FILE     one line for each kind of call that did what it should

The kernel has the repository of `triton_models.py` in mode explicit, and nothing is loaded. FILE is that of `simple`.
"""

import asyncio
import json
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TIMEOUT_S = 60
A, B = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)


def given(name: str, array: Any) -> Any:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def failing(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        return error
    raise AssertionError("it did not fail")


def states(client: Any) -> dict[str, tuple[str, str]]:
    return {each.name: (each.state, each.reason) for each in client.get_model_repository_index().models}


def model_control(client: Any, _: Path) -> None:
    assert not client.is_model_ready("simple")
    assert states(client)["simple"] == ("UNAVAILABLE", "unloaded")
    error = failing(client.infer, "simple", [given("INPUT0", A), given("INPUT1", B)])
    assert "Request for unknown model: 'simple' is not found" in error.message()
    client.load_model("simple")
    assert client.is_model_ready("simple", "1")
    assert states(client)["simple"] == ("READY", "")
    client.unload_model("simple")
    assert not client.is_model_ready("simple")
    error = failing(client.load_model, "wrong_model_name")
    assert error.status() == "StatusCode.INTERNAL"
    assert "failed to load 'wrong_model_name', failed to poll from model repository" in error.message()


def overrides(client: Any, file: Path) -> None:
    client.load_model("simple")
    config = client.get_model_config("simple", as_json=True)["config"]
    assert config["max_batch_size"] == 8
    client.load_model("simple", config=json.dumps({**config, "max_batch_size": 2}))
    assert client.get_model_config("simple").config.max_batch_size == 2
    error = failing(client.infer, "simple", [given("INPUT0", np.repeat(A, 3, 0)), given("INPUT1", np.repeat(B, 3, 0))])
    assert "inference request batch-size must be <= 2 for 'simple'" in error.message()
    files = {"file:7/model.onnx": file.read_bytes()}
    error = failing(client.load_model, "simple", files=files)
    assert "Load parameter 'config' must be specified for model file override" in error.message()
    client.load_model("simple", config="{}", files=files)
    assert client.is_model_ready("simple", "7")
    assert not client.is_model_ready("simple", "1")
    error = failing(client.load_model, "simple", config="{}", files={"file:../../model.onnx": b""})
    assert "must stay within model directory" in error.message()
    client.load_model("simple")
    assert client.is_model_ready("simple", "1")


def simple(client: Any, _: Path) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    got = client.infer("simple", [given("INPUT0", A), given("INPUT1", B)], outputs=wanted)
    assert (got.as_numpy("OUTPUT0") == A + B).all()
    assert (got.as_numpy("OUTPUT1") == A - B).all()
    assert client.get_inference_statistics("simple").model_stats[0].inference_count >= 1
    client.load_model("simple_int8")
    small = [given(f"INPUT{n}", each.astype(np.int8)) for n, each in enumerate((A, B))]
    assert (client.infer("simple_int8", small).as_numpy("OUTPUT0") == A + B).all()
    client.load_model("simple_string")
    words = [np.array([str(x).encode() for x in each.flat], np.object_).reshape(1, 16) for each in (A, B)]
    got = client.infer("simple_string", [given(f"INPUT{n}", each) for n, each in enumerate(words)])
    assert [int(each) for each in got.as_numpy("OUTPUT1").flat] == list((A - B).flat)
    client.load_model("simple_identity")
    assert (client.infer("simple_identity", [given("INPUT0", words[0])]).as_numpy("OUTPUT0") == words[0]).all()


def sequences_sync(client: Any, _: Path) -> None:
    client.load_model("simple_sequence")
    values = [11, 7, 5, 3, 2, 0, 1]
    for name in (1007, "sequence-text"):
        for place, value in enumerate(values):
            got = client.infer(
                "simple_sequence",
                [given("INPUT", np.array([[value]], np.int32))],
                sequence_id=name,
                sequence_start=place == 0,
                sequence_end=place == len(values) - 1,
            )
            assert got.as_numpy("OUTPUT")[0][0] == sum(values[: place + 1])


def sequences_streamed(client: Any, _: Path) -> None:
    client.load_model("simple_dyna_sequence")
    told: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: told.put((result, error)))
    values = [11, 7, 5, 3, 2, 0, 1]
    for place, value in enumerate(values):
        for name in (2001, 2002):
            client.async_stream_infer(
                "simple_dyna_sequence",
                [given("INPUT", np.array([[value]], np.int32))],
                request_id=f"{name}_{place}",
                sequence_id=name,
                sequence_start=place == 0,
                sequence_end=place == len(values) - 1,
            )
    results: dict[str, int] = {}
    for _each in range(2 * len(values)):
        result, error = told.get(timeout=TIMEOUT_S)
        assert error is None, error
        results[result.get_response().id] = int(result.as_numpy("OUTPUT")[0][0])
    client.stop_stream()
    for name in (2001, 2002):
        sums = [sum(values[: place + 1]) for place in range(len(values))]
        sums[-1] += name  # the model adds the id of the sequence at its end
        assert [results[f"{name}_{place}"] for place in range(len(values))] == sums


def ensemble(client: Any, _: Path) -> None:
    client.load_model("pipeline")
    assert client.get_model_metadata("pipeline").platform == "ensemble"
    got = client.infer("pipeline", [given("INPUT0", A), given("INPUT1", B)])
    assert (got.as_numpy("OUTPUT0") == 2 * A).all()
    assert (got.as_numpy("OUTPUT1") == 2 * B).all()


def asynchronous(client: Any, _: Path) -> None:
    done, results = threading.Event(), list[Any]()

    def tell(result: Any, error: Any) -> None:
        results.append(error or result)
        done.set()

    client.async_infer("simple", [given("INPUT0", A), given("INPUT1", B)], callback=tell, client_timeout=TIMEOUT_S)
    assert done.wait(TIMEOUT_S)
    assert (results[0].as_numpy("OUTPUT0") == A + B).all()


CALLS: tuple[Callable[[Any, Path], None], ...] = (
    *(model_control, overrides, simple, sequences_sync, sequences_streamed, ensemble, asynchronous),
)


async def with_asyncio(address: str) -> None:
    """The same by the client for asyncio, many at once."""
    async with triton_aio.InferenceServerClient(address) as client:
        inputs = [[given("INPUT0", n * A), given("INPUT1", B)] for n in range(32)]
        results = await asyncio.gather(*(client.infer("simple", each) for each in inputs))
        assert all((result.as_numpy("OUTPUT0") == n * A + B).all() for n, result in enumerate(results))


def main() -> None:
    """What the command line says."""
    with triton.InferenceServerClient(sys.argv[1]) as client:
        for call in CALLS:
            call(client, Path(sys.argv[2]))
            print(call.__name__, flush=True)
    asyncio.run(with_asyncio(sys.argv[1]))
    print("with_asyncio", flush=True)


if __name__ == "__main__":
    main()
