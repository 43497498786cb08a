"""Runs of models that were asked for in the words of the Open Inference Protocol."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from inferd.core import task_events as te
from inferd.errors import (
    InferdError,
    InvalidFieldError,
    ModelNotFoundError,
    SequenceNotFoundError,
    UnsupportedInputError,
)
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.models import Models
from inferd.runtime.front.regions import Regions
from inferd.runtime.front.tasks import Tasks
from inferd.runtime.stream import TaskStream
from inferd.services.calls import Call
from inferd.services.extents import Extents
from inferd.services.inference.datatypes import NotOfferedError
from inferd.services.inference.refusals import not_started, refused, reworded, unknown
from inferd.services.inference.repositories import Numbering, obey
from inferd.services.inference.requests import is_text, read_request
from inferd.services.inference.responses import write_outputs
from inferd.services.inference.shared_tensors import Place, Reach
from inferd.services.inference.telling import Telling
from inferd.services.run_requests import read_run
from inferd.services.task_values import request_bytes
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.v1 import tensor_pb2 as pb

FINAL: Final = "triton_final_response"


@dataclass(frozen=True, slots=True)
class Run:
    """A task that was made.

    Attributes:
        request: What was asked for, without its elements, which stay with the core.
        stream: Its events.
        held: Ends it, if it has not ended; closed by who follows it.
        empty_final: See `Asked`, as `places`.
        number: What a version of the model is called.
        telling: The output of a language model that was not told yet; None for one of tensors.
    """

    request: gp.ModelInferRequest
    stream: TaskStream
    held: AsyncExitStack
    empty_final: bool
    number: Callable[[int], str]
    places: Mapping[str, Place] = field(default_factory=dict)
    telling: Telling | None = None

    def response(self, version: int = 0) -> gp.ModelInferResponse:
        """A response to it, without outputs."""
        shown = self.number(version) if version else self.request.model_version
        return gp.ModelInferResponse(model_name=self.request.model_name, model_version=shown, id=self.request.id)


class Runs:
    """Makes tasks of requests.

    Args:
        tasks: Runs them.
        models: What they run.
        extents: Bounds what they are given.
        numbering: What versions are called.
        regions: Memory that clients share.
        most_strings: `limits.tensor_strings`.
        most_shared_bytes: `limits.task_input_bytes`.
        prompt_limit_bytes: Largest prompt.
    """

    def __init__(
        self,
        tasks: Tasks,
        models: Models,
        extents: Extents,
        numbering: Numbering,
        regions: Regions,
        *,
        most_strings: int,
        most_shared_bytes: int,
        prompt_limit_bytes: int,
    ) -> None:
        self._tasks = tasks
        self._models = models
        self._extents = extents
        self._numbering = numbering
        self._regions = regions
        self._most_strings = most_strings
        self._most_shared_bytes = most_shared_bytes
        self._prompt_limit_bytes = prompt_limit_bytes

    def reach(self, call: Call) -> Reach:
        """What a call may use of shared memory."""
        return Reach(self._regions, call, self._tasks, most_bytes=self._most_shared_bytes)

    async def begin(self, request: gp.ModelInferRequest, call: Call) -> Run:
        """Make the task of a request.

        Raises:
            InferdError: It is refused.
        """
        if not request.model_name:
            raise InvalidFieldError("model_name is empty; name the model", field="model_name")
        name = await self.find(request.model_name, request.model_version, call)
        if self._numbering.ensemble(name) is not None:
            raise NotOfferedError(f"model '{name}' is an ensemble, which is run step by step")
        reads_text = is_text(request) and await self._reads_text(name, request.model_name, call.caller)
        asked = await read_request(
            request, most_strings=self._most_strings, reach=self.reach(call), reads_text=reads_text
        )
        held, terms = AsyncExitStack(), self._numbering.terms(request.model_name)
        try:
            number: Callable[[int], str] = str
            if terms is not None:
                obey(terms, asked.run, request.parameters)
                asked.run.spec.model = name
                number = partial(self._numbering.number, await self._models.get(name))
            self._extents.check(asked.run)
            spec = read_run(asked.run, call.caller, prompt_limit_bytes=self._prompt_limit_bytes, named=asked.named)
            if asked.timeout_s is not None:
                ends = self._tasks.clock.now() + asked.timeout_s
                spec = replace(spec, deadline=ends if spec.deadline is None else min(ends, spec.deadline))
            running = self._tasks.run(spec, size_bytes=request_bytes(asked.run.spec, spec))
            del spec
            stream = await held.enter_async_context(running)
        except ModelNotFoundError as error:
            raise unknown(error, request.model_name) from None
        except InferdError as error:
            raise reworded(error, said=asked.said) from None
        telling = None if asked.wish is None else Telling(asked.wish)
        return Run(_without_elements(request), stream, held, asked.empty_final, number, asked.places, telling)

    async def _reads_text(self, name: str, asked: str, caller: Caller) -> bool:
        """Whether a model, which clients call as they `asked` for it, is a language model; loads it if need be."""
        try:
            await self._models.signature(name, caller)
        except ModelNotFoundError as error:
            raise unknown(error, asked) from None
        except UnsupportedInputError:
            return True
        return False

    async def find(self, name: str, version: str, call: Call) -> str:
        """The model of the kernel that a model and a version mean, which a call may name.

        Raises:
            ModelNotFoundError: See `check_version`.
            PermissionDeniedError: The rules deny the version.
        """
        version = newest(version)
        found = await self.check_version(name, version)
        call.admission.check_names((each, name) for each in self._numbering.names(name, version, found))
        return found

    async def check_version(self, name: str, version: str) -> str:
        """The model of the kernel that a model and a version mean; "" is the version that serves.

        Raises:
            ModelNotFoundError: It does not serve, or there is no such model.
        """
        version = newest(version)
        if (found := self._numbering.model_of(name, version)) is not None:
            return found
        if not version:
            return name
        try:
            serving = (await self._models.get(name)).serving.number
        except ModelNotFoundError as error:
            raise unknown(error, name) from None
        if version != str(serving):
            raise ModelNotFoundError(
                f"Request for unknown model: '{name}' version {version[:20]} is not found; version {serving} serves:"
                " ask for that, or for none",
                field="model_version",
            )
        return name

    async def explained(self, error: InferdError, request: gp.ModelInferRequest, caller: Caller) -> InferdError:
        """Why a task failed, in the words that clients look for."""
        if isinstance(error, SequenceNotFoundError):
            return not_started(error, request.model_name)
        if not isinstance(error, InvalidFieldError):
            return reworded(error)
        try:
            name = await self.check_version(request.model_name, request.model_version)
            written = await self._models.signature(name, caller)
        except InferdError:
            return reworded(error)
        terms = self._numbering.terms(request.model_name)
        hidden = frozenset(each.name for each in terms.controls) if terms is not None else frozenset[str]()
        return refused(error, request, pb.ModelSignature.FromString(written), hidden=hidden)


def newest(version: str) -> str:
    """A version as a request names it, "" for the one that serves: some clients say -1 for that, as ensembles do."""
    return "" if version == "-1" else version


def version_told(event: te.TaskEvent, version: int) -> int:
    """The version that computes a task, as an event tells it; else the one that was told before."""
    return event.version if isinstance(event, te.Started | te.Resumed) else version


def written(run: Run, output: te.TensorOutput, version: int, *, limit_bytes: int) -> gp.ModelInferResponse:
    """The response that tells a set of outputs; see `write_outputs` for what is refused."""
    response = run.response(version)
    write_outputs(output, response, limit_bytes=limit_bytes, places=run.places)
    return response


def _without_elements(request: gp.ModelInferRequest) -> gp.ModelInferRequest:
    kept = gp.ModelInferRequest(
        model_name=request.model_name, model_version=request.model_version, id=request.id, outputs=request.outputs
    )
    for each in request.inputs:
        kept.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
    return kept
