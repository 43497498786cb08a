"""The host: what it is, which backends it has, whether it serves. `Hosts` and `AsyncHosts` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from inferd_api.v1.host_service_pb2 import (
    BackupStoreRequest,
    BackupStoreResponse,
    CordonHostRequest,
    DrainHostRequest,
    GetHostRequest,
    ListBackendsRequest,
    ListHostsRequest,
    ReadInstanceLogRequest,
    RemoveHostRequest,
    ResumeHostRequest,
    WatchHostRequest,
    WatchHostResponse,
)
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub
from inferd_api.v1.store_key_pb2 import GetStoreKeysRequest, RotateStoreKeysRequest, ShredTenantRequest
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import span
from inferd_client.errors import InferdError
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

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

    def get_host(self, host_id: str = "") -> Host:
        """Read a host: the kernel's own (`local`), or another one. Raises InvalidFieldError where there is none."""
        return self._call(self._host.GetHost, GetHostRequest(host_id=host_id)).host

    def list_hosts(self, *, labels: Mapping[str, str] | None = None) -> Generator[Host]:
        """All hosts by id, the kernel's own first, or those that have these labels."""
        for page in self._pages(self._host.ListHosts, ListHostsRequest(labels=labels)):
            yield from page.hosts

    def watch_hosts(self, *, interval_s: float | None = None) -> Generator[WatchHostResponse]:
        """All hosts: as they stand first, then those that have changed, in `hosts`; `gone_host_ids` are gone."""
        request = WatchHostRequest(interval=span(interval_s), all_hosts=True)
        yield from self._watched(self._host.WatchHost, request)

    def cordon_host(self, host_id: str, *, reason: str = "") -> Host:
        """Let a host get no new instances; those that it has stay and take tasks. People are told the `reason`."""
        return self._call(self._host.CordonHost, CordonHostRequest(host_id=host_id, reason=reason)).host

    def drain_host(self, host_id: str, *, reason: str = "") -> Generator[Host]:
        """Empty a host: as it stands, again and again until it is `drained`. It goes on though this is not read.

        People are told the `reason`.
        """
        for response in self._stream(self._host.DrainHost, DrainHostRequest(host_id=host_id, reason=reason)):
            yield response.host

    def resume_host(self, host_id: str) -> Host:
        """Let a host that drains or is cordoned take instances again."""
        return self._call(self._host.ResumeHost, ResumeHostRequest(host_id=host_id)).host

    def remove_host(self, host_id: str, *, force: bool = False, revoke: bool = False) -> None:
        """Know a host no longer; with `force` though something is left of it: its tasks go on elsewhere.

        With `revoke` its credential holds no longer, too, so that its agent does not come back by itself.
        """
        self._call(self._host.RemoveHost, RemoveHostRequest(host_id=host_id, force=force, revoke=revoke))

    def read_instance_log(
        self, instance_id: str, *, tail_bytes: int | None = None, follow: bool = False
    ) -> Generator[bytes]:
        """The log of an instance's worker: its last `tail_bytes` (default 65536), and with `follow` what comes."""
        request = ReadInstanceLogRequest(instance_id=instance_id, tail_bytes=tail_bytes or 0, follow=follow)
        for response in self._stream(self._host.ReadInstanceLog, request):
            yield response.data

    def watch_host(self, host_id: str = "", *, interval_s: float | None = None) -> Generator[WatchHostResponse]:
        """A host and its instances: now, when an instance changes, every `interval_s` (0.1 to 60, default 1)."""
        request = WatchHostRequest(interval=span(interval_s), host_id=host_id)
        yield from self._watched(self._host.WatchHost, request)

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
        except InferdError as error:
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

    async def get_host(self, host_id: str = "") -> Host:
        """Read a host: the kernel's own (`local`), or another one. Raises InvalidFieldError where there is none."""
        return (await self._call(self._host.GetHost, GetHostRequest(host_id=host_id))).host

    async def list_hosts(self, *, labels: Mapping[str, str] | None = None) -> AsyncGenerator[Host]:
        """All hosts by id, the kernel's own first, or those that have these labels."""
        async for page in self._pages(self._host.ListHosts, ListHostsRequest(labels=labels)):
            for host in page.hosts:
                yield host

    async def watch_hosts(self, *, interval_s: float | None = None) -> AsyncGenerator[WatchHostResponse]:
        """All hosts: as they stand first, then those that have changed, in `hosts`; `gone_host_ids` are gone."""
        request = WatchHostRequest(interval=span(interval_s), all_hosts=True)
        responses = self._watched(self._host.WatchHost, request)
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()

    async def cordon_host(self, host_id: str, *, reason: str = "") -> Host:
        """Let a host get no new instances; those that it has stay and take tasks. People are told the `reason`."""
        return (await self._call(self._host.CordonHost, CordonHostRequest(host_id=host_id, reason=reason))).host

    async def drain_host(self, host_id: str, *, reason: str = "") -> AsyncGenerator[Host]:
        """Empty a host: as it stands, again and again until it is `drained`. It goes on though this is not read.

        People are told the `reason`.
        """
        responses = self._stream(self._host.DrainHost, DrainHostRequest(host_id=host_id, reason=reason))
        try:
            async for response in responses:
                yield response.host
        finally:
            await responses.aclose()

    async def resume_host(self, host_id: str) -> Host:
        """Let a host that drains or is cordoned take instances again."""
        return (await self._call(self._host.ResumeHost, ResumeHostRequest(host_id=host_id))).host

    async def remove_host(self, host_id: str, *, force: bool = False, revoke: bool = False) -> None:
        """Know a host no longer; with `force` though something is left of it: its tasks go on elsewhere.

        With `revoke` its credential holds no longer, too, so that its agent does not come back by itself.
        """
        await self._call(self._host.RemoveHost, RemoveHostRequest(host_id=host_id, force=force, revoke=revoke))

    async def read_instance_log(
        self, instance_id: str, *, tail_bytes: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes]:
        """The log of an instance's worker: its last `tail_bytes` (default 65536), and with `follow` what comes."""
        request = ReadInstanceLogRequest(instance_id=instance_id, tail_bytes=tail_bytes or 0, follow=follow)
        responses = self._stream(self._host.ReadInstanceLog, request)
        try:
            async for response in responses:
                yield response.data
        finally:
            await responses.aclose()

    async def watch_host(
        self, host_id: str = "", *, interval_s: float | None = None
    ) -> AsyncGenerator[WatchHostResponse]:
        """A host and its instances: now, when an instance changes, every `interval_s` (0.1 to 60, default 1)."""
        request = WatchHostRequest(interval=span(interval_s), host_id=host_id)
        responses = self._watched(self._host.WatchHost, request)
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
        except InferdError as error:
            return unknown_service(error)
        return str(HealthCheckResponse.ServingStatus.Name(answer.status))


def unknown_service(error: InferdError) -> str:
    """The answer for a service that the kernel does not know (NOT_FOUND); any other error goes on."""
    if error.code != "NOT_FOUND":
        raise error
    return "SERVICE_UNKNOWN"
