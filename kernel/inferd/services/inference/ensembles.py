"""Ensembles: a request is run as one of each step, whose outputs are the next ones' inputs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.errors import InferdError, InvalidFieldError, LimitExceededError
from inferd.services.inference.refusals import missing_words
from inferd_api.inference import grpc_service_pb2 as gp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractContextManager

    from inferd.repository.ensembles import Ensemble, Step
    from inferd.services.calls import Call

    Once = Callable[[gp.ModelInferRequest, Call], Awaitable[gp.ModelInferResponse]]

PASSED_ON = ("sequence_id", "sequence_start", "sequence_end", "priority")
"""Parameters of a request that hold for each step; its timeout holds for all together."""
STEPS_AT_ONCE: Final = 8
"""Of a stage: others wait, and nothing is made ready for them."""


@dataclass(slots=True, kw_only=True)
class Course:
    """What one request to an ensemble may become, with all ensembles that are steps of it.

    Attributes:
        limit_bytes: Most of all tensors that are between the steps of an ensemble at once, in bytes.
        most_steps: Most steps, those that are ensembles and theirs counted each.
        hold: Counts bytes of tensors against what is held of all requests, as long as its block.
        now: The clock.
        ends: When on that it is too late; None for never.
        steps: How many have begun.
    """

    limit_bytes: int
    most_steps: int
    hold: Callable[[int], AbstractContextManager[None]]
    now: Callable[[], float]
    ends: float | None = None
    steps: int = 0

    def take_step(self, ensemble: str) -> None:
        """One more begins.

        Raises:
            LimitExceededError: As many have as may.
        """
        if self.steps >= self.most_steps:
            raise LimitExceededError(
                f"ensemble '{ensemble}' makes more than {self.most_steps} steps of a request, those of ensembles in it"
                " included, and inference.ensemble_steps is that",
                metadata={
                    "bound": "inference.ensemble_steps",
                    "value": str(self.steps + 1),
                    "limit": str(self.most_steps),
                },
            )
        self.steps += 1

    def write_timeout(self, into: gp.ModelInferRequest) -> None:
        """Say in a request of a step what is left of the time."""
        if self.ends is not None:  # the step is refused as late where nothing is
            into.parameters["timeout"].int64_param = max(1, int((self.ends - self.now()) * 1e6))


class _Tensor(NamedTuple):
    datatype: str
    shape: tuple[int, ...]
    data: bytes


async def run_ensemble(
    ensemble: Ensemble, request: gp.ModelInferRequest, call: Call, once: Once, course: Course
) -> gp.ModelInferResponse:
    """What an ensemble gives for a request.

    Args:
        ensemble: It.
        request: Its inputs are given raw.
        call: Who asks must be allowed to run each model of it.
        once: Runs one of them.
        course: What the request may become.

    Raises:
        InferdError: The request is refused, or a step is, or fails: the words name the ensemble.
    """
    call.admission.check_models(ensemble.models)
    tensors = _given(ensemble, request)
    wanted = [each.name for each in request.outputs] or list(ensemble.outputs)
    if unknown := [name for name in wanted if name not in ensemble.outputs]:
        raise InvalidFieldError(
            f"unexpected inference output '{unknown[0][:80]}' for model '{request.model_name}'", field="outputs"
        )
    for place, stage in enumerate(ensemble.stages):
        later = {name for rest in ensemble.stages[place + 1 :] for step in rest for name in step.inputs.values()}
        needed = later | set(wanted)
        with course.hold(_size(tensors)):
            given = await _stage(stage, tensors, request, call, once, course)
        for made in given:
            tensors.update((name, tensor) for name, tensor in made.items() if name in needed)
        tensors = {name: tensor for name, tensor in tensors.items() if name in needed}
        if (size := _size(tensors)) > course.limit_bytes:
            raise LimitExceededError(
                f"the tensors between the steps of ensemble '{request.model_name}' have {size} bytes and"
                f" limits.output_bytes is {course.limit_bytes}",
                metadata={"bound": "limits.output_bytes", "value": str(size), "limit": str(course.limit_bytes)},
            )
    response = gp.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    for name in wanted:
        if (tensor := tensors.get(name)) is None:
            raise InvalidFieldError(f"in ensemble '{request.model_name}', no step gave the output '{name[:80]}'")
        response.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.data)
    return response


def _size(tensors: Mapping[str, _Tensor]) -> int:
    return sum(len(tensor.data) for tensor in tensors.values())


def _given(ensemble: Ensemble, request: gp.ModelInferRequest) -> dict[str, _Tensor]:
    """The inputs of a request, by name."""
    raws, model = request.raw_input_contents, request.model_name
    if len(raws) != len(request.inputs):
        raise InvalidFieldError(
            f"expected {len(request.inputs)} raw_input_contents for ensemble '{model}', one for each of inputs, but got"
            f" {len(raws)}",
            field="raw_input_contents",
        )
    found = {
        each.name: _Tensor(each.datatype, tuple(each.shape), data)
        for each, data in zip(request.inputs, raws, strict=True)
    }
    for name in found:
        if name not in ensemble.inputs:
            raise InvalidFieldError(f"unexpected inference input '{name[:80]}' for model '{model}'", field="inputs")
    missing = [name for name in ensemble.inputs if name not in found]
    if missing or len(found) != len(request.inputs):
        given = [each.name for each in request.inputs]
        words = missing_words(model, given, ensemble.inputs, most=len(ensemble.inputs))
        raise InvalidFieldError(words, field="inputs")
    return found


async def _stage(  # noqa: PLR0917 - of one request
    stage: tuple[Step, ...],
    tensors: Mapping[str, _Tensor],
    request: gp.ModelInferRequest,
    call: Call,
    once: Once,
    course: Course,
) -> list[dict[str, _Tensor]]:
    """What the steps of a stage give, some at once; the first that fails ends the others."""
    slots = asyncio.Semaphore(STEPS_AT_ONCE)

    async def run(step: Step) -> dict[str, _Tensor]:
        async with slots:
            course.take_step(request.model_name)
            return await _step(step, tensors, request, call, once, course)

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(run(step)) for step in stage]
    except BaseExceptionGroup as failed:
        raise next(
            (each for each in failed.exceptions if isinstance(each, InferdError)), failed.exceptions[0]
        ) from None
    return [each.result() for each in running]


async def _step(  # noqa: PLR0917 - as `_stage`
    step: Step,
    tensors: Mapping[str, _Tensor],
    request: gp.ModelInferRequest,
    call: Call,
    once: Once,
    course: Course,
) -> dict[str, _Tensor]:
    asked = gp.ModelInferRequest(model_name=step.model, model_version=step.version, id=request.id)
    for name in PASSED_ON:
        if name in request.parameters:
            asked.parameters[name].CopyFrom(request.parameters[name])
    course.write_timeout(asked)
    for name, tensor_name in sorted(step.inputs.items()):
        tensor = tensors[tensor_name]
        asked.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        asked.raw_input_contents.append(tensor.data)
    for name in step.outputs:
        asked.outputs.add(name=name)
    try:
        got = await once(asked, call)
    except InferdError as error:
        error.message = f"in ensemble '{request.model_name}', {error.message}"
        error.args = (error.message,)
        raise
    return {
        step.outputs[each.name]: _Tensor(each.datatype, tuple(each.shape), data)
        for each, data in zip(got.outputs, got.raw_output_contents, strict=True)
        if each.name in step.outputs
    }
