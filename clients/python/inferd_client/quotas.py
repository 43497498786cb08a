"""Quotas: how much tenants may use. `Quotas` and `AsyncQuotas` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.quota_service_pb2 import (
    CreateQuotaRequest,
    DeleteQuotaRequest,
    ListQuotasRequest,
    ListQuotaUsesRequest,
)
from inferd_api.v1.quota_service_pb2_grpc import QuotaServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.quota_pb2 import Quota, QuotaUse
    from inferd_api.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub


@strict
class Quotas(Connection):
    """Quotas of a synchronous client."""

    @cached_property
    def _quotas(self) -> QuotaServiceStub:
        return QuotaServiceStub(self._channel)

    def create_quota(self, quota: Quota) -> Quota:
        """Make a quota; it holds at once."""
        return self._call(self._quotas.CreateQuota, CreateQuotaRequest(quota=quota)).quota

    def list_quotas(self) -> Generator[Quota]:
        """The quotas about tenants of this client; those without an id are of the configuration."""
        for page in self._pages(self._quotas.ListQuotas, ListQuotasRequest()):
            yield from page.quotas

    def list_quota_uses(self) -> Generator[QuotaUse]:
        """What tenants of this client use of what quotas limit."""
        for page in self._pages(self._quotas.ListQuotaUses, ListQuotaUsesRequest()):
            yield from page.uses

    def delete_quota(self, quota_id: str) -> None:
        """Take away a quota that was made by a call."""
        self._call(self._quotas.DeleteQuota, DeleteQuotaRequest(quota_id=quota_id))


@strict
class AsyncQuotas(AsyncConnection):
    """Quotas of an asynchronous client."""

    @cached_property
    def _quotas(self) -> QuotaServiceAsyncStub:
        return QuotaServiceStub(self._channel)

    async def create_quota(self, quota: Quota) -> Quota:
        """As `Quotas.create_quota`."""
        return (await self._call(self._quotas.CreateQuota, CreateQuotaRequest(quota=quota))).quota

    async def list_quotas(self) -> AsyncGenerator[Quota]:
        """As `Quotas.list_quotas`."""
        async for page in self._pages(self._quotas.ListQuotas, ListQuotasRequest()):
            for quota in page.quotas:
                yield quota

    async def list_quota_uses(self) -> AsyncGenerator[QuotaUse]:
        """As `Quotas.list_quota_uses`."""
        async for page in self._pages(self._quotas.ListQuotaUses, ListQuotaUsesRequest()):
            for use in page.uses:
                yield use

    async def delete_quota(self, quota_id: str) -> None:
        """As `Quotas.delete_quota`."""
        await self._call(self._quotas.DeleteQuota, DeleteQuotaRequest(quota_id=quota_id))
