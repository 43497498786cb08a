"""Leases: claim capacity and hold it, read, list, watch and release. `Leases` and `AsyncLeases` differ in `await` only.

async with client.lease(claims.memory(4 << 30), wait=True) as lease:
    await client.load_model("smollm2", lease=lease)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import grpc

from inferd_api.v1.lease_pb2 import LeaseState
from inferd_api.v1.lease_service_pb2 import (
    GetLeaseRequest,
    KeepAliveLeasesRequest,
    ListLeasesRequest,
    ReleaseLeaseRequest,
    WatchLeaseRequest,
)
from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.claims import has_selectors, lease_request, span
from inferd_client.errors import InferdError
from inferd_client.holding import HeldLease, check_granted
from inferd_client.keepers import AsyncKeeper, Keeper
from inferd_client.options import strict
from inferd_client.rpc_errors import from_rpc
from inferd_client.versions import too_old_for_selectors, version_of, version_of_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
    from types import TracebackType
    from typing import Unpack

    from inferd_api.v1.lease_pb2 import Claim, Lease
    from inferd_api.v1.lease_service_pb2 import LeaseRenewal
    from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceAsyncStub
    from inferd_client.claims import LeaseOptions

RELEASE_TIMEOUT_S = 5.0  # of the release at the end of a block: a lease that is not released ends by itself
PENDING = LeaseState.LEASE_STATE_PENDING


@strict
class Leases(Connection):
    """The leases of a synchronous client."""

    @cached_property
    def _leases(self) -> LeaseServiceStub:
        return LeaseServiceStub(self._channel)

    @cached_property
    def _keeper(self) -> Keeper:
        return Keeper(lambda requests: self._leases.KeepAliveLeases(requests, metadata=self._metadata))

    def close(self) -> None:
        """Close the connection; calls under way end, and leases are kept alive no longer."""
        if "_keeper" in self.__dict__:
            self._keeper.close()
        super().close()

    @contextmanager
    def lease(self, *claims: Claim, **options: Unpack[LeaseOptions]) -> Generator[HeldLease]:
        """Hold capacity for as long as the block: wait for the grant, keep it alive by a thread, release it at the end.

        Calls inside the block run under it with `lease=lease`. Should it be lost, they raise LeaseLostError, as
        `lease.check()` does, and so does the end of the block.

        Raises:
            InferdError: Those of `create_lease`; LeaseUnavailableError when it waited in vain; LeaseLostError.
        """
        sent = time.monotonic()
        lease = self.create_lease(*claims, **options)
        held = HeldLease(lease, sent)
        self._keeper.add(held)
        try:
            if lease.state == PENDING:
                lease = self._decided(lease)
            check_granted(lease)
            held.fencing_token = lease.fencing_token
            yield held
            held.check()
        finally:
            self._keeper.remove(held)
            with contextlib.suppress(InferdError):
                request = ReleaseLeaseRequest(lease_id=held.lease_id)
                self._wait(self._leases.ReleaseLease, request, RELEASE_TIMEOUT_S)

    def _decided(self, lease: Lease) -> Lease:
        with contextlib.closing(self.watch_lease(lease.lease_id)) as leases:
            return next((changed for changed in leases if changed.state != PENDING), lease)

    def create_lease(self, *claims: Claim, **options: Unpack[LeaseOptions]) -> Lease:
        """Claim capacity, all or nothing; the caller keeps the lease alive. PENDING only with `wait`.

        Raises:
            InferdError: LeaseUnavailableError, InvalidFieldError, ModelNotFoundError, LimitExceededError;
                KernelTooOldError where a claim has a selector that the kernel does not know.
        """
        lease = self._call(self._leases.CreateLease, lease_request(claims, options)).lease
        if not has_selectors(claims, lease):
            self.release_lease(lease.lease_id)
            raise too_old_for_selectors(version_of(self._channel, self._metadata), self.address)
        return lease

    def keep_alive(
        self, lease_ids: Sequence[str], *, ttl_s: float | None = None, timeout_s: float | None = None
    ) -> list[LeaseRenewal]:
        """Keep leases alive once, with a new TTL unless it is None; what is wrong with one stands in its answer."""
        request = KeepAliveLeasesRequest(lease_ids=lease_ids, ttl=span(ttl_s))
        call = self._leases.KeepAliveLeases(
            iter((request,)), metadata=self._metadata_of(None), timeout=self._limit(timeout_s)
        )
        try:
            return [renewal for answer in call for renewal in answer.renewals]
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None

    def get_lease(self, lease_id: str) -> Lease:
        """Read a lease. Raises LeaseNotFoundError."""
        return self._call(self._leases.GetLease, GetLeaseRequest(lease_id=lease_id)).lease

    def list_leases(self, *, states: Iterable[LeaseState.ValueType] = ()) -> Generator[Lease]:
        """The tenant's leases in one of `states` (default: any), oldest first."""
        for page in self._pages(self._leases.ListLeases, ListLeasesRequest(states=states)):
            yield from page.leases

    def release_lease(self, lease_id: str) -> Lease:
        """Give a lease back; one that has ended is returned as it is. Raises LeaseNotFoundError."""
        return self._call(self._leases.ReleaseLease, ReleaseLeaseRequest(lease_id=lease_id)).lease

    def watch_lease(self, lease_id: str) -> Generator[Lease]:
        """A lease as it is, then after each change, anew where the connection broke; up to its end.

        Raises LeaseNotFoundError.
        """
        for response in self._watched(self._leases.WatchLease, WatchLeaseRequest(lease_id=lease_id)):
            yield response.lease


@strict
class AsyncLeases(AsyncConnection):
    """The leases of an asynchronous client; each method is as its namesake in `Leases`."""

    @cached_property
    def _leases(self) -> LeaseServiceAsyncStub:
        return LeaseServiceStub(self._channel)

    @cached_property
    def _keeper(self) -> AsyncKeeper:
        return AsyncKeeper(lambda: self._leases.KeepAliveLeases(metadata=self._metadata))

    async def close(self) -> None:
        """Close the connection; calls under way end, and leases are kept alive no longer."""
        if "_keeper" in self.__dict__:
            await self._keeper.close()
        await super().close()

    @asynccontextmanager
    async def lease(self, *claims: Claim, **options: Unpack[LeaseOptions]) -> AsyncGenerator[HeldLease]:
        """Hold capacity for as long as the block: wait for the grant, keep it alive, release it at the end.

        Calls inside the block run under it with `lease=lease`. Should it be lost, the block is cancelled and ends with
        LeaseLostError.

        Raises:
            InferdError: Those of `create_lease`; LeaseUnavailableError when it waited in vain; LeaseLostError.
        """
        sent = time.monotonic()
        lease = await self._create_whole(*claims, **options)
        held = HeldLease(lease, sent)
        guard = Guard(held)
        self._keeper.add(held, guard.renewed)
        try:
            async with guard:
                if lease.state == PENDING:
                    lease = await self._decided(lease)
                check_granted(lease)
                held.fencing_token = lease.fencing_token
                yield held
        finally:
            self._keeper.remove(held)
            with contextlib.suppress(InferdError):
                request = ReleaseLeaseRequest(lease_id=held.lease_id)
                await self._wait(self._leases.ReleaseLease, request, RELEASE_TIMEOUT_S)

    async def _create_whole(self, *claims: Claim, **options: Unpack[LeaseOptions]) -> Lease:
        """Create a lease; cancelled meanwhile, wait for its id and release it: nobody else would know of it."""
        creating = asyncio.ensure_future(self.create_lease(*claims, **options))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            with contextlib.suppress(InferdError):
                lease = await creating
                request = ReleaseLeaseRequest(lease_id=lease.lease_id)
                await self._wait(self._leases.ReleaseLease, request, RELEASE_TIMEOUT_S)
            raise

    async def _decided(self, lease: Lease) -> Lease:
        async with aclosing(self.watch_lease(lease.lease_id)) as leases:
            async for changed in leases:
                if changed.state != PENDING:
                    return changed
        return lease

    async def create_lease(self, *claims: Claim, **options: Unpack[LeaseOptions]) -> Lease:
        """Claim capacity, all or nothing; the caller keeps the lease alive. PENDING only with `wait`.

        Raises:
            InferdError: LeaseUnavailableError, InvalidFieldError, ModelNotFoundError, LimitExceededError;
                KernelTooOldError where a claim has a selector that the kernel does not know.
        """
        lease = (await self._call(self._leases.CreateLease, lease_request(claims, options))).lease
        if not has_selectors(claims, lease):
            await self.release_lease(lease.lease_id)
            raise too_old_for_selectors(await version_of_async(self._channel, self._metadata), self.address)
        return lease

    async def keep_alive(
        self, lease_ids: Sequence[str], *, ttl_s: float | None = None, timeout_s: float | None = None
    ) -> list[LeaseRenewal]:
        """Keep leases alive once, with a new TTL unless it is None; what is wrong with one stands in its answer."""
        request = KeepAliveLeasesRequest(lease_ids=lease_ids, ttl=span(ttl_s))
        call = self._leases.KeepAliveLeases(
            iter((request,)), metadata=self._metadata_of(None), timeout=self._limit(timeout_s)
        )
        try:
            return [renewal async for answer in call for renewal in answer.renewals]
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None

    async def get_lease(self, lease_id: str) -> Lease:
        """Read a lease. Raises LeaseNotFoundError."""
        return (await self._call(self._leases.GetLease, GetLeaseRequest(lease_id=lease_id))).lease

    async def list_leases(self, *, states: Iterable[LeaseState.ValueType] = ()) -> AsyncGenerator[Lease]:
        """The tenant's leases in one of `states` (default: any), oldest first."""
        async for page in self._pages(self._leases.ListLeases, ListLeasesRequest(states=states)):
            for lease in page.leases:
                yield lease

    async def release_lease(self, lease_id: str) -> Lease:
        """Give a lease back; one that has ended is returned as it is. Raises LeaseNotFoundError."""
        return (await self._call(self._leases.ReleaseLease, ReleaseLeaseRequest(lease_id=lease_id))).lease

    async def watch_lease(self, lease_id: str) -> AsyncGenerator[Lease]:
        """A lease as it is, then after each change, anew where the connection broke; up to its end.

        Raises LeaseNotFoundError.
        """
        responses = self._watched(self._leases.WatchLease, WatchLeaseRequest(lease_id=lease_id))
        try:
            async for response in responses:
                yield response.lease
        finally:
            await responses.aclose()


class Guard:
    """Cancels the asyncio task inside its block when a lease is lost, and ends the block with LeaseLostError.

    It works as `asyncio.timeout` does: a cancellation by someone else stays one.
    """

    def __init__(self, held: HeldLease) -> None:
        self._held = held
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0  # requests to cancel the task that were there before
        self._lost = False

    async def __aenter__(self) -> None:
        self._task = task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a lease is held by a task of asyncio")
        self._cancelling = task.cancelling()
        self.renewed()

    def renewed(self) -> None:
        """The lease holds for longer, or not any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and not self._lost:
            self._timer = asyncio.get_running_loop().call_later(self._held.remaining_s, self._ring)

    def _ring(self) -> None:
        if self._held.remaining_s > 0:
            self.renewed()
            return
        self._lost = True
        if self._task is not None:
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        ours = self._lost and task is not None and task.uncancel() <= self._cancelling
        if ours and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise self._held.lost() from error
