"""The host: what it is, which backends it has, whether it serves. `Hosts` and `AsyncHosts` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from inferd_api.v1.host_service_pb2 import (
    BackupStoreRequest,
    BackupStoreResponse,
    GetHostRequest,
    ListBackendsRequest,
    WatchHostRequest,
    WatchHostResponse,
)
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub
from inferd_api.v1.store_key_pb2 import GetStoreKeysRequest, RotateStoreKeysRequest, ShredTenantRequest
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import span
from inferd_client.errors import StatusError
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.host_pb2 import Backend, Host
    from inferd_api.v1.host_service_pb2_grpc import HostServiceAsyncStub
    from inferd_api.v1.store_key_pb2 import RotateStoreKeysResponse, ShredTenantResponse, StoreKeys


@strict
class Hosts(Connection):
    """The host of a synchronous client."""

    @cached_property
    def _host(self) -> HostServiceStub:
        return HostServiceStub(self._channel)

    @cached_property
    def _health(self) -> HealthStub:
        return HealthStub(self._channel)

    def get_host(self) -> Host:
        """Read the host."""
        return self._call(self._host.GetHost, GetHostRequest()).host

    def watch_host(self, *, interval_s: float | None = None) -> Generator[WatchHostResponse]:
        """The host and its instances: now, when an instance changes, every `interval_s` (0.1 to 60, default 1)."""
        yield from self._watched(self._host.WatchHost, WatchHostRequest(interval=span(interval_s)))

    def backup_store(self, path: str, *, replace: bool = False) -> Generator[BackupStoreResponse]:
        """Copy what the kernel keeps into a file on its host: how far that is, and in the last message what was made.

        Args:
            path: Of the file, absolute.
            replace: Whether an older backup there is to give way.
        """
        yield from self._stream(self._host.BackupStore, BackupStoreRequest(path=path, replace=replace))

    def get_store_keys(self) -> StoreKeys:
        """How the keys stand that seal what the kernel keeps."""
        return self._call(self._host.GetStoreKeys, GetStoreKeysRequest()).keys

    def rotate_store_keys(
        self, *, tenant: str | None = None, wrapping: bool = False, forget: bool = False
    ) -> RotateStoreKeysResponse:
        """Have new keys seal what the kernel writes from now on; what old ones sealed is sealed anew beside all else.

        Args:
            tenant: Whose; default: of all.
            wrapping: A new key is to wrap the others instead.
            forget: And the file of that is to have no other one, so that backups of before do not open by it.
        """
        request = RotateStoreKeysRequest(tenant=tenant, wrapping=wrapping, forget=forget)
        return self._call(self._host.RotateStoreKeys, request)

    def shred_tenant(self, tenant: str) -> ShredTenantResponse:
        """End the tasks of a tenant, drop its keys, and then what they sealed: nobody reads it again.

        Args:
            tenant: Whose.
        """
        return self._call(self._host.ShredTenant, ShredTenantRequest(tenant=tenant))

    def list_backends(self) -> Generator[Backend]:
        """All plugins that were found, working or not, by name."""
        for page in self._pages(self._host.ListBackends, ListBackendsRequest()):
            yield from page.backends

    def health(self, service: str = "") -> str:
        """Health of the kernel or of one `service`: "SERVING", "NOT_SERVING", "UNKNOWN" or "SERVICE_UNKNOWN"."""
        try:
            answer = self._call(self._health.Check, HealthCheckRequest(service=service))
        except StatusError as error:
            return unknown_service(error)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))


@strict
class AsyncHosts(AsyncConnection):
    """The host of an asynchronous client; each method is as its namesake in `Hosts`."""

    @cached_property
    def _host(self) -> HostServiceAsyncStub:
        return HostServiceStub(self._channel)

    @cached_property
    def _health(self) -> HealthStub:
        return HealthStub(self._channel)

    async def get_host(self) -> Host:
        """Read the host."""
        return (await self._call(self._host.GetHost, GetHostRequest())).host

    async def watch_host(self, *, interval_s: float | None = None) -> AsyncGenerator[WatchHostResponse]:
        """The host and its instances: now, when an instance changes, every `interval_s` (0.1 to 60, default 1)."""
        responses = self._watched(self._host.WatchHost, WatchHostRequest(interval=span(interval_s)))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def backup_store(self, path: str, *, replace: bool = False) -> AsyncGenerator[BackupStoreResponse]:
        """Copy what the kernel keeps into a file on its host: how far that is, and in the last message what was made.

        Args:
            path: Of the file, absolute.
            replace: Whether an older backup there is to give way.
        """
        responses = self._stream(self._host.BackupStore, BackupStoreRequest(path=path, replace=replace))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def get_store_keys(self) -> StoreKeys:
        """How the keys stand that seal what the kernel keeps."""
        return (await self._call(self._host.GetStoreKeys, GetStoreKeysRequest())).keys

    async def rotate_store_keys(
        self, *, tenant: str | None = None, wrapping: bool = False, forget: bool = False
    ) -> RotateStoreKeysResponse:
        """Have new keys seal what the kernel writes from now on; what old ones sealed is sealed anew beside all else.

        Args:
            tenant: Whose; default: of all.
            wrapping: A new key is to wrap the others instead.
            forget: And the file of that is to have no other one, so that backups of before do not open by it.
        """
        request = RotateStoreKeysRequest(tenant=tenant, wrapping=wrapping, forget=forget)
        return await self._call(self._host.RotateStoreKeys, request)

    async def shred_tenant(self, tenant: str) -> ShredTenantResponse:
        """End the tasks of a tenant, drop its keys, and then what they sealed: nobody reads it again.

        Args:
            tenant: Whose.
        """
        return await self._call(self._host.ShredTenant, ShredTenantRequest(tenant=tenant))

    async def list_backends(self) -> AsyncGenerator[Backend]:
        """All plugins that were found, working or not, by name."""
        async for page in self._pages(self._host.ListBackends, ListBackendsRequest()):
            for backend in page.backends:
                yield backend

    async def health(self, service: str = "") -> str:
        """Health of the kernel or of one `service`: "SERVING", "NOT_SERVING", "UNKNOWN" or "SERVICE_UNKNOWN"."""
        try:
            answer = await self._call(self._health.Check, HealthCheckRequest(service=service))
        except StatusError as error:
            return unknown_service(error)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))


def unknown_service(error: StatusError) -> str:
    """The answer for a service that the kernel does not know (NOT_FOUND); any other error goes on."""
    if error.code != "NOT_FOUND":
        raise error
    return "SERVICE_UNKNOWN"
