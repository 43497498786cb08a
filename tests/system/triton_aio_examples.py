"""The examples for Triton's client with asyncio; knows nothing of inferd. See `triton_examples.py`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import tritonclient.grpc as tc
import tritonclient.utils.shared_memory as shm
from triton_tensors import ONES, ROW, VALUES, check, check_texts, given, pair, shared, texts, wanted
from tritonclient import utils
from tritonclient.grpc import aio


def with_aio(call: Callable[[Any], Any]) -> Callable[[str], None]:
    """An example for asyncio."""

    def run(address: str) -> None:
        async def inner() -> None:
            async with aio.InferenceServerClient(address) as client:
                await call(client)

        asyncio.run(inner())

    run.__doc__ = call.__doc__
    run.__name__ = call.__name__
    return run


@with_aio
async def simple_grpc_aio_health_metadata(client: Any) -> None:
    """Health and metadata with asyncio."""
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("simple")
    await client.get_server_metadata()
    assert (await client.get_model_metadata("simple")).name == "simple"
    assert (await client.get_model_config("simple")).config.name == "simple"


@with_aio
async def simple_grpc_aio_infer_client(client: Any) -> None:
    """Inference with asyncio, many at once, and one that is cancelled."""
    for result in await asyncio.gather(*(client.infer("simple", pair()) for _ in range(16))):
        check(result)
    asked = asyncio.ensure_future(client.infer("simple", pair()))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    check(await client.infer("simple", pair()))


@with_aio
async def simple_grpc_aio_string_infer_client(client: Any) -> None:
    """Texts with asyncio."""
    both = [given("INPUT0", texts(ROW), "BYTES"), given("INPUT1", texts(ONES), "BYTES")]
    check_texts(await client.infer("simple_string", both))


@with_aio
async def simple_grpc_aio_model_control(client: Any) -> None:
    """Loading and unloading with asyncio."""
    assert (await client.get_model_repository_index()).models
    await client.unload_model("simple_int8")
    assert not await client.is_model_ready("simple_int8")
    await client.load_model("simple_int8")
    assert await client.is_model_ready("simple_int8")


@with_aio
async def simple_grpc_aio_sequence_sync_infer_client(client: Any) -> None:
    """A sequence step by step with asyncio."""
    total = 0
    for number, each in enumerate(VALUES):
        inputs = [given("INPUT", np.full((1, 1), each, np.int32))]
        ends = {"sequence_start": number == 0, "sequence_end": number == len(VALUES) - 1}
        result = await client.infer("simple_sequence", inputs, sequence_id=1007, **ends)
        total += each
        assert result.as_numpy("OUTPUT")[0][0] == total


@with_aio
async def simple_grpc_aio_sequence_stream_infer_client(client: Any) -> None:
    """A sequence on a stream with asyncio."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, each in enumerate(VALUES):
            yield {
                "model_name": "simple_sequence",
                "inputs": [given("INPUT", np.full((1, 1), each, np.int32))],
                "request_id": str(number),
                "sequence_id": 1008,
                "sequence_start": number == 0,
                "sequence_end": number == len(VALUES) - 1,
            }

    totals = []
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        totals.append(int(result.as_numpy("OUTPUT")[0][0]))
    assert totals == [sum(VALUES[: number + 1]) for number in range(len(VALUES))]


def simple_grpc_aio_custom_args_client(address: str) -> None:
    """Arguments of the channel with asyncio."""
    _aio_with(address, channel_args=[("grpc.max_send_message_length", 2**31 - 1)])


def simple_grpc_aio_keepalive_client(address: str) -> None:
    """Pings of the connection with asyncio."""
    _aio_with(address, keepalive_options=tc.KeepAliveOptions(keepalive_timeout_ms=20_000))


def _aio_with(address: str, **options: Any) -> None:
    async def inner() -> None:
        async with aio.InferenceServerClient(address, **options) as client:
            check(await client.infer("simple", pair()))

    asyncio.run(inner())


@with_aio
async def simple_grpc_aio_shm_client(client: Any) -> None:
    """Shared memory of the system with asyncio."""
    with shared("output_data", "/output_simple", 128) as into, shared("input_data", "/input_simple", 128) as source:
        await client.unregister_system_shared_memory()
        await client.unregister_cuda_shared_memory()
        await client.register_system_shared_memory("output_data", "/output_simple", 128)
        await client.register_system_shared_memory("input_data", "/input_simple", 128)
        shm.set_shared_memory_region(source, [ROW, ONES])
        inputs = [tc.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        outputs = wanted("OUTPUT0")
        inputs[0].set_shared_memory("input_data", 64)
        inputs[1].set_shared_memory("input_data", 64, offset=64)
        outputs[0].set_shared_memory("output_data", 64)
        await client.infer("simple", inputs, outputs=outputs)
        assert (shm.get_contents_as_numpy(into, np.int32, [1, 16]) == ROW + ONES).all()
        await client.unregister_system_shared_memory()


@with_aio
async def simple_grpc_aio_shm_string_client(client: Any) -> None:
    """Texts in shared memory with asyncio."""
    packed = utils.serialize_byte_tensor(texts(ROW))
    size = utils.serialized_byte_size(packed)
    with shared("input0", "/input0_data", size) as source:
        shm.set_shared_memory_region(source, [packed])
        await client.register_system_shared_memory("input0", "/input0_data", size)
        inputs = [tc.InferInput("INPUT0", [1, 16], "BYTES"), given("INPUT1", texts(ONES), "BYTES")]
        inputs[0].set_shared_memory("input0", size)
        check_texts(await client.infer("simple_string", inputs))
        await client.unregister_system_shared_memory()


@with_aio
async def vllm_client(client: Any) -> None:
    """A language model on a stream, as Triton's backend for vLLM names its tensors today."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, prompt in enumerate(("la", "lo")):
            yield {
                "model_name": "text",
                "inputs": [
                    given("text_input", np.array([prompt.encode()], object), "BYTES"),
                    given("stream", np.array([True])),
                    given(
                        "sampling_parameters",
                        np.array(
                            [json.dumps({"temperature": "0", "top_p": "0.95", "max_tokens": "8"}).encode()], object
                        ),
                        "BYTES",
                    ),
                ],
                "outputs": wanted("text_output"),
                "request_id": str(number),
            }

    written = {"0": b"", "1": b""}
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        written[result.get_response().id] += result.as_numpy("text_output")[0]
    assert written == {"0": b"lalalala", "1": b"lolololo"}


AIO_EXAMPLES: tuple[Callable[[str], None], ...] = (
    simple_grpc_aio_health_metadata,
    simple_grpc_aio_infer_client,
    simple_grpc_aio_string_infer_client,
    simple_grpc_aio_model_control,
    simple_grpc_aio_sequence_sync_infer_client,
    simple_grpc_aio_sequence_stream_infer_client,
    simple_grpc_aio_custom_args_client,
    simple_grpc_aio_keepalive_client,
    simple_grpc_aio_shm_client,
    simple_grpc_aio_shm_string_client,
    vllm_client,
)
