"""The repository of a kernel, and what it says of requests, in the words of the Open Inference Protocol."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from inferd.core.model import Model, ModelState
from inferd.errors import InvalidFieldError, ModelNotFoundError
from inferd.model_names import APART, AT, numbered
from inferd.plugin.tensor import ElementType
from inferd.repository.terms import Control, Kinds
from inferd.services.inference.datatypes import DATATYPES
from inferd.services.inference.requests import class_of, priority_in
from inferd.services.status import status_of
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference import model_config_pb2 as cp
from inferd_api.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.repository.ensembles import Ensemble
    from inferd.repository.terms import Terms
    from inferd.runtime.front.repository import ModelRepository
    from inferd_api.v1 import task_service_pb2 as ts

STATES: Final = {
    ModelState.READY: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
}
"""Of models, as the index has them; others are UNAVAILABLE."""
BY_CONFIG: Final = {each.config: each for each in DATATYPES.values()}
CODES: Final = {
    cp.TYPE_INT32: "i",
    cp.TYPE_UINT32: "I",
    cp.TYPE_INT64: "q",
    cp.TYPE_UINT64: "Q",
    cp.TYPE_FP32: "f",
    cp.TYPE_BOOL: "?",
}


class Numbering:
    """Which model of the kernel a model and a version mean, and what the version of one is called.

    Args:
        repository: Of the kernel; None where it has none.
    """

    def __init__(self, repository: ModelRepository | None) -> None:
        self._repository = repository

    def terms(self, name: str) -> Terms | None:
        """What holds of requests to a model, which may be named as a version of one; None if of no repository."""
        if self._repository is None or (terms := self._repository.terms(name)) is not None:
            return None if self._repository is None else terms
        parted = numbered(name)
        if parted is None or self._repository.model_of(*parted) != name:
            return None
        return self._repository.terms(parted[0])

    def names(self, name: str, version: str, found: str) -> tuple[str, ...]:
        """All names by which rules may know what a name and a version mean.

        Args:
            name: Of the model, as it was given.
            version: As it was given; "" for the newest.
            found: The model of the kernel that they mean.
        """
        if self._repository is None or self._repository.terms(name) is None:
            return (found, f"{found}{AT}{version}") if version else (found,)
        number = version or next(reversed(self._repository.versions(name)), "")
        return found, f"{name}{APART}{number}"

    def ensemble(self, name: str) -> Ensemble | None:
        """What an ensemble is; None for what is none."""
        return None if self._repository is None else self._repository.ensemble(name)

    def lacks(self, ensemble: Ensemble) -> str:
        """A model that an ensemble needs and that does not take requests; "" where all do."""
        return "" if self._repository is None else self._repository.lacks(ensemble)

    def model_of(self, name: str, version: str) -> str | None:
        """The model that is a version of one of the repository; None for a model that is none of it.

        Raises:
            ModelNotFoundError: The repository serves it, and not in that version.
        """
        if self._repository is None or self._repository.terms(name) is None:
            return None
        if (found := self._repository.model_of(name, version)) is None:
            served = ", ".join(self._repository.versions(name))
            raise ModelNotFoundError(
                f"Request for unknown model: '{name}' version {version[:20]} is not found; it is served in {served}",
                field="model_version",
            )
        return found

    def number(self, model: Model, version: int = 0) -> str:
        """What a version of a model is called; the one that serves by default."""
        number = version or model.serving.number
        told = "" if self._repository is None else self._repository.number(model, number)
        return told or str(number)

    def told(self, model: Model) -> tuple[str, str]:
        """What a model, and the version of it that serves, are called."""
        number = self.number(model)
        return model.spec.name.removesuffix(f"{APART}{number}"), number

    def versions(self, name: str, model: Model | None = None) -> tuple[str, ...]:
        """What all versions of a model are called that may be asked for."""
        told = () if self._repository is None else self._repository.versions(name)
        return told or (() if model is None else (self.number(model),))


def entry(model: Model, name: str, version: str) -> gp.RepositoryIndexResponse.ModelIndex:
    """A model as an index has it."""
    state = STATES.get(model.state, "UNAVAILABLE")
    reason = ""
    if model.state is ModelState.UNLOADED:
        reason = "unloaded; a request loads it"
    elif model.state is ModelState.FAILED:
        reason = "its last load failed" if model.error is None else status_of(model.error, model.spec.name).message
    return gp.RepositoryIndexResponse.ModelIndex(name=name, version=version, state=state, reason=reason)


def obey(terms: Terms, run: ts.RunTaskRequest, given: Mapping[str, gp.InferParameter]) -> None:
    """Have a run be what a model's configuration says of requests.

    Raises:
        InvalidFieldError: The configuration takes no such request.
    """
    infer, model = run.spec.infer, run.spec.model
    run.spec.priority = class_of(priority_of(terms, priority_in(given)))
    rows = next((each.shape[0] for each in infer.inputs if each.shape), 0)
    if terms.rows and rows > terms.rows:
        raise InvalidFieldError(
            f"inference request batch-size must be <= {terms.rows} for '{model}'; it is {rows}", field="inputs"
        )
    if not terms.sequences:
        return
    if not infer.HasField("sequence"):
        raise InvalidFieldError(
            f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID: parameter"
            " sequence_id",
            field="parameters",
        )
    if terms.rows and rows > 1:
        raise InvalidFieldError(
            f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher;"
            f" it is {rows}",
            field="inputs",
        )
    for control in terms.controls:
        infer.inputs.append(_control(control, run, given, batches=terms.rows > 0))


def priority_of(terms: Terms, priority: int) -> int:
    """The priority of a request, 0 for the usual one: of those that its model counts, else what it has by default."""
    if not terms.priorities:
        return priority
    return priority if 0 < priority <= terms.priorities else terms.default_priority


def _control(
    control: Control, run: ts.RunTaskRequest, given: Mapping[str, gp.InferParameter], *, batches: bool
) -> pb.Tensor:
    """The tensor that tells a model of a request's place in its sequence."""
    sequence, kind = run.spec.infer.sequence, BY_CONFIG[cp.DataType.ValueType(control.data_type)].kind
    shape = [1, 1] if batches else [1]
    made = pb.Tensor(name=control.name, element_type=pb.ElementType.ValueType(kind.value), shape=shape)
    if control.kind == Kinds.CONTROL_SEQUENCE_CORRID:
        _tell_id(made, control, run, given)
        return made
    says = {
        Kinds.CONTROL_SEQUENCE_START: sequence.start,
        Kinds.CONTROL_SEQUENCE_END: sequence.end,
        Kinds.CONTROL_SEQUENCE_READY: True,
    }
    value = control.yes if says[Kinds.Kind.ValueType(control.kind)] else control.no
    code = CODES[cp.DataType.ValueType(control.data_type)]
    made.data = struct.pack(f"<{code}", value if code == "f" else int(value))
    return made


def _tell_id(made: pb.Tensor, control: Control, run: ts.RunTaskRequest, given: Mapping[str, gp.InferParameter]) -> None:
    sequence, model = run.spec.infer.sequence.id, run.spec.model
    is_text = given["sequence_id"].WhichOneof("parameter_choice") == "string_param"
    takes_text = control.data_type == cp.TYPE_STRING
    if is_text and not takes_text:
        raise InvalidFieldError(
            f"sequence batching control '{control.name}' data-type is 'BYTES', but model '{model}' expects"
            f" '{ElementType(made.element_type).name}'",
            field="parameters",
        )
    if takes_text:
        made.strings.values.append(sequence)
        return
    try:
        made.data = struct.pack(f"<{CODES[cp.DataType.ValueType(control.data_type)]}", int(sequence))
    except struct.error:
        raise InvalidFieldError(
            f"sequence_id is {sequence}, and control '{control.name}' of model '{model}' is"
            f" {ElementType(made.element_type).name}, which has no such number",
            field="parameters",
        ) from None
