"""Invitations of other hosts. `Invites` and `AsyncInvites` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.invite_service_pb2 import CreateInviteRequest, CreateInviteResponse
from inferd_api.v1.invite_service_pb2_grpc import InviteServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import span
from inferd_client.options import strict

if TYPE_CHECKING:
    from inferd_api.v1.invite_service_pb2_grpc import InviteServiceAsyncStub


@strict
class Invites(Connection):
    """Invitations of a synchronous client."""

    @cached_property
    def _invites(self) -> InviteServiceStub:
        return InviteServiceStub(self._channel)

    def create_invite(
        self, host: str = "", *, uses: int | None = None, ttl_s: float | None = None
    ) -> CreateInviteResponse:
        """Make an invitation, for `uses` hosts (default 1) or one of a certain name; it ends after `ttl_s`, an hour.

        Its credential is in the answer, and nowhere else.
        """
        return self._call(self._invites.CreateInvite, CreateInviteRequest(host=host, uses=uses, ttl=span(ttl_s)))


@strict
class AsyncInvites(AsyncConnection):
    """Invitations of an asynchronous client."""

    @cached_property
    def _invites(self) -> InviteServiceAsyncStub:
        return InviteServiceStub(self._channel)

    async def create_invite(
        self, host: str = "", *, uses: int | None = None, ttl_s: float | None = None
    ) -> CreateInviteResponse:
        """As `Invites.create_invite`."""
        return await self._call(self._invites.CreateInvite, CreateInviteRequest(host=host, uses=uses, ttl=span(ttl_s)))
