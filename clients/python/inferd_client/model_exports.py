"""Models with all their files. `ModelExports` and `AsyncModelExports` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.bundle_pb2 import ExportModelRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.bundle_pb2 import ExportModelResponse
    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub


@strict
class ModelExports(Connection):
    """Reads models, of a synchronous client."""

    @cached_property
    def _exports(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def export_model(self, name: str, *, had_pieces: bytes = b"") -> Generator[ExportModelResponse]:
        """A model, its files, and their bytes, but for the pieces that one has: SHA-256 of each, one behind another.

        Raises:
            InferdError: ModelNotFoundError, PermissionDeniedError, InvalidFieldError for a file that no model elsewhere
                could have, ModelBusyError when one changes meanwhile, BlobDamagedError, LimitExceededError.
        """
        yield from self._stream(self._exports.ExportModel, ExportModelRequest(name=name, had_pieces=had_pieces))


@strict
class AsyncModelExports(AsyncConnection):
    """Reads models; each method is as its namesake in `ModelExports`."""

    @cached_property
    def _exports(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def export_model(self, name: str, *, had_pieces: bytes = b"") -> AsyncGenerator[ExportModelResponse]:
        """A model, its files, and their bytes."""
        request = ExportModelRequest(name=name, had_pieces=had_pieces)
        async for response in self._stream(self._exports.ExportModel, request):
            yield response
