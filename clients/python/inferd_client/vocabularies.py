"""What the tokens of a model are, each by itself. `Vocabularies` and `AsyncVocabularies` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.model_service_pb2 import DetokenizeRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd_api.v1.model_service_pb2 import ModelWriting
    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub


@strict
class Vocabularies(Connection):
    """The vocabularies of models, of a synchronous client."""

    @cached_property
    def _vocabularies(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def token_pieces(self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None) -> list[bytes]:
        """The bytes that each token adds to a text, none for a control token; loads the model if need be.

        They may be no whole characters. A kernel that is older than this answers with none at all. Raises as
        `detokenize`.
        """
        request = DetokenizeRequest(model=model, token_ids=token_ids, with_pieces=True)
        return list(self._wait(self._vocabularies.Detokenize, request, timeout_s).pieces)

    def model_writing(self, model: str, *, timeout_s: float | None = None) -> ModelWriting:
        """A language model's chat template and control tokens; loads it if need be. Raises as `detokenize`."""
        request = DetokenizeRequest(model=model, with_writing=True)
        return self._wait(self._vocabularies.Detokenize, request, timeout_s).writing


@strict
class AsyncVocabularies(AsyncConnection):
    """The same of an asynchronous client; each method is as its namesake in `Vocabularies`."""

    @cached_property
    def _vocabularies(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def token_pieces(
        self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None
    ) -> list[bytes]:
        """As `Vocabularies.token_pieces`."""
        request = DetokenizeRequest(model=model, token_ids=token_ids, with_pieces=True)
        return list((await self._wait(self._vocabularies.Detokenize, request, timeout_s)).pieces)

    async def model_writing(self, model: str, *, timeout_s: float | None = None) -> ModelWriting:
        """As `Vocabularies.model_writing`."""
        request = DetokenizeRequest(model=model, with_writing=True)
        return (await self._wait(self._vocabularies.Detokenize, request, timeout_s)).writing
