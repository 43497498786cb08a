"""The audit trail: who did what. `Audit` and `AsyncAudit` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.audit_service_pb2 import GetAuditTrailRequest, ListAuditLinesRequest
from inferd_api.v1.audit_service_pb2_grpc import AuditServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.audit_service_pb2 import AuditTrail
    from inferd_api.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

PAGE_LINES = 1000


@strict
class Audit(Connection):
    """The audit trail, of a synchronous client."""

    @cached_property
    def _audit(self) -> AuditServiceStub:
        return AuditServiceStub(self._channel)

    def get_audit_trail(self) -> AuditTrail:
        """Where the trail stands, and the public half of the key that signs it."""
        return self._call(self._audit.GetAuditTrail, GetAuditTrailRequest()).trail

    def list_audit_lines(self, *, after_line: int = 0) -> Generator[str]:
        """The lines of the trail behind the one of a number, as they are kept."""
        request = ListAuditLinesRequest(page_size=PAGE_LINES, after_line=after_line)
        for page in self._pages(self._audit.ListAuditLines, request):
            yield from page.lines


@strict
class AsyncAudit(AsyncConnection):
    """The audit trail, of an asynchronous client."""

    @cached_property
    def _audit(self) -> AuditServiceAsyncStub:
        return AuditServiceStub(self._channel)

    async def get_audit_trail(self) -> AuditTrail:
        """As `Audit.get_audit_trail`."""
        return (await self._call(self._audit.GetAuditTrail, GetAuditTrailRequest())).trail

    async def list_audit_lines(self, *, after_line: int = 0) -> AsyncGenerator[str]:
        """As `Audit.list_audit_lines`."""
        request = ListAuditLinesRequest(page_size=PAGE_LINES, after_line=after_line)
        async for page in self._pages(self._audit.ListAuditLines, request):
            for line in page.lines:
                yield line
