"""Federations: weights that clients train together. `Federations` and `AsyncFederations` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, TypeAlias

from inferd_api.v1.federation_service_pb2 import (
    CancelFederationRequest,
    ClientKeys,
    CreateFederationRequest,
    DeleteFederationRequest,
    FederationClient,
    GetFederationRequest,
    GetFederationWeightsRequest,
    JoinFederationRequest,
    ListFederationsRequest,
    PollRoundRequest,
    RoundComplaint,
    RoundOpenings,
    RoundPlace,
    RoundUpdate,
    SealedShares,
    SubmitRoundPartRequest,
    WatchFederationRequest,
)
from inferd_api.v1.federation_service_pb2_grpc import FederationServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import span
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.federation_pb2 import Federation, FederationPlan
    from inferd_api.v1.federation_service_pb2 import (
        GetFederationWeightsResponse,
        JoinFederationResponse,
        PollRoundResponse,
    )
    from inferd_api.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

RoundPart: TypeAlias = ClientKeys | SealedShares | RoundUpdate | RoundOpenings | RoundComplaint
"""What a client gives to a round."""


def part_request(client: FederationClient, place: RoundPlace, part: RoundPart) -> SubmitRoundPartRequest:
    """The request that gives a part."""
    request = SubmitRoundPartRequest(client=client, place=place)
    match part:
        case ClientKeys():
            request.keys.CopyFrom(part)
            request.keys.SetInParent()
        case SealedShares():
            request.shares.CopyFrom(part)
        case RoundUpdate():
            request.update.CopyFrom(part)
        case RoundComplaint():
            request.complaint.CopyFrom(part)
        case _:
            request.openings.CopyFrom(part)
    return request


@strict
class Federations(Connection):
    """The federations of a synchronous client."""

    @cached_property
    def _federations(self) -> FederationServiceStub:
        return FederationServiceStub(self._channel)

    def create_federation(self, plan: FederationPlan, *, weights: bytes = b"", request_id: str = "") -> Federation:
        """Make a federation; its rounds begin when enough clients have joined, and go on without this client.

        Args:
            plan: What it is to do; its comments in the proto say what may be left out.
            weights: To begin with, float32, little-endian; default: zeros.
            request_id: Makes the call idempotent; default: a new one for each call.

        Raises:
            InferdError: InvalidFieldError, which names the field; LimitExceededError.
        """
        request = CreateFederationRequest(plan=plan, weights=weights, request_id=request_id or token_hex(16))
        return (self._call(self._federations.CreateFederation, request)).federation

    def get_federation(self, federation_id: str) -> Federation:
        """A federation as it stands. Raises FederationNotFoundError."""
        request = GetFederationRequest(federation_id=federation_id)
        return (self._call(self._federations.GetFederation, request)).federation

    def list_federations(self) -> Generator[Federation]:
        """All federations of the tenant, newest first, without what came of their rounds."""
        for page in self._pages(self._federations.ListFederations, ListFederationsRequest()):
            yield from page.federations

    def watch_federation(self, federation_id: str) -> Generator[Federation]:
        """A federation as it stands, then as it changes, until it has ended; leaving it changes nothing."""
        request = WatchFederationRequest(federation_id=federation_id)
        for told in self._stream(self._federations.WatchFederation, request):
            yield told.federation

    def federation_weights(self, federation_id: str) -> GetFederationWeightsResponse:
        """The weights as the last round left them, and the counts."""
        request = GetFederationWeightsRequest(federation_id=federation_id)
        return self._call(self._federations.GetFederationWeights, request)

    def cancel_federation(self, federation_id: str) -> Federation:
        """End a federation; one that has ended stays as it is."""
        request = CancelFederationRequest(federation_id=federation_id)
        return (self._call(self._federations.CancelFederation, request)).federation

    def delete_federation(self, federation_id: str) -> None:
        """Delete a federation that has ended, with its weights."""
        request = DeleteFederationRequest(federation_id=federation_id)
        self._call(self._federations.DeleteFederation, request)

    def join_federation(self, federation_id: str, *, name: str = "") -> JoinFederationResponse:
        """Become a client of a federation: a number, the token by which it is known, and the plan."""
        request = JoinFederationRequest(federation_id=federation_id, name=name)
        return self._call(self._federations.JoinFederation, request)

    def poll_round(
        self, client: FederationClient, *, seen: RoundPlace | None = None, wait_s: float = 30.0
    ) -> PollRoundResponse:
        """What a client is to do next.

        Args:
            client: Who it is.
            seen: What it has done or cannot do; it is not told again.
            wait_s: How long to wait for something to do, at most 60.

        Raises:
            InferdError: FederationClientUnknownError.
        """
        request = PollRoundRequest(client=client, seen=seen, wait=span(wait_s))
        return self._call(self._federations.PollRound, request)

    def submit_round_part(self, client: FederationClient, place: RoundPlace, part: RoundPart) -> None:
        """Give a round what it waits for. Raises FederationRoundOverError where it does not."""
        self._call(self._federations.SubmitRoundPart, part_request(client, place, part))


@strict
class AsyncFederations(AsyncConnection):
    """The federations of an asynchronous client."""

    @cached_property
    def _federations(self) -> FederationServiceAsyncStub:
        return FederationServiceStub(self._channel)

    async def create_federation(
        self, plan: FederationPlan, *, weights: bytes = b"", request_id: str = ""
    ) -> Federation:
        """As `Federations.create_federation`."""
        request = CreateFederationRequest(plan=plan, weights=weights, request_id=request_id or token_hex(16))
        return (await self._call(self._federations.CreateFederation, request)).federation

    async def get_federation(self, federation_id: str) -> Federation:
        """As `Federations.get_federation`."""
        request = GetFederationRequest(federation_id=federation_id)
        return (await self._call(self._federations.GetFederation, request)).federation

    async def list_federations(self) -> AsyncGenerator[Federation]:
        """As `Federations.list_federations`."""
        async for page in self._pages(self._federations.ListFederations, ListFederationsRequest()):
            for each in page.federations:
                yield each

    async def watch_federation(self, federation_id: str) -> AsyncGenerator[Federation]:
        """As `Federations.watch_federation`."""
        request = WatchFederationRequest(federation_id=federation_id)
        responses = self._stream(self._federations.WatchFederation, request)
        try:
            async for told in responses:
                yield told.federation
        finally:
            await responses.aclose()

    async def federation_weights(self, federation_id: str) -> GetFederationWeightsResponse:
        """As `Federations.federation_weights`."""
        request = GetFederationWeightsRequest(federation_id=federation_id)
        return await self._call(self._federations.GetFederationWeights, request)

    async def cancel_federation(self, federation_id: str) -> Federation:
        """As `Federations.cancel_federation`."""
        request = CancelFederationRequest(federation_id=federation_id)
        return (await self._call(self._federations.CancelFederation, request)).federation

    async def delete_federation(self, federation_id: str) -> None:
        """As `Federations.delete_federation`."""
        request = DeleteFederationRequest(federation_id=federation_id)
        await self._call(self._federations.DeleteFederation, request)

    async def join_federation(self, federation_id: str, *, name: str = "") -> JoinFederationResponse:
        """As `Federations.join_federation`."""
        request = JoinFederationRequest(federation_id=federation_id, name=name)
        return await self._call(self._federations.JoinFederation, request)

    async def poll_round(
        self, client: FederationClient, *, seen: RoundPlace | None = None, wait_s: float = 30.0
    ) -> PollRoundResponse:
        """As `Federations.poll_round`."""
        request = PollRoundRequest(client=client, seen=seen, wait=span(wait_s))
        return await self._call(self._federations.PollRound, request)

    async def submit_round_part(self, client: FederationClient, place: RoundPlace, part: RoundPart) -> None:
        """As `Federations.submit_round_part`."""
        await self._call(self._federations.SubmitRoundPart, part_request(client, place, part))
