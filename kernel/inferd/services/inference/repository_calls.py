"""The calls by which models of a repository are listed, loaded and unloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from inferd.errors import InferdError, InvalidFieldError, ModelLoadError, ModelNotFoundError
from inferd.runtime.repository_book import UNLOADED, Listed
from inferd.runtime.repository_loads import Override
from inferd.services.inference.datatypes import NotOfferedError
from inferd.services.inference.refusals import unknown
from inferd.services.inference.repositories import entry
from inferd.services.status import status_of
from inferd_api.inference import grpc_service_pb2 as gp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from inferd.core.model import Model
    from inferd.runtime.front.models import Models
    from inferd.runtime.front.repository import ModelRepository
    from inferd.services.calls import Call

CONFIG: Final = "config"
FILE: Final = "file:"
DEPENDENTS: Final = "unload_dependents"
KINDS: Final = {"bool_param": "BOOL", "int64_param": "INT", "string_param": "STRING", "bytes_param": "BYTES"}


class UnservedError(ModelLoadError):
    """Why a model of a repository is not served: it may have paths in it."""

    outside = "it cannot be served"


class RepositoryCalls:
    """Lists, loads and unloads models: those of the repository, where the kernel has one, and all others.

    Args:
        repository: Of the kernel; None where it has none.
        models: All others.
        each: All models that a caller may read.
    """

    def __init__(
        self, repository: ModelRepository | None, models: Models, each: Callable[[Call], AsyncIterator[Model]]
    ) -> None:
        self._repository = repository
        self._models = models
        self._each = each

    async def index(self, request: gp.RepositoryIndexRequest, call: Call) -> gp.RepositoryIndexResponse:
        """List models by name: those that the caller may read."""
        listed, own = ([], set[str]()) if self._repository is None else await self._repository.index()
        entries = [
            unserved(each) if each.model is None else entry(each.model, each.name, each.version)
            for each in listed
            if call.admission.sees(each.name)
        ]
        entries += [
            entry(model, model.spec.name, str(model.serving.number))
            async for model in self._each(call)
            if model.spec.name not in own
        ]
        ready = [each for each in entries if each.state == "READY"] if request.ready else entries
        return gp.RepositoryIndexResponse(models=sorted(ready, key=lambda each: each.name))

    async def load(self, request: gp.RepositoryModelLoadRequest, call: Call) -> gp.RepositoryModelLoadResponse:
        """Load a model and wait for it."""
        if self._repository is None:
            self._refuse_override(request.parameters)
        elif request.parameters or self._repository.knows(request.model_name):
            await self._load_own(self._repository, request, call)
            return gp.RepositoryModelLoadResponse()
        try:
            await self._models.load(request.model_name, call.caller)
        except ModelNotFoundError as error:
            if self._repository is None:
                raise unknown(error, request.model_name) from None
            await self._load_own(self._repository, request, call)
        return gp.RepositoryModelLoadResponse()

    async def _load_own(self, repository: ModelRepository, request: gp.RepositoryModelLoadRequest, call: Call) -> None:
        override = read_override(request.parameters)
        await repository.load(request.model_name, override, call.caller, call.admission.check_models)

    def _refuse_override(self, parameters: Mapping[str, gp.ModelRepositoryParameter]) -> None:
        for name in parameters:
            raise NotOfferedError(
                f"parameters has {name[:80]!r}: this kernel has no repository (--model-repository), and a load of its"
                " models takes no other configuration and no files; have the model changed with"
                " inferd.v1.ModelService.UpdateModel, then load it",
                field="parameters",
            )

    async def unload(self, request: gp.RepositoryModelUnloadRequest, call: Call) -> gp.RepositoryModelUnloadResponse:
        """Unload a model and wait for it."""
        for name in request.parameters:
            if name != DEPENDENTS:
                raise NotOfferedError(f"parameters has {name[:80]!r}; an unload takes none", field="parameters")
        if self._repository is not None and self._repository.knows(request.model_name):
            dependents = request.parameters[DEPENDENTS].bool_param if DEPENDENTS in request.parameters else False
            await self._repository.unload(request.model_name, call.admission.check_models, dependents=dependents)
            return gp.RepositoryModelUnloadResponse()
        try:
            await self._models.unload(request.model_name, force=False)
        except ModelNotFoundError as error:
            raise unknown(error, request.model_name) from None
        return gp.RepositoryModelUnloadResponse()


def unserved(listed: Listed) -> gp.RepositoryIndexResponse.ModelIndex:
    """What no model of the kernel is, as an index has it: an ensemble, or what is not served."""
    reason = listed.why
    if reason and reason != UNLOADED:
        reason = status_of(UnservedError(reason), listed.name).message
    state = "READY" if listed.ready else "UNAVAILABLE"
    return gp.RepositoryIndexResponse.ModelIndex(name=listed.name, version=listed.version, state=state, reason=reason)


def read_override(parameters: Mapping[str, gp.ModelRepositoryParameter]) -> Override:
    """What a load gives in place of what is in the repository.

    Raises:
        InvalidFieldError: It is of a wrong type, or is nothing that a load takes.
    """
    config, files = "", dict[str, bytes]()
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice") or ""
        if name == CONFIG:
            if kind != "string_param":
                raise _wrong("Config parameter 'config' must have string type for its value")
            if not (config := value.string_param):
                raise _wrong("Invalid config override: it is empty")
        elif name.startswith(FILE):
            if kind != "bytes_param":
                raise _wrong(f"File parameter '{name[:200]}' must have bytes type for its value")
            files[name.removeprefix(FILE)] = value.bytes_param
        else:
            raise _wrong(f"Unrecognized load parameter '{name[:80]}' with type '{KINDS.get(kind, 'NONE')}'")
    if files and not config:
        raise _wrong("Load parameter 'config' must be specified for model file override")
    return Override(config, files)


def _wrong(message: str) -> InferdError:
    return InvalidFieldError(message, field="parameters")
