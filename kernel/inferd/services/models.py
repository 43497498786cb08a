"""`inferd.v1.ModelService`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from inferd.core.ids import InstanceId, ModelName
from inferd.core.model import Model, ModelState
from inferd.errors import InvalidFieldError
from inferd.runtime.driver import Driver
from inferd.runtime.plugins import Plugins
from inferd.runtime.shelf import Shelf
from inferd.services.bounds import Bound
from inferd.services.calls import lease_of, tenant_of
from inferd.services.model_values import read_bounds, write_model, write_plan
from inferd.services.pages import name_of, size_of, token_of
from inferd.services.sampling_values import read_sampling_defaults
from inferd.services.token_values import read_text, read_token_ids
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import model_service_pb2_grpc

NAME_FORM = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
MOST_SETTING = 4096  # characters of a setting, its name, or a source

Context = grpc.aio.ServicerContext[Any, Any]


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Translates; see the proto for what each call means."""

    def __init__(
        self, driver: Driver, plugins: Plugins, shelf: Shelf, *, watchers_limit: int, prompt_limit_bytes: int
    ) -> None:
        self._driver = driver
        self._plugins = plugins
        self._shelf = shelf
        self._watchers = Bound("limits.model_watchers", watchers_limit, "streams that watch models")
        self._prompt_limit_bytes = prompt_limit_bytes

    async def CreateModel(self, request: ms.CreateModelRequest, context: Context) -> ms.CreateModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Make a model known."""
        wanted = request.model
        if not NAME_FORM.fullmatch(wanted.name):
            raise InvalidFieldError(
                f"model.name is {wanted.name[:140]!r}; it must be 1 to 128 of letters, digits, '.', '_', '-', ':', '/'",
                field="model.name",
            )
        if not wanted.source:
            raise InvalidFieldError("model.source is empty; give the path of the model's file", field="model.source")
        if len(wanted.source) > MOST_SETTING:
            message = f"model.source has {len(wanted.source)} characters; at most {MOST_SETTING}"
            raise InvalidFieldError(message, field="model.source")
        _check_settings(wanted.settings, "model.settings")
        if wanted.adapters:
            raise InvalidFieldError(
                f"model.adapters names {len(wanted.adapters)} adapters and no backend offers any; leave them out",
                field="model.adapters",
            )
        fewest, most = read_bounds(wanted)
        spec = await self._plugins.place(
            name=wanted.name,
            source=wanted.source,
            backend=wanted.backend,
            device=wanted.device,
            settings=dict(wanted.settings),
            min_instances=fewest,
            max_instances=most,
            sampling=read_sampling_defaults(wanted.sampling_defaults),
        )
        model = self._driver.create_model(spec)
        with self._driver.watchers.models.watch(model.spec.name) as changed:
            while model.state is ModelState.UNLOADING:  # its file has changed: what was loaded of it goes first
                await changed.wait(changed.version)
        return ms.CreateModelResponse(model=write_model(model, self._driver))

    async def GetModel(self, request: ms.GetModelRequest, context: Context) -> ms.GetModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Read a model."""
        model = await self._find(request.name)
        return ms.GetModelResponse(model=write_model(model, self._driver))

    async def ListModels(self, request: ms.ListModelsRequest, context: Context) -> ms.ListModelsResponse:  # noqa: ARG002, N802 - the wire's name
        """List models by name."""
        await self._shelf.read()
        page = self._driver.views.models(after=name_of(request.page_token), size=size_of(request.page_size))
        return ms.ListModelsResponse(
            models=[write_model(model, self._driver) for model in page.records],
            next_page_token=token_of(page, lambda model: model.spec.name),
        )

    async def LoadModel(self, request: ms.LoadModelRequest, context: Context) -> ms.LoadModelResponse:  # noqa: N802 - the wire's name
        """Load a model and wait for it; under a lease, one instance more."""
        await self._shelf.look_for(request.name)
        model = await self._driver.load_model(
            ModelName(request.name), tenant=tenant_of(context), lease_id=lease_of(context)
        )
        return ms.LoadModelResponse(model=write_model(model, self._driver))

    async def PlanLoad(self, request: ms.PlanLoadRequest, context: Context) -> ms.PlanLoadResponse:  # noqa: ARG002, N802 - the wire's name
        """What a load would take; what is given in place of the model's own is checked as of a new model."""
        spec = (await self._find(request.name)).spec
        _check_settings(request.settings, "settings")
        if request.settings or request.backend or request.device:
            other = request.backend not in ("", spec.backend)
            elsewhere = request.device not in ("", *spec.devices)
            spec = await self._plugins.place(
                name=spec.name,
                source=spec.source,
                backend=request.backend or ("" if elsewhere else spec.backend),
                device=request.device or ("" if other else spec.device),
                settings={**({} if other else spec.settings), **request.settings},
                sampling=spec.sampling,
            )
        return ms.PlanLoadResponse(plan=write_plan(await self._driver.plan_load(spec)))

    async def UnloadModel(self, request: ms.UnloadModelRequest, context: Context) -> ms.UnloadModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Unload a model and wait for it."""
        name = ModelName(request.name)
        instance_id = InstanceId(request.instance_id) if request.instance_id else None
        returned_bytes = await self._driver.unload_model(name, force=request.force, instance_id=instance_id)
        model = self._driver.views.model(name)
        return ms.UnloadModelResponse(model=write_model(model, self._driver), returned_bytes=returned_bytes)

    async def DeleteModel(self, request: ms.DeleteModelRequest, context: Context) -> ms.DeleteModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Forget a model."""
        self._driver.delete_model(ModelName(request.name))
        return ms.DeleteModelResponse()

    async def Tokenize(self, request: ms.TokenizeRequest, context: Context) -> ms.TokenizeResponse:  # noqa: N802 - the wire's name
        """Turn a text or a conversation into tokens."""
        return ms.TokenizeResponse(token_ids=await self._tokenize(request, context))

    async def CountTokens(self, request: ms.CountTokensRequest, context: Context) -> ms.CountTokensResponse:  # noqa: N802 - the wire's name
        """Count the tokens of a text or a conversation."""
        return ms.CountTokensResponse(tokens=len(await self._tokenize(request, context)))

    async def Detokenize(self, request: ms.DetokenizeRequest, context: Context) -> ms.DetokenizeResponse:  # noqa: N802 - the wire's name
        """Turn tokens into text."""
        given = read_token_ids(request, self._prompt_limit_bytes)
        await self._shelf.look_for(request.model)
        name, tenant = ModelName(request.model), tenant_of(context)
        answer = await self._driver.query(name, given, tenant=tenant, lease_id=lease_of(context))
        return ms.DetokenizeResponse(text=answer.text)

    async def _tokenize(self, request: ms.TokenizeRequest | ms.CountTokensRequest, context: Context) -> Sequence[int]:
        given = read_text(request, self._prompt_limit_bytes)
        await self._shelf.look_for(request.model)
        try:
            name, tenant, lease_id = ModelName(request.model), tenant_of(context), lease_of(context)
            return (await self._driver.query(name, given, tenant=tenant, lease_id=lease_id)).token_ids
        except InvalidFieldError as error:  # a worker knows the input as a task's
            field = error.field.removeprefix("spec.")
            raise InvalidFieldError(error.message, metadata=error.metadata, field=field) from None

    async def WatchModel(self, request: ms.WatchModelRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Watch a model; what changes while a message is under way is merged into the next one."""
        name = (await self._find(request.name)).spec.name
        with self._watchers.place(), self._driver.watchers.models.watch(name) as changed:
            told = None
            while True:
                self._driver.check_open()
                model = self._driver.views.model(name)  # it may have been deleted
                seen = changed.version
                message = write_model(model, self._driver)
                if message != told:  # of some changes nothing is shown
                    await context.write(ms.WatchModelResponse(model=message))
                    told = message
                await changed.wait(seen)

    async def _find(self, name: str) -> Model:
        await self._shelf.look_for(name)
        return self._driver.views.model(ModelName(name))


def _check_settings(settings: Mapping[str, str], field: str) -> None:
    for key, value in settings.items():
        if len(key) > MOST_SETTING or len(value) > MOST_SETTING:
            message = (
                f"setting {key[:80]!r} has {len(key)} and {len(value)} characters; either has at most {MOST_SETTING}"
            )
            raise InvalidFieldError(message, field=field)
