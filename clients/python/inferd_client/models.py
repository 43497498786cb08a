"""Models: make known, read, list, load, unload and watch. `Models` and `AsyncModels` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.model_service_pb2 import (
    CreateModelRequest,
    GetModelRequest,
    ListModelsRequest,
    LoadModelRequest,
    UnloadModelRequest,
    UnloadModelResponse,
    WatchModelRequest,
)
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.resources_pb2 import Model
from inferd_client.channel import AsyncConnection, Connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub


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
        settings: Mapping[str, str] | None = None,
    ) -> Model:
        """Make the file at `source` (an absolute path or `file:///…`) known as `name`; the same again returns it.

        Without `backend` and `device` the kernel chooses and says why in `backend_reason`.

        Raises:
            InferdError: InvalidFieldError, ModelExistsError, BackendNotFoundError, BackendUnavailableError.
        """
        model = Model(name=name, source=source, backend=backend, device=device, settings=settings)
        return self._call(self._models.CreateModel, CreateModelRequest(model=model)).model

    def get_model(self, name: str) -> Model:
        """Read a model. Raises ModelNotFoundError."""
        return self._call(self._models.GetModel, GetModelRequest(name=name)).model

    def list_models(self) -> Generator[Model]:
        """All models by name."""
        for page in self._pages(self._models.ListModels, ListModelsRequest()):
            yield from page.models

    def load_model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """Load a model; returns when it is READY.

        Raises:
            InferdError: ModelNotFoundError, ModelLoadError, ModelBusyError, WorkerDiedError.
        """
        return self._wait(self._models.LoadModel, LoadModelRequest(name=name), timeout_s).model

    def unload_model(self, name: str, *, force: bool = False, timeout_s: float | None = None) -> UnloadModelResponse:
        """Stop a model's instances; returns when their memory is given back, with how much that was.

        Raises:
            InferdError: ModelNotFoundError; ModelBusyError when tasks wait or run and `force` is false.
        """
        return self._wait(self._models.UnloadModel, UnloadModelRequest(name=name, force=force), timeout_s)

    def watch_model(self, name: str) -> Generator[Model]:
        """A model as it is, then after each change, until the generator is closed. Raises ModelNotFoundError."""
        for response in self._stream(self._models.WatchModel, WatchModelRequest(name=name)):
            yield response.model


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
        settings: Mapping[str, str] | None = None,
    ) -> Model:
        """Make the file at `source` (an absolute path or `file:///…`) known as `name`; the same again returns it.

        Without `backend` and `device` the kernel chooses and says why in `backend_reason`.

        Raises:
            InferdError: InvalidFieldError, ModelExistsError, BackendNotFoundError, BackendUnavailableError.
        """
        model = Model(name=name, source=source, backend=backend, device=device, settings=settings)
        return (await self._call(self._models.CreateModel, CreateModelRequest(model=model))).model

    async def get_model(self, name: str) -> Model:
        """Read a model. Raises ModelNotFoundError."""
        return (await self._call(self._models.GetModel, GetModelRequest(name=name))).model

    async def list_models(self) -> AsyncGenerator[Model]:
        """All models by name."""
        async for page in self._pages(self._models.ListModels, ListModelsRequest()):
            for model in page.models:
                yield model

    async def load_model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """Load a model; returns when it is READY.

        Raises:
            InferdError: ModelNotFoundError, ModelLoadError, ModelBusyError, WorkerDiedError.
        """
        return (await self._wait(self._models.LoadModel, LoadModelRequest(name=name), timeout_s)).model

    async def unload_model(
        self, name: str, *, force: bool = False, timeout_s: float | None = None
    ) -> UnloadModelResponse:
        """Stop a model's instances; returns when their memory is given back, with how much that was.

        Raises:
            InferdError: ModelNotFoundError; ModelBusyError when tasks wait or run and `force` is false.
        """
        return await self._wait(self._models.UnloadModel, UnloadModelRequest(name=name, force=force), timeout_s)

    async def watch_model(self, name: str) -> AsyncGenerator[Model]:
        """A model as it is, then after each change, until the generator is closed. Raises ModelNotFoundError."""
        responses = self._stream(self._models.WatchModel, WatchModelRequest(name=name))
        try:
            async for response in responses:
                yield response.model
        finally:
            await responses.aclose()
