"""What the Python gRPC examples of Triton's public client repository call, written anew; knows nothing of inferd.

    python triton_examples.py list             the names of the examples, as JSON
    python triton_examples.py NAME ADDRESS     one of them; it ends well, or says why not

The server has the models of those examples: see `triton_models.py`, and `repeat_int32` and `text`.
"""

import argparse
import gc
import json
import queue
import resource
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as tc
import tritonclient.utils.shared_memory as shm
from triton_aio_examples import AIO_EXAMPLES
from triton_tensors import (
    ONES,
    ROW,
    TIMEOUT_S,
    VALUES,
    check,
    check_texts,
    failing,
    given,
    pair,
    shared,
    texts,
    wanted,
)
from tritonclient import utils
from tritonclient.grpc import service_pb2, service_pb2_grpc


def raw_stub(address: str) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address))


def grpc_client(address: str) -> None:
    """The calls of the service one by one, without the library's classes."""
    stub = raw_stub(address)
    assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
    assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
    assert stub.ModelReady(service_pb2.ModelReadyRequest(name="simple", version="1")).ready
    stub.ServerMetadata(service_pb2.ServerMetadataRequest())
    stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="simple"))
    stub.ModelConfig(service_pb2.ModelConfigRequest(name="simple"))
    request = service_pb2.ModelInferRequest(model_name="simple", id="my request id")
    for name, array in (("INPUT0", ROW), ("INPUT1", ONES)):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        request.raw_input_contents.append(array.tobytes())
    assert stub.ModelInfer(request).id == "my request id"


def explicit(address: str, model: str, kind: str, field: str, values: tuple[Any, Any]) -> Any:
    """Elements in typed contents."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, each in zip(("INPUT0", "INPUT1"), values, strict=True):
        tensor = request.inputs.add(name=name, datatype=kind, shape=[1, 16])
        getattr(tensor.contents, field).extend(each)
    return tc.InferResult(raw_stub(address).ModelInfer(request))


def grpc_explicit_int_content_client(address: str) -> None:
    """Whole numbers in typed contents."""
    check(explicit(address, "simple", "INT32", "int_contents", (list(range(16)), [1] * 16)))


def grpc_explicit_int8_content_client(address: str) -> None:
    """Small whole numbers in typed contents."""
    check(explicit(address, "simple_int8", "INT8", "int_contents", (list(range(16)), [1] * 16)))


def grpc_explicit_byte_content_client(address: str) -> None:
    """Texts in typed contents."""
    both = [str(each).encode() for each in range(16)], [b"1"] * 16
    check_texts(explicit(address, "simple_string", "BYTES", "bytes_contents", both))


def memory_growth_test(address: str) -> None:
    """Many requests, as tensors are given and reused; the client does not grow."""
    with tc.InferenceServerClient(address) as client:
        inputs = pair()
        for number in range(300):
            check(client.infer("simple", inputs, outputs=wanted("OUTPUT0", "OUTPUT1")))
            if number == 100:
                gc.collect()
                begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        gc.collect()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun < 32 << 10


def reuse_infer_objects_client(address: str) -> None:
    """The same objects for tensors in messages, then in shared memory, then in messages."""
    with tc.InferenceServerClient(address) as client, shared("input_data", "/input_simple", 128) as handle:
        inputs, outputs = pair(), wanted("OUTPUT0", "OUTPUT1")
        check(client.infer("simple", inputs, outputs=outputs))
        client.register_system_shared_memory("input_data", "/input_simple", 128)
        shm.set_shared_memory_region(handle, [ROW, ONES])
        inputs[0].set_shared_memory("input_data", 64)
        inputs[1].set_shared_memory("input_data", 64, offset=64)
        check(client.infer("simple", inputs, outputs=outputs))
        client.unregister_system_shared_memory()
        inputs[0].set_data_from_numpy(ROW)
        inputs[1].set_data_from_numpy(ONES)
        check(client.infer("simple", inputs, outputs=outputs))


def simple_grpc_health_metadata(address: str) -> None:
    """Health, metadata and configuration, and a model that there is none of."""
    with tc.InferenceServerClient(address) as client:
        assert client.is_server_live(headers={"test": "1", "dummy": "2"})
        assert client.is_server_ready()
        assert client.is_model_ready("simple")
        assert client.get_server_metadata().name
        assert client.get_model_metadata("simple", headers={"test": "1"}).name == "simple"
        assert client.get_model_config("simple").config.name == "simple"
        words = failing(client.get_model_metadata, "wrong_model_name").message()
        assert "Request for unknown model" in words, words


def simple_grpc_infer_client(address: str) -> None:
    """Inference with and without chosen outputs, with headers, and its statistics."""
    with tc.InferenceServerClient(address) as client:
        chosen = wanted("OUTPUT0", "OUTPUT1")
        check(client.infer("simple", pair(), outputs=chosen, client_timeout=TIMEOUT_S, headers={"test": "1"}))
        check(client.infer("simple", pair()))
        assert len(client.get_inference_statistics("simple").model_stats) == 1


def simple_grpc_string_infer_client(address: str) -> None:
    """Texts, with an identity of those that have zeros in them."""
    with tc.InferenceServerClient(address) as client:
        both = [given("INPUT0", texts(ROW), "BYTES"), given("INPUT1", texts(ONES), "BYTES")]
        check_texts(client.infer("simple_string", both, outputs=wanted("OUTPUT0", "OUTPUT1")))
        zeros = np.array([["he\x00llo", "\x00", "", *"abcdefghijklm"]], object)
        got = client.infer("simple_identity", [given("INPUT0", zeros, "BYTES")]).as_numpy("OUTPUT0")
        assert [each.decode() for each in got.flat] == list(zeros.flat)


def simple_grpc_async_infer_client(address: str) -> None:
    """Callbacks, also one that is cancelled."""
    told: queue.Queue[Any] = queue.Queue()
    with tc.InferenceServerClient(address) as client:
        for _ in range(8):
            client.async_infer("simple", pair(), callback=lambda result, error: told.put((result, error)))
        for _ in range(8):
            result, error = told.get(timeout=TIMEOUT_S)
            assert error is None, error
            check(result)
        asked = client.async_infer("simple", pair(), callback=lambda result, error: told.put((result, error)))
        asked.cancel()
        result, error = told.get(timeout=TIMEOUT_S)
        assert result is not None or "CANCELLED" in str(error) or "cancel" in str(error).lower(), error


def simple_grpc_keepalive_client(address: str) -> None:
    """Pings of the connection."""
    options = tc.KeepAliveOptions(
        keepalive_time_ms=2**31 - 1,
        keepalive_timeout_ms=20_000,
        keepalive_permit_without_calls=False,
        http2_max_pings_without_data=2,
    )
    with tc.InferenceServerClient(address, keepalive_options=options) as client:
        check(client.infer("simple", pair()))


def simple_grpc_custom_args_client(address: str) -> None:
    """Arguments of the channel."""
    arguments = [("grpc.max_send_message_length", 2**31 - 1), ("grpc.primary_user_agent", "mine")]
    with tc.InferenceServerClient(address, channel_args=arguments) as client:
        check(client.infer("simple", pair()))


def simple_grpc_model_control(address: str) -> None:
    """The index, loading with another configuration, unloading, and loads that are refused."""
    with tc.InferenceServerClient(address) as client:
        assert "simple_int8" in [each.name for each in client.get_model_repository_index().models]
        client.load_model("simple_int8")
        assert client.is_model_ready("simple_int8"), "it is not ready"
        wrong = '"parameters": {"config": {{"max_batch_size": "16"}}}'
        refused = failing(client.load_model, "simple_int8", config=wrong)
        assert "failed to load" in refused.message(), refused
        client.load_model("simple_int8", config='{"max_batch_size":"16"}')
        assert client.get_model_config("simple_int8").config.max_batch_size == 16, "it is as before"
        client.unload_model("simple_int8")
        assert not client.is_model_ready("simple_int8"), "it is ready still"
        files = {"file:" + "A" * 256: b"a"}
        assert (
            failing(client.load_model, "simple_int8", config="{}", files=files).status()
            == "StatusCode.INVALID_ARGUMENT"
        )
        assert client.is_server_live()
        refused = failing(client.load_model, "wrong_model_name")
        assert "failed to load" in refused.message(), refused
        client.load_model("simple_int8")


def simple_grpc_sequence_sync_infer_client(address: str) -> None:
    """Two sequences by numbers and one by a text, step by step."""
    with tc.InferenceServerClient(address) as client:
        for sequence, sign, start in ((1001, 1, 0), (1002, -1, 100), (str(uuid.uuid4()), -1, 20)):
            steps, total = [start, *(sign * each for each in VALUES)], 0
            for number, each in enumerate(steps):
                result = client.infer(
                    "simple_sequence",
                    [given("INPUT", np.full((1, 1), each, np.int32))],
                    outputs=wanted("OUTPUT"),
                    sequence_id=sequence,
                    sequence_start=number == 0,
                    sequence_end=number == len(steps) - 1,
                )
                total += each
                assert result.as_numpy("OUTPUT")[0][0] == total


def simple_grpc_sequence_stream_infer_client(address: str) -> None:
    """The same, on a stream."""
    stream_sequences(address, "simple_sequence", ((1001, 1, 0), (1002, -1, 100), (str(uuid.uuid4()), -1, 20)))


def simple_grpc_sequence_stream_infer_client_dyna(address: str) -> None:
    """The same with a model that adds the id of the sequence at its end."""
    stream_sequences(address, "simple_dyna_sequence", ((1001, 1, 0), (1002, -1, 100)))


def stream_sequences(address: str, model: str, sequences: tuple[tuple[Any, int, int], ...]) -> None:
    """Sequences one after the other on a stream; each has an id, a sign of its values, and what is before them."""
    told: queue.Queue[Any] = queue.Queue()
    with tc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: told.put((result, error)))
        sums: dict[str, int] = {}
        for sequence, sign, start in sequences:
            steps, total = [start, *(sign * each for each in VALUES)], 0
            for number, each in enumerate(steps):
                name, total, ends = f"{sequence}_{number}", total + each, number == len(steps) - 1
                sums[name] = total + sequence if ends and model == "simple_dyna_sequence" else total
                client.async_stream_infer(
                    model,
                    [given("INPUT", np.full((1, 1), each, np.int32))],
                    outputs=wanted("OUTPUT"),
                    request_id=name,
                    sequence_id=sequence,
                    sequence_start=number == 0,
                    sequence_end=ends,
                )
        for _ in range(len(sums)):
            result, error = told.get(timeout=TIMEOUT_S)
            assert error is None, error
            assert result.as_numpy("OUTPUT")[0][0] == sums[result.get_response().id]


def simple_grpc_custom_repeat(address: str) -> None:
    """A model that gives many responses for one request."""
    told: queue.Queue[Any] = queue.Queue()
    with tc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: told.put((result, error)))
        client.async_stream_infer(
            "repeat_int32", [given("count", np.array(10, np.float32))], enable_empty_final_response=True
        )
        sets, final = [], False
        while not final:
            result, error = told.get(timeout=TIMEOUT_S)
            assert error is None, error
            final = result.get_response().parameters["triton_final_response"].bool_param
            sets += [float(result.as_numpy("y"))] if result.get_response().outputs else []
        assert sets == list(range(10))


def simple_grpc_shm_client(address: str) -> None:
    """Inputs and outputs in shared memory of the system."""
    with (
        tc.InferenceServerClient(address) as client,
        shared("output_data", "/output_simple", 128) as into,
        shared("input_data", "/input_simple", 128) as source,
    ):
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        client.register_system_shared_memory("output_data", "/output_simple", 128)
        shm.set_shared_memory_region(source, [ROW])
        shm.set_shared_memory_region(source, [ONES], offset=64)
        client.register_system_shared_memory("input_data", "/input_simple", 128)
        inputs = [tc.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        outputs = wanted("OUTPUT0", "OUTPUT1")
        for number in range(2):
            inputs[number].set_shared_memory("input_data", 64, offset=64 * number)
            outputs[number].set_shared_memory("output_data", 64, offset=64 * number)
        result = client.infer("simple", inputs, outputs=outputs)
        for number, numbers in enumerate((ROW + ONES, ROW - ONES)):
            told = result.get_output(f"OUTPUT{number}")
            kind = utils.triton_to_np_dtype(told.datatype)
            assert (shm.get_contents_as_numpy(into, kind, told.shape, offset=64 * number) == numbers).all()
        assert set(client.get_system_shared_memory_status().regions) == {"input_data", "output_data"}
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions


def simple_grpc_shm_string_client(address: str) -> None:
    """Texts in shared memory of the system."""
    packed = [utils.serialize_byte_tensor(texts(each)) for each in (ROW, ONES)]
    sizes = [utils.serialized_byte_size(each) for each in packed]
    with (
        tc.InferenceServerClient(address) as client,
        shared("input0", "/input0_data", sizes[0]) as first,
        shared("input1", "/input1_data", sizes[1]) as second,
        shared("output0", "/output0_data", 1024) as into,
    ):
        for handle, data in zip((first, second), packed, strict=True):
            shm.set_shared_memory_region(handle, [data])
        for name, key, size in (
            ("input0", "/input0_data", sizes[0]),
            ("input1", "/input1_data", sizes[1]),
            ("output0", "/output0_data", 1024),
        ):
            client.register_system_shared_memory(name, key, size)
        inputs = [tc.InferInput(name, [1, 16], "BYTES") for name in ("INPUT0", "INPUT1")]
        for number in range(2):
            inputs[number].set_shared_memory(f"input{number}", sizes[number])
        outputs = wanted("OUTPUT0")
        outputs[0].set_shared_memory("output0", 1024)
        told = client.infer("simple_string", inputs, outputs=outputs).get_output("OUTPUT0")
        got = shm.get_contents_as_numpy(into, utils.triton_to_np_dtype(told.datatype), told.shape)
        assert [int(each) for each in got.flat] == list((ROW + ONES).flat)
        client.unregister_system_shared_memory()


EXAMPLES: tuple[Callable[[str], None], ...] = (
    grpc_client,
    grpc_explicit_int_content_client,
    grpc_explicit_int8_content_client,
    grpc_explicit_byte_content_client,
    memory_growth_test,
    reuse_infer_objects_client,
    simple_grpc_health_metadata,
    simple_grpc_infer_client,
    simple_grpc_string_infer_client,
    simple_grpc_async_infer_client,
    simple_grpc_keepalive_client,
    simple_grpc_custom_args_client,
    simple_grpc_model_control,
    simple_grpc_sequence_sync_infer_client,
    simple_grpc_sequence_stream_infer_client,
    simple_grpc_sequence_stream_infer_client_dyna,
    simple_grpc_custom_repeat,
    simple_grpc_shm_client,
    simple_grpc_shm_string_client,
    *AIO_EXAMPLES,
)


def main() -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("address", nargs="?", default="")
    asked = parser.parse_args()
    by_name = {each.__name__: each for each in EXAMPLES}
    if asked.name == "list":
        print(json.dumps({name: (each.__doc__ or "").strip() for name, each in by_name.items()}))
    else:
        by_name[asked.name](asked.address)


if __name__ == "__main__":
    main()
