"""`inferd.v1.LeaseService`, and the lease that any call may name."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

from inferd.core.ids import LeaseId, Tenant
from inferd.core.lease import Lease, LeaseState, ModelClaim
from inferd.errors import InferdError, InvalidFieldError
from inferd.runtime.driver import Driver
from inferd.runtime.shelf import Shelf
from inferd.services.bounds import Bound
from inferd.services.calls import check_request_id, lease_of, tenant_of
from inferd.services.lease_values import LIVING, read_lease_spec, write_lease, write_renewal
from inferd.services.pages import number_of, size_of, token_of
from inferd.services.status import status_of
from inferd.services.times import read_seconds
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import lease_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Leases(lease_service_pb2_grpc.LeaseServiceServicer):
    """Translates; see the proto for what each call means."""

    def __init__(self, driver: Driver, shelf: Shelf, *, watchers_limit: int, keepers_limit: int) -> None:
        self._driver = driver
        self._shelf = shelf
        self._keepers = Bound("leases.keepers", keepers_limit, "streams that keep leases alive")
        self._watchers = Bound("leases.watchers", watchers_limit, "streams that watch leases")

    def check(self, context: Context) -> None:
        """Refuse a call, whichever it is, that names a lease which does not hold.

        Raises:
            InvalidFieldError: Its name is no id.
            LeaseNotFoundError: The tenant has no such lease.
            LeaseEndedError: It has ended, or is not ACTIVE yet.
        """
        if lease_id := lease_of(context):
            self._driver.views.active_lease(lease_id, tenant_of(context))

    async def CreateLease(self, request: ls.CreateLeaseRequest, context: Context) -> ls.CreateLeaseResponse:  # noqa: N802 - the wire's name
        """Claim capacity."""
        check_request_id(request.request_id)
        spec = read_lease_spec(
            request.spec, lease_id=uuid.uuid4().hex, tenant=tenant_of(context), request_id=request.request_id
        )
        for claim in spec.claims:
            if isinstance(claim, ModelClaim):
                await self._shelf.look_for(claim.model)
        return ls.CreateLeaseResponse(lease=write_lease(self._driver.create_lease(spec), self._driver))

    async def KeepAliveLeases(  # type: ignore[override]  # noqa: N802 - the wire's name
        self, request_iterator: AsyncIterator[ls.KeepAliveLeasesRequest], context: Context
    ) -> None:
        """Keep leases alive; what is wrong with one of them is told of that one."""
        tenant = tenant_of(context)
        with self._keepers.place():
            async with self._driver.closing.cut_short():
                async for request in request_iterator:
                    self._driver.check_open()
                    ttl_s = read_seconds(request.ttl, "ttl") if request.HasField("ttl") else None
                    renewals = [self._renew(LeaseId(lease_id), tenant, ttl_s) for lease_id in request.lease_ids]
                    await context.write(ls.KeepAliveLeasesResponse(renewals=renewals))

    def _renew(self, lease_id: LeaseId, tenant: Tenant, ttl_s: float | None) -> ls.LeaseRenewal:
        try:
            if not lease_id:
                raise InvalidFieldError("an id of lease_ids is empty; it must be given", field="lease_ids")
            return write_renewal(self._driver.keep_alive(lease_id, tenant, ttl_s), self._driver)
        except InferdError as error:
            why = status_of(error)
        lease = self._driver.views.find_lease(lease_id, tenant)  # one that had ended may be forgotten by now
        renewal = ls.LeaseRenewal(lease_id=lease_id) if lease is None else write_renewal(lease, self._driver)
        renewal.error.CopyFrom(why)
        return renewal

    async def ReleaseLease(self, request: ls.ReleaseLeaseRequest, context: Context) -> ls.ReleaseLeaseResponse:  # noqa: N802 - the wire's name
        """Give a lease back."""
        lease = self._driver.release_lease(LeaseId(request.lease_id), tenant_of(context))
        return ls.ReleaseLeaseResponse(lease=write_lease(lease, self._driver))

    async def GetLease(self, request: ls.GetLeaseRequest, context: Context) -> ls.GetLeaseResponse:  # noqa: N802 - the wire's name
        """Read a lease."""
        lease = self._driver.views.lease(LeaseId(request.lease_id), tenant_of(context))
        return ls.GetLeaseResponse(lease=write_lease(lease, self._driver))

    async def ListLeases(self, request: ls.ListLeasesRequest, context: Context) -> ls.ListLeasesResponse:  # noqa: N802 - the wire's name
        """List the tenant's leases, oldest first."""
        tenant = tenant_of(context)
        states = _read_states(request)
        after, size = number_of(request.page_token), size_of(request.page_size)
        page = self._driver.views.leases(tenant, states, after=after, size=size)
        return ls.ListLeasesResponse(
            leases=[write_lease(lease, self._driver) for lease in page.records],
            next_page_token=token_of(page, lambda lease: lease.number),
        )

    async def WatchLease(self, request: ls.WatchLeaseRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Watch a lease; what changes while a message is under way is merged into the next one."""
        lease = self._driver.views.lease(LeaseId(request.lease_id), tenant_of(context))
        changes, lease_id, told = self._driver.watchers.leases, lease.spec.lease_id, None
        with self._watchers.place():
            while True:
                with changes.watch(lease_id, *self._driver.views.lines(lease)) as changed:
                    stands = self._stands(lease)
                    if stands != told:  # in a line somebody may have come behind it
                        await context.write(ls.WatchLeaseResponse(lease=write_lease(lease, self._driver)))
                        told = stands
                    if lease.state not in LIVING:
                        return
                    self._driver.check_open()
                    await changed.wait(0)

    def _stands(self, lease: Lease) -> tuple[object, ...]:
        """All of a lease that can change, less what changes with time alone. Tasks under it are told with the rest."""
        pending = lease.state is LeaseState.PENDING
        position = self._driver.views.position(lease) if pending else 0
        return (lease.state, lease.expires, lease.waits_for, position, len(lease.instances), len(lease.tasks))


def _read_states(request: ls.ListLeasesRequest) -> set[LeaseState]:
    try:
        return {LeaseState(state) for state in request.states}
    except ValueError:
        raise InvalidFieldError(f"states {list(request.states)} has an unknown one", field="states") from None
