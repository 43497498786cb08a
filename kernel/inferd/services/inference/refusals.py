"""Why a request is refused, in the words that clients of Triton look for; inferd's own follow behind them."""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from inferd.errors import InferdError, InvalidFieldError, ModelNotFoundError, SequenceNotFoundError
from inferd.sampling import AT
from inferd.services.inference.datatypes import NAMES
from inferd.services.inference.responses import shape_of
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.v1 import tensor_pb2 as pb

INFER, SEQUENCE = "spec.infer.", "spec.infer.sequence"
FIELDS = {"model": "model_name", "spec.model": "model_name", "spec.labels": "parameters", "spec.prompt": "inputs"}
"""Fields of the protocol by those of `inferd.v1`, where the names differ."""


class NotStartedError(SequenceNotFoundError):
    """A sequence is not there, with the code that Triton has for it."""

    code = "INVALID_ARGUMENT"


def unknown(error: ModelNotFoundError, name: str) -> InferdError:
    """A model is not known."""
    theirs = f"Request for unknown model: '{name[:128]}' is not found"
    made = reworded(error, f"{theirs}; {error.message}")
    made.unnamed = f"{theirs}; {error.unnamed}" if error.unnamed else theirs
    return made


def reworded(error: InferdError, message: str = "", said: Mapping[str, str] = MappingProxyType({})) -> InferdError:
    """An error with other words, and its field as it is called in requests of the protocol.

    `said` is where parameters of sampling were, by their names.
    """
    field = FIELDS.get(error.field, error.field.removeprefix(INFER))
    if error.field.startswith(SEQUENCE):
        field = "parameters"
    elif error.field.startswith(AT):
        field = said.get(re.split(r"[.[]", error.field.removeprefix(AT))[0], "parameters")
    made = type(error)(
        message or error.message, metadata=error.metadata, field=field, retry_after_s=error.retry_after_s
    )
    made.names, made.unnamed = error.names, error.unnamed
    return made


def not_started(error: SequenceNotFoundError, model: str) -> InferdError:
    """A sequence is not there."""
    return reworded(
        NotStartedError(error.message, metadata=error.metadata, field=error.field),
        f"inference request for sequence {error.metadata.get('sequence', '')} to model '{model[:128]}' must specify the"
        f" START flag on the first request of the sequence; {error.message}",
    )


def refused(
    error: InvalidFieldError, request: gp.ModelInferRequest, signature: pb.ModelSignature, *, hidden: AbstractSet[str]
) -> InferdError:
    """What a model does not take of a request; clients do not give what is `hidden`."""
    theirs = _words(request, signature, hidden)
    return reworded(error, f"{theirs}; {error.message}" if theirs else "")


def _words(request: gp.ModelInferRequest, signature: pb.ModelSignature, hidden: AbstractSet[str]) -> str:
    """What Triton would say; "" where it is something else."""
    model, known = request.model_name, {info.name: info for info in signature.inputs}
    given = [each.name for each in request.inputs]
    for each in request.inputs:
        if each.name not in known:
            return f"unexpected inference input '{each.name[:80]}' for model '{model}'"
    carried = {state.input_name for state in signature.states} | hidden
    needed = [info.name for info in signature.inputs if not info.optional and info.name not in carried]
    if [name for name in needed if name not in given]:
        most = sum(name not in carried for name in known)
        return missing_words(model, given, needed, most=most)
    for each in request.inputs:
        if words := _of_input(each, known[each.name], model):
            return words
    outputs = {info.name for info in signature.outputs}
    for wanted in request.outputs:
        if wanted.name not in outputs:
            return f"unexpected inference output '{wanted.name[:80]}' for model '{model}'"
    return ""


def missing_words(model: str, given: Sequence[str], needed: Sequence[str], *, most: int) -> str:
    """That inputs are missing, as Triton says it.

    Args:
        model: Of the request.
        given: The inputs that it has.
        needed: Those that it must have.
        most: How many it may have.
    """
    missing = [name for name in needed if name not in given]
    count = f"{len(needed)} inputs" if most == len(needed) else f"number of inputs between {len(needed)} and {most}"
    return (
        f"expected {count} but got {len(given)} inputs for model '{model}'. Got input(s) {_names(given)}, but missing"
        f" required input(s) {_names(missing)}. Please provide all required input(s)."
    )


def _names(names: Sequence[str]) -> str:
    return f"[{','.join(repr(name[:80]) for name in names)}]"


def _of_input(given: gp.ModelInferRequest.InferInputTensor, info: pb.TensorInfo, model: str) -> str:
    wanted = NAMES.get(info.element_type, "")
    if given.datatype != wanted:
        return f"inference input '{given.name}' data-type is '{given.datatype}', but model '{model}' expects '{wanted}'"
    sizes, shape = shape_of(info), list(given.shape)
    fits = info.any_rank or (
        len(sizes) == len(shape) and all(size in {-1, have} for size, have in zip(sizes, shape, strict=True))
    )
    if fits:
        return ""
    return (
        f"unexpected shape for input '{given.name}' for model '{model}'. Expected {_listed(sizes)}, got"
        f" {_listed(shape)}"
    )


def _listed(sizes: list[int]) -> str:
    return f"[{','.join(map(str, sizes))}]"
