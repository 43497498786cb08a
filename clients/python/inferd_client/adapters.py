"""Adapters (LoRA) of models. `Adapters` and `AsyncAdapters` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.adapter_service_pb2 import (
    Adapter,
    ListAdaptersRequest,
    LoadAdapterRequest,
    UnloadAdapterRequest,
)
from inferd_api.v1.adapter_service_pb2_grpc import AdapterServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from inferd_api.v1.adapter_service_pb2_grpc import AdapterServiceAsyncStub


@strict
class Adapters(Connection):
    """Adapters of a synchronous client."""

    @cached_property
    def _adapters(self) -> AdapterServiceStub:
        return AdapterServiceStub(self._channel)

    def load_adapter(
        self,
        model: str,
        name: str,
        path: str,
        *,
        digest: str = "",
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> Adapter:
        """Make the adapter at `path`, a GGUF file or a folder of the peft package, one of a model: `adapter=NAME`.

        Returns when all loaded instances of the model hold it. With a `digest` its files must hold that; with `replace`
        it takes the place of another one of its name.

        Raises:
            InferdError: ModelNotFoundError, ModelExistsError, AdapterLoadError, InvalidFieldError, LimitExceededError.
        """
        request = LoadAdapterRequest(model=model, name=name, path=path, digest=digest, replace=replace)
        return self._wait(self._adapters.LoadAdapter, request, timeout_s).adapter

    def unload_adapter(self, model: str, name: str) -> None:
        """Take an adapter from a model; tasks that run with it end with it. Raises AdapterNotFoundError."""
        self._call(self._adapters.UnloadAdapter, UnloadAdapterRequest(model=model, name=name))

    def list_adapters(self, model: str) -> list[Adapter]:
        """The adapters of a model by name."""
        return list(self._call(self._adapters.ListAdapters, ListAdaptersRequest(model=model)).adapters)


@strict
class AsyncAdapters(AsyncConnection):
    """Adapters of an asynchronous client."""

    @cached_property
    def _adapters(self) -> AdapterServiceAsyncStub:
        return AdapterServiceStub(self._channel)

    async def load_adapter(
        self,
        model: str,
        name: str,
        path: str,
        *,
        digest: str = "",
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> Adapter:
        """As `Adapters.load_adapter`."""
        request = LoadAdapterRequest(model=model, name=name, path=path, digest=digest, replace=replace)
        return (await self._wait(self._adapters.LoadAdapter, request, timeout_s)).adapter

    async def unload_adapter(self, model: str, name: str) -> None:
        """As `Adapters.unload_adapter`."""
        await self._call(self._adapters.UnloadAdapter, UnloadAdapterRequest(model=model, name=name))

    async def list_adapters(self, model: str) -> list[Adapter]:
        """As `Adapters.list_adapters`."""
        return list((await self._call(self._adapters.ListAdapters, ListAdaptersRequest(model=model))).adapters)
