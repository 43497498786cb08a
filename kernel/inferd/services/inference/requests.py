"""Requests of the Open Inference Protocol as tasks of `inferd.v1`."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.errors import InvalidFieldError
from inferd.plugin.tensor import ElementType
from inferd.services.inference.datatypes import NotOfferedError
from inferd.services.inference.language import TEXT_INPUT, Wish, read_wish
from inferd.services.inference.saying import SAID_BY_NAME
from inferd.services.inference.shared_tensors import OFF, OFFSET, REGION, SIZE, share
from inferd.services.inference.tensors import begin_tensor, check_size, read_tensor
from inferd.services.work_values import NO_NAMED
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.services.inference.shared_tensors import Place, Reach
    from inferd.services.named import Named
    from inferd_api.inference import grpc_service_pb2 as gp

    Parameters = Mapping[str, gp.InferParameter]

MOST_TIMEOUT_US: Final = 3_153_600_000_000_000  # a hundred years
SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END = "sequence_id", "sequence_start", "sequence_end"
PRIORITY, TIMEOUT, EMPTY_FINAL = "priority", "timeout", "triton_enable_empty_final_response"
NO_PLACES: Final[Mapping[str, Place]] = MappingProxyType({})
OWN: Final = frozenset({SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END, PRIORITY, TIMEOUT, EMPTY_FINAL})
"""Parameters with a meaning."""
RESERVED: Final = "triton_"
NOT_OFFERED: Final = {"classification": "the classification extension is not offered; leave it out"}
SHARED: Final = dict.fromkeys((REGION, SIZE, OFFSET), OFF)
CLASSES: Final = {0: pp.PRIORITY_NORMAL, 1: pp.PRIORITY_HIGH, 2: pp.PRIORITY_NORMAL}
"""Classes by the numbers of the protocol, of which 1 is the highest; all beyond are LOW."""


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        run: It, as `inferd.v1` has it.
        timeout_s: How long it may take; None for as long as its call.
        empty_final: Whether a stream ends with a response without outputs.
        named: Elements that its inputs name in shared memory, by their places.
        places: Where outputs are put in shared memory, by their names.
        wish: How the output of a language model is told; None for one of tensors.
    """

    run: ts.RunTaskRequest
    timeout_s: float | None
    empty_final: bool
    named: Mapping[int, Named] = NO_NAMED
    places: Mapping[str, Place] = NO_PLACES
    wish: Wish | None = None

    @property
    def said(self) -> Mapping[str, str]:
        """Where parameters of sampling were said, by their names."""
        return {} if self.wish is None else self.wish.places


def is_text(request: gp.ModelInferRequest) -> bool:
    """Whether a request may be one to a language model."""
    return any(each.name == TEXT_INPUT for each in request.inputs)


async def read_request(
    request: gp.ModelInferRequest, *, most_strings: int, reach: Reach | None = None, reads_text: bool = False
) -> Asked:
    """A run of a model; others have their turn while it is read.

    Args:
        request: It.
        most_strings: Most texts of a tensor, `limits.tensor_strings`.
        reach: What it may use of shared memory; None for nothing.
        reads_text: Whether the model is a language model.

    Raises:
        InvalidFieldError: It contradicts itself.
        NotOfferedError: It asks for what no kernel offers.
        LimitExceededError: It has too many texts.
    """
    run = ts.RunTaskRequest()
    spec, given = run.spec, request.parameters
    spec.model = request.model_name
    inputs, named = await _read_inputs(request, most_strings, reach, inline=reads_text)
    places: dict[str, Place] = {}
    for number, output in enumerate(request.outputs):
        place = _shared(output.parameters, f"outputs[{number}]", None if reads_text else reach)
        if place is not None:
            places[output.name] = place
    wish = read_wish(request, inputs, spec) if reads_text else None
    if wish is None:
        spec.infer.SetInParent()
        spec.infer.inputs.extend(inputs)
        spec.infer.outputs.extend(output.name for output in request.outputs)
        _read_sequence(given, run)
    elif _has_sequence(given):
        raise InvalidFieldError(
            f"model '{request.model_name[:80]}' reads text, and carries nothing from one request to the next: leave"
            f" '{SEQUENCE_ID}' out, and give all of the text",
            field="parameters",
        )
    spec.priority = class_of(priority_in(given))
    _read_labels(given, run, OWN if wish is None else OWN | SAID_BY_NAME)
    timeout_s = timeout_in(given)
    return Asked(run, timeout_s, _flag(given, EMPTY_FINAL), named, places, wish)


def _read_labels(given: Parameters, run: ts.RunTaskRequest, own: frozenset[str]) -> None:
    """Parameters without a meaning are labels of the task."""
    for name, value in given.items():
        if name in own:
            continue
        if name.startswith(RESERVED):
            raise InvalidFieldError(
                f"parameter keys starting with 'triton_' are reserved, but parameter '{name[:80]}' was given",
                field="parameters",
            )
        _refuse({name: value}, "parameters", {**NOT_OFFERED, **SHARED})
        kind = value.WhichOneof("parameter_choice")
        run.spec.labels[name] = "" if kind is None else _text(getattr(value, kind))


async def _read_inputs(
    request: gp.ModelInferRequest, most_strings: int, reach: Reach | None, *, inline: bool
) -> tuple[list[pb.Tensor], Mapping[int, Named]]:
    """The inputs, and what they name: many elements in shared memory, unless all are wanted `inline`."""
    shared = [_shared(each.parameters, f"inputs[{number}]", reach) for number, each in enumerate(request.inputs)]
    elements = _elements(request, shared)
    if reach is None or not any(shared):
        return [
            await read_tensor(each, raw, f"inputs[{number}]", model=request.model_name, most_strings=most_strings)
            for number, (each, raw) in enumerate(zip(request.inputs, elements, strict=True))
        ], NO_NAMED
    for number, place in enumerate(shared):
        if place is not None:
            datatype, _ = begin_tensor(request.inputs[number], place.path)
            if datatype.kind is not ElementType.STRING:
                check_size(request.inputs[number], datatype, place.size_bytes, place.path, request.model_name)
    wanted = {number: place for number, place in enumerate(shared) if place is not None}
    found = dict(zip(wanted, await reach.read(list(wanted.values())), strict=True))
    texts = {number for number in found if request.inputs[number].datatype == "BYTES"}
    named = {} if inline else share({number: data for number, data in found.items() if number not in texts})
    inputs = []
    for number, each in enumerate(request.inputs):
        path = f"inputs[{number}]"
        if number in named:
            _, tensor = begin_tensor(each, path)
            tensor.uploaded.size_bytes = wanted[number].size_bytes
            inputs.append(tensor)
        else:
            raw = found.get(number, elements[number])
            inputs.append(await read_tensor(each, raw, path, model=request.model_name, most_strings=most_strings))
    return inputs, named


def _elements(request: gp.ModelInferRequest, shared: list[Place | None]) -> list[bytes | None]:
    """The raw contents of each input; None for what is elsewhere."""
    raws, count = request.raw_input_contents, shared.count(None)
    if raws and len(raws) != count:
        raise InvalidFieldError(
            f"expected {count} raw_input_contents, one for each of inputs that is not in shared memory, but got"
            f" {len(raws)}",
            field="raw_input_contents",
        )
    left = iter(raws)
    elements: list[bytes | None] = []
    for number, (each, place) in enumerate(zip(request.inputs, shared, strict=True)):
        if each.HasField("contents") and (raws or place is not None):
            what = "raw_input_contents" if place is None else "shared memory"
            raise InvalidFieldError(
                f"contents field must not be specified when using {what} for '{each.name[:80]}' for model"
                f" '{request.model_name[:80]}'",
                field=f"inputs[{number}].contents",
            )
        elements.append(next(left) if raws and place is None else None)
    return elements


def _shared(given: Parameters, path: str, reach: Reach | None) -> Place | None:
    """Where a tensor is in shared memory, if it is."""
    _refuse(given, f"{path}.parameters", NOT_OFFERED if reach is not None else {**NOT_OFFERED, **SHARED})
    return None if reach is None else reach.place(given, path)


def _read_sequence(given: Parameters, run: ts.RunTaskRequest) -> None:
    """Sequence 0, or "", is none."""
    value = given.get(SEQUENCE_ID)
    kind = None if value is None else value.WhichOneof("parameter_choice")
    if value is None or kind is None:
        return
    if kind not in {"int64_param", "uint64_param", "string_param"}:
        raise InvalidFieldError(
            f"parameter '{SEQUENCE_ID}' is a {kind}; it must be a whole number or a text", field="parameters"
        )
    if not (name := getattr(value, kind)):
        return
    run.spec.infer.sequence.id = str(name)
    run.spec.infer.sequence.start = _flag(given, SEQUENCE_START)
    run.spec.infer.sequence.end = _flag(given, SEQUENCE_END)


def priority_in(given: Parameters) -> int:
    """The priority that a request names, 0 where it names none.

    Raises:
        InvalidFieldError: It is no whole number.
    """
    return _number(given, PRIORITY)


def class_of(priority: int) -> pp.Priority.ValueType:
    """The class of a priority."""
    return CLASSES.get(priority, pp.PRIORITY_LOW)


def timeout_in(given: Parameters) -> float | None:
    """How long a request may take; None for as long as its call.

    Raises:
        InvalidFieldError: It is no such time.
    """
    timeout_us = _number(given, TIMEOUT, most=MOST_TIMEOUT_US)
    return timeout_us / 1e6 if timeout_us else None


def refuse_in_ensembles(request: gp.ModelInferRequest) -> None:
    """Refuse what ensembles do not pass on to their steps.

    Raises:
        NotOfferedError: There is such.
    """
    why = "ensembles take and give tensors in messages alone; leave it out"
    for what in ("inputs", "outputs"):
        for number, each in enumerate(getattr(request, what)):
            _refuse(each.parameters, f"{what}[{number}].parameters", {**NOT_OFFERED, **dict.fromkeys(SHARED, why)})


def _has_sequence(given: Parameters) -> bool:
    """Whether it is a part of a sequence, for a model that has none."""
    run = ts.RunTaskRequest()
    _read_sequence(given, run)
    return run.spec.infer.HasField("sequence")


def _refuse(parameters: Parameters, path: str, refused: Mapping[str, str]) -> None:
    """Refuse parameters that ask for what no kernel offers."""
    for name in parameters:
        if (why := refused.get(name)) is not None:
            raise NotOfferedError(f"{path} has {name!r}: {why}", field=path)


def _flag(given: Parameters, name: str) -> bool:
    if name not in given:
        return False
    kind = given[name].WhichOneof("parameter_choice")
    if kind != "bool_param":
        raise InvalidFieldError(f"parameter '{name}' is a {kind}; it must be a bool_param", field="parameters")
    return given[name].bool_param


def _number(given: Parameters, name: str, most: int = 2**64 - 1) -> int:
    """A whole number, 0 where it is not given."""
    if name not in given:
        return 0
    value = given[name]
    kind = value.WhichOneof("parameter_choice")
    if kind not in {"int64_param", "uint64_param"}:
        raise InvalidFieldError(f"parameter '{name}' is a {kind}; it must be a whole number", field="parameters")
    number: int = getattr(value, kind)
    if not 0 <= number <= most:
        raise InvalidFieldError(f"parameter '{name}' is {number}; it must be from 0 to {most}", field="parameters")
    return number


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
