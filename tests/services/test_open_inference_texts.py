"""Language models by the Open Inference Protocol, as Triton's backends for vLLM and TensorRT-LLM name their tensors."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import Connection

from inferd.services.inference.tensors import write_texts
from inferd.testing.kernel import kernel_here
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference import model_config_pb2 as cp
from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 60.0
FORMS = {"FP32": "f", "INT32": "i", "UINT64": "Q", "BOOL": "?", "INT64": "q", "FP64": "d", "UINT32": "I"}
Code = grpc.StatusCode


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """What a client calls of a kernel with a language model and one of tensors."""
    folder = tmp_path_factory.mktemp("texts")
    async with kernel_here(folder) as kernel:
        made = Connection(kernel, folder)
        await made.create("text")
        await made.create("identity", tensor="identity")
        yield GRPCInferenceServiceStub(made.channel)
        await made.channel.close()


def asked(text: str = "la", **inputs: Any) -> gp.ModelInferRequest:
    """A request; each input is a datatype and values, or a text, a number or a flag of the usual one."""
    request = gp.ModelInferRequest(model_name="text", id="1")
    for name, given in {"text_input": text, **inputs}.items():
        kind, values = given if isinstance(given, tuple) else (usual(given), [given])
        raw = write_texts(values) if kind == "BYTES" else struct.pack(f"<{len(values)}{FORMS[kind]}", *values)
        request.inputs.add(name=name, datatype=kind, shape=[len(values)])
        request.raw_input_contents.append(raw)
    return request


def usual(value: object) -> str:
    kinds = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES"}
    return kinds[type(value)]


def outputs(response: gp.ModelInferResponse) -> dict[str, Any]:
    """The outputs by name, as values."""
    found: dict[str, Any] = {}
    for each, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if each.datatype == "BYTES":
            values, at = [], 0
            while at < len(raw):
                size = int.from_bytes(raw[at : at + 4], "little")
                values.append(raw[at + 4 : at + 4 + size].decode())
                at += 4 + size
            found[each.name] = values
        else:
            found[each.name] = list(struct.unpack(f"<{len(raw) // 4}{FORMS[each.datatype]}", raw))
    return found


async def streamed(stub: Any, *requests: gp.ModelInferRequest, metadata: Any = ()) -> list[Any]:
    async with asyncio.timeout(DEADLINE_S):
        return [each async for each in stub.ModelStreamInfer(iter(requests), metadata=metadata)]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await call
    return caught.value.code(), str(caught.value.details())


async def test_a_text_is_continued(stub: Any) -> None:
    """Once asked, a language model gives its text behind the one that it was given, or by itself where asked for."""
    given = asked(max_tokens=4, temperature=0.0)
    response = await stub.ModelInfer(given)
    assert (outputs(response), response.id, response.model_version) == ({"text_output": ["lalala"]}, "1", "1")
    alone = await stub.ModelInfer(asked(max_tokens=4, temperature=0.0, exclude_input_in_output=True))
    assert outputs(alone) == {"text_output": ["lala"]}


async def test_a_text_is_streamed(stub: Any) -> None:
    """On a stream it comes in pieces, the last of them marked; one that is not to stream comes whole."""
    many = asked(max_tokens=40, temperature=0.0, stream=True, return_finish_reason=True, return_num_output_tokens=True)
    got = await streamed(stub, many)
    assert not any(each.error_message for each in got)
    told = [outputs(each.infer_response) for each in got]
    finals = [each.infer_response.parameters["triton_final_response"].bool_param for each in got]
    assert finals == [False] * (len(got) - 1) + [True]
    assert "".join(each["text_output"][0] for each in told) == "la" * 20
    assert sum(each["num_output_tokens"][0] for each in told) == 40
    assert [each["finish_reason"] for each in told] == [["None"]] * (len(got) - 1) + [["length"]]
    (whole,) = await streamed(stub, asked(max_tokens=4, temperature=0.0))
    assert outputs(whole.infer_response) == {"text_output": ["lalala"]}
    assert whole.infer_response.parameters["triton_final_response"].bool_param


async def test_what_is_told_besides(stub: Any) -> None:
    """Numbers of tokens, the reason of the end and log probabilities are told where inputs or outputs ask for them."""
    flags = dict.fromkeys(
        (
            *("return_finish_reason", "return_cumulative_logprob", "return_num_input_tokens"),
            *("return_num_output_tokens", "return_log_probs"),
        ),
        True,
    )
    told = outputs(await stub.ModelInfer(asked(max_tokens=4, temperature=0.0, **flags)))
    assert (told["finish_reason"], told["num_input_tokens"], told["num_output_tokens"]) == (["length"], [2], [4])
    assert len(told["output_log_probs"]) == 4
    assert told["cumulative_logprob"] == told["cum_log_probs"] == pytest.approx([sum(told["output_log_probs"])])
    wanted = asked(max_tokens=4, temperature=0.0)
    wanted.outputs.add(name="num_output_tokens")
    assert outputs(await stub.ModelInfer(wanted)) == {"num_output_tokens": [4]}


async def test_parameters_are_said_in_three_ways(stub: Any) -> None:
    """Sampling is said by inputs, by `sampling_parameters` as JSON, whose numbers may be texts, or by parameters."""
    said = json.dumps({"max_tokens": "4", "temperature": 0, "top_p": "0.9", "top_k": -1, "stop": ["x"], "n": 2})
    told = outputs(await stub.ModelInfer(asked(sampling_parameters=said)))
    assert told == {"text_output": ["lalala", "lalala"]}
    by_parameters = asked()
    by_parameters.parameters["max_tokens"].int64_param = 2
    by_parameters.parameters["temperature"].double_param = 0
    by_parameters.parameters["colour"].string_param = "red"
    assert outputs(await stub.ModelInfer(by_parameters)) == {"text_output": ["lala"]}
    stops = asked("ab", max_tokens=20, temperature=0.0, stop_words=("BYTES", ["", "ba"]), exclude_input_in_output=True)
    assert outputs(await stub.ModelInfer(stops)) == {"text_output": ["a"]}
    wide = asked(max_tokens=("INT64", [2]), temperature=("FP64", [0.0]), random_seed=("UINT64", [7]), beam_width=1)
    assert outputs(await stub.ModelInfer(wide)) == {"text_output": ["lala"]}


async def test_a_grammar_is_kept(stub: Any) -> None:
    """What vLLM calls structured outputs holds: of two choices one is written."""
    said = json.dumps({"temperature": 0, "structured_outputs": {"choice": ["yes", "no"]}})
    (text,) = outputs(await stub.ModelInfer(asked(sampling_parameters=said, exclude_input_in_output=True)))[
        "text_output"
    ]
    assert text in {"yes", "no"}


BAD: dict[str, tuple[gp.ModelInferRequest, grpc.StatusCode, str]] = {
    "no such input": (asked(colour=1), Code.INVALID_ARGUMENT, "unexpected inference input 'colour' for model 'text'"),
    "type": (asked(max_tokens=1.5), Code.INVALID_ARGUMENT, "data-type is 'FP32', but model 'text' expects 'INT32'"),
    "two texts": (
        gp.ModelInferRequest(
            model_name="text",
            inputs=[{"name": "text_input", "datatype": "BYTES", "shape": [2]}],
            raw_input_contents=[bytes(8)],
        ),
        Code.INVALID_ARGUMENT,
        "unexpected shape for input 'text_input'",
    ),
    "range": (asked(temperature=-1.0), Code.INVALID_ARGUMENT, "temperature is -1; it must be"),
    "no JSON": (asked(sampling_parameters="{"), Code.INVALID_ARGUMENT, "is no JSON"),
    **{
        f"half a letter in {name}": (
            asked(sampling_parameters=json.dumps({name: {kind: value}})),
            Code.INVALID_ARGUMENT,
            f"{name} is no text",
        )
        for name, kind, value in (
            ("structured_outputs", "regex", "\ud800"),
            ("guided_decoding", "choice", ["a", "\ud800"]),
            ("guided_decoding", "json", "\ud800"),
        )
    },
    "no object": (asked(sampling_parameters="[]"), Code.INVALID_ARGUMENT, "must be an object"),
    "deep JSON": (asked(sampling_parameters="[" * 60_000), Code.INVALID_ARGUMENT, "is no JSON"),
    "no such parameter": (
        asked(sampling_parameters='{"colour": 1}'),
        Code.INVALID_ARGUMENT,
        "says nothing of sampling",
    ),
    "no number": (
        asked(sampling_parameters='{"top_p": "x"}'),
        Code.INVALID_ARGUMENT,
        "top_p is 'x'; it must be above 0",
    ),
    "twice": (asked(max_tokens=1, sampling_parameters='{"max_tokens": 2}'), Code.INVALID_ARGUMENT, "is given twice"),
    "beams": (asked(beam_width=2), Code.UNIMPLEMENTED, "beam_width is 2"),
    "other beams": (asked(sampling_parameters='{"use_beam_search": true}'), Code.UNIMPLEMENTED, "use_beam_search"),
    "streamed at once": (asked(stream=True), Code.UNIMPLEMENTED, "decoupled transaction policy"),
    "before a stream": (
        asked(stream=True, exclude_input_in_output=False),
        Code.INVALID_ARGUMENT,
        "When streaming, `exclude_input_in_output` = False is not allowed",
    ),
    "output": (
        gp.ModelInferRequest(
            model_name="text", inputs=asked().inputs, outputs=[{"name": "z"}], raw_input_contents=[b"\1\0\0\0a"]
        ),
        Code.INVALID_ARGUMENT,
        "unexpected inference output 'z' for model 'text'",
    ),
    "a model of tensors": (
        gp.ModelInferRequest(model_name="identity", inputs=asked().inputs, raw_input_contents=[b"\1\0\0\0a"]),
        Code.INVALID_ARGUMENT,
        "unexpected inference input 'text_input' for model 'identity'",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_refused(stub: Any, case: str) -> None:
    """What no language model takes is refused with the field, in words, as a model of tensors refuses it."""
    given, code, words = BAD[case]
    got, told = await refusal(stub.ModelInfer(given))
    assert (got, words in told) == (code, True), told


async def test_a_sequence_is_refused(stub: Any) -> None:
    """A language model carries nothing from one request to the next, and says so; sequence 0 is none."""
    given = asked(max_tokens=2, temperature=0.0)
    given.parameters["sequence_id"].int64_param = 0
    await stub.ModelInfer(given)
    given.parameters["sequence_id"].int64_param = 3
    code, words = await refusal(stub.ModelInfer(given))
    assert (code, "carries nothing" in words) == (Code.INVALID_ARGUMENT, True)


async def test_a_language_model_is_told(stub: Any) -> None:
    """Its metadata and configuration have the tensors of Triton's backends, and that its responses are decoupled."""
    told = await stub.ModelMetadata(gp.ModelMetadataRequest(name="text"))
    assert told.inputs[0] == gp.ModelMetadataResponse.TensorMetadata(name="text_input", datatype="BYTES", shape=[1])
    assert {"stream", "sampling_parameters", "exclude_input_in_output", "max_tokens", "stop_words"} <= {
        each.name for each in told.inputs
    }
    assert (told.outputs[0].name, told.outputs[0].datatype, list(told.outputs[0].shape)) == (
        "text_output",
        "BYTES",
        [-1],
    )
    config = (await stub.ModelConfig(gp.ModelConfigRequest(name="text"))).config
    assert (config.max_batch_size, config.model_transaction_policy.decoupled) == (0, True)
    assert config.input[0] == cp.ModelInput(name="text_input", data_type=cp.TYPE_STRING, dims=[1])
    assert all(each.optional for each in config.input[1:])
    assert not (
        await stub.ModelConfig(gp.ModelConfigRequest(name="identity"))
    ).config.model_transaction_policy.decoupled


async def test_a_stream_ends_with_its_error_where_asked_for(stub: Any) -> None:
    """With `triton_grpc_error` what was answered before is told, and the first error is that of the call."""
    first, bad, behind = asked(max_tokens=2, temperature=0.0), asked(colour=1), asked(max_tokens=2)
    got = await streamed(stub, first, bad, behind)
    assert [bool(each.error_message) for each in got] == [False, True, False]
    call = stub.ModelStreamInfer(iter([first, bad, behind]), metadata=(("triton_grpc_error", "true"),))
    async with asyncio.timeout(DEADLINE_S):
        assert outputs((await call.read()).infer_response) == {"text_output": ["lala"]}
        with pytest.raises(grpc.aio.AioRpcError, match="unexpected inference input 'colour'") as caught:
            await call.read()
    assert caught.value.code() is Code.INVALID_ARGUMENT


async def test_what_clients_ask_before_they_begin(stub: Any) -> None:
    """Memory of devices can be asked for and forgotten, as there is none; traces and logs are told, and not changed."""
    assert not (await stub.CudaSharedMemoryStatus(gp.CudaSharedMemoryStatusRequest())).regions
    await stub.CudaSharedMemoryUnregister(gp.CudaSharedMemoryUnregisterRequest())
    assert (await refusal(stub.CudaSharedMemoryStatus(gp.CudaSharedMemoryStatusRequest(name="r"))))[0] is Code.NOT_FOUND
    told = (await stub.TraceSetting(gp.TraceSettingRequest(model_name="text"))).settings
    assert list(told["trace_level"].value) == ["OFF"]
    assert (await refusal(stub.TraceSetting(gp.TraceSettingRequest(model_name="none"))))[0] is Code.NOT_FOUND
    other = gp.TraceSettingRequest(settings={"trace_rate": gp.TraceSettingRequest.SettingValue(value=["5"])})
    assert (await refusal(stub.TraceSetting(other)))[0] is Code.UNIMPLEMENTED
    assert (await stub.LogSettings(gp.LogSettingsRequest())).settings["log_error"].bool_param
