"""Language models by the Open Inference Protocol, with the tensors of Triton's vLLM and TensorRT-LLM backends."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from inferd.errors import InvalidFieldError
from inferd.plugin.tensor import ElementType
from inferd.services.inference.datatypes import DATATYPES, NotOfferedError
from inferd.services.inference.saying import SAID_BY_NAME, Saying
from inferd_api.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inferd_api.inference import grpc_service_pb2 as gp
    from inferd_api.v1 import task_pb2 as tp

TEXT_INPUT, STREAM, EXCLUDE, PARAMETERS_JSON = "text_input", "stream", "exclude_input_in_output", "sampling_parameters"
MOST_TOKENS: Final = 512
"""Of outputs whose length is not said, as for inferd's own clients; fewer where the context ends before."""


class Input(NamedTuple):
    """An input of language models.

    Attributes:
        datatype: What it consists of.
        says: The parameter of `inferd.sampling` that it gives; "" for others.
        many: Whether it has any number of elements.
    """

    datatype: str
    says: str = ""
    many: bool = False


RETURNS: Final[Mapping[str, tuple[str, ...]]] = {
    "return_finish_reason": ("finish_reason",),
    "return_cumulative_logprob": ("cumulative_logprob",),
    "return_num_input_tokens": ("num_input_tokens",),
    "return_num_output_tokens": ("num_output_tokens",),
    "return_log_probs": ("cum_log_probs", "output_log_probs"),
}
"""The outputs by the inputs that ask for them."""
INPUTS: Final[Mapping[str, Input]] = {
    TEXT_INPUT: Input("BYTES"),
    STREAM: Input("BOOL"),
    EXCLUDE: Input("BOOL"),
    PARAMETERS_JSON: Input("BYTES"),
    **{name: Input("BOOL") for name in RETURNS},
    "max_tokens": Input("INT32", "max_tokens"),
    "min_tokens": Input("INT32", "min_tokens"),
    "num_return_sequences": Input("INT32", "n"),
    "temperature": Input("FP32", "temperature"),
    "top_k": Input("INT32", "top_k"),
    "top_p": Input("FP32", "top_p"),
    "repetition_penalty": Input("FP32", "repetition_penalty"),
    "presence_penalty": Input("FP32", "presence_penalty"),
    "frequency_penalty": Input("FP32", "frequency_penalty"),
    "seed": Input("UINT64", "seed"),
    "random_seed": Input("UINT64", "seed"),
    "stop_words": Input("BYTES", "stop", many=True),
    "bad_words": Input("BYTES", "bad_words", many=True),
    "end_id": Input("INT32", "stop_token_ids"),
    "pad_id": Input("INT32"),
    "beam_width": Input("INT32"),
}
LOGPROBS: Final = ("cumulative_logprob", "cum_log_probs", "output_log_probs")
OUTPUTS: Final[Mapping[str, tuple[str, int]]] = {
    "text_output": ("BYTES", 1),
    "finish_reason": ("BYTES", 1),
    "cumulative_logprob": ("FP32", 1),
    "num_input_tokens": ("UINT32", 1),
    "num_output_tokens": ("UINT32", 1),
    "cum_log_probs": ("FP32", 1),
    "output_log_probs": ("FP32", 2),
}
"""What outputs consist of, and how many sizes they have."""
ALIKE: Final = {
    "INT32": ("INT32", "INT64", "UINT32", "UINT64"),
    "UINT64": ("UINT64", "INT64", "UINT32", "INT32"),
    "FP32": ("FP32", "FP64"),
}
"""Types that clients give for others; of these a number is a number."""


def _info(name: str, datatype: str, sizes: Iterable[int], *, optional: bool = False) -> pb.TensorInfo:
    kind = pb.ElementType.ValueType(DATATYPES[datatype].kind.value)
    shape = [pb.Dimension(size=size) if size > 0 else pb.Dimension() for size in sizes]
    return pb.TensorInfo(name=name, element_type=kind, shape=shape, optional=optional)


SIGNATURE: Final = pb.ModelSignature(
    inputs=[
        _info(name, each.datatype, [-1 if each.many else 1], optional=name != TEXT_INPUT)
        for name, each in INPUTS.items()
    ],
    outputs=[_info(name, datatype, [-1] * rank) for name, (datatype, rank) in OUTPUTS.items()],
    most_batch=1,
)
"""What every language model takes and gives."""


class Wish(NamedTuple):
    """How the output of a language model is to be told.

    Attributes:
        streams: As it comes.
        before: What is told before it.
        told: Names of outputs.
        samples: How many.
        places: Where parameters of sampling were said, by their names.
    """

    streams: bool
    before: str
    told: tuple[str, ...]
    samples: int
    places: Mapping[str, str]


def read_wish(request: gp.ModelInferRequest, given: Sequence[pb.Tensor], spec: tp.TaskSpec) -> Wish:
    """What a request says to a language model: the text and its sampling into `spec`, and how the output is told.

    Args:
        request: It.
        given: Its inputs.
        spec: Of its task.

    Raises:
        InvalidFieldError: An input is none, given twice, or has a value outside what it allows.
        NotOfferedError: It asks for what no kernel offers.
    """
    said, flags = Saying(spec.sampling), dict[str, bool]()
    text = _take_inputs(request, given, said, flags)
    if not any(each.name == PARAMETERS_JSON for each in given):
        for name, value in request.parameters.items():
            if name in SAID_BY_NAME:
                said.put_parameter(name, value)
    told, sampling = _told(request, flags), spec.sampling
    if set(LOGPROBS) & set(told) and not sampling.HasField("logprobs"):
        sampling.logprobs = 0
    if not sampling.HasField("max_tokens"):
        sampling.max_tokens, sampling.fit_max_tokens = MOST_TOKENS, True
    streams = flags.get(STREAM, False)
    excludes = flags.get(EXCLUDE, streams)
    if streams and not excludes:
        raise InvalidFieldError(
            "When streaming, `exclude_input_in_output` = False is not allowed; give true, or leave it out",
            field="inputs",
        )
    spec.prompt = text
    return Wish(streams, "" if excludes else text, told, max(1, sampling.n), said.places)


def _take_inputs(
    request: gp.ModelInferRequest, given: Sequence[pb.Tensor], said: Saying, flags: dict[str, bool]
) -> str:
    """The text; what is said of sampling, and what flags there are, to where it belongs."""
    model, found = request.model_name, dict[str, list[Any]]()
    for place, tensor in enumerate(given):
        name, path = tensor.name, f"inputs[{place}]"
        if name in found:
            raise InvalidFieldError(f"input '{name}' is given twice; give it once", field=path)
        values = found[name] = _values(tensor, request.inputs[place].datatype, path, model)
        info = INPUTS[name]
        if name == PARAMETERS_JSON:
            said.take_json(values[0], path)
        elif name == "beam_width" and values[0] != 1:
            raise NotOfferedError(f"beam_width is {values[0]}; no kernel searches with beams, give 1", field=path)
        elif info.says:
            said.put(info.says, values if info.many or name == "end_id" else values[0], path)
        elif info.datatype == "BOOL":
            flags[name] = values[0]
    if TEXT_INPUT not in found:
        raise InvalidFieldError(
            f"expected 1 inputs but got {len(given)} inputs for model '{model}'. Got input(s) {sorted(found)}, but"
            f" missing required input(s) ['{TEXT_INPUT}']. Please provide all required input(s).",
            field="inputs",
        )
    text: str = found[TEXT_INPUT][0]
    return text


def _told(request: gp.ModelInferRequest, flags: Mapping[str, bool]) -> tuple[str, ...]:
    """Which outputs are told: those that are wanted, else the text and what inputs ask for."""
    wanted = [each.name for each in request.outputs]
    for place, name in enumerate(wanted):
        if name not in OUTPUTS:
            raise InvalidFieldError(
                f"unexpected inference output '{name[:80]}' for model '{request.model_name}'",
                field=f"outputs[{place}].name",
            )
        if name in wanted[:place]:
            raise InvalidFieldError(f"output '{name}' is wanted twice; name each once", field=f"outputs[{place}]")
    if wanted:
        return tuple(wanted)
    return "text_output", *(output for name, outputs in RETURNS.items() if flags.get(name) for output in outputs)


def _values(tensor: pb.Tensor, datatype: str, path: str, model: str) -> list[Any]:
    """The elements of an input, one unless it may have several."""
    if (info := INPUTS.get(tensor.name)) is None:
        raise InvalidFieldError(
            f"unexpected inference input '{tensor.name[:80]}' for model '{model}'; it takes {', '.join(INPUTS)}",
            field=f"{path}.name",
        )
    if datatype not in ALIKE.get(info.datatype, (info.datatype,)):
        raise InvalidFieldError(
            f"inference input '{tensor.name}' data-type is '{datatype}', but model '{model}' expects '{info.datatype}'",
            field=f"{path}.datatype",
        )
    if tensor.element_type == ElementType.STRING.value:
        values: list[Any] = list(tensor.strings.values)
    else:
        packed = array(DATATYPES[datatype].code, tensor.data)
        if sys.byteorder == "big":
            packed.byteswap()
        values = [bool(each) for each in packed] if datatype == "BOOL" else packed.tolist()
    if len(values) != 1 and not info.many:
        raise InvalidFieldError(
            f"unexpected shape for input '{tensor.name}' for model '{model}'. Expected [1], got"
            f" {list(tensor.shape)}: give one text in each request",
            field=f"{path}.shape",
        )
    return values
