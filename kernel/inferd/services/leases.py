"""`inferd.v1.LeaseService`."""

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

from inferd.core.ids import LeaseId
from inferd.core.lease import LeaseState, ModelClaim
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.errors import InferdError, InvalidFieldError, ShuttingDownError, StoreUnavailableError
from inferd.runtime.front import leases as front
from inferd.runtime.front.caller import Caller
from inferd.services.calls import Call, check_request_id
from inferd.services.lease_values import read_lease_spec, write_lease, write_renewal
from inferd.services.pages import number_of, size_of, token_of
from inferd.services.status import status_of
from inferd.services.times import read_seconds
from inferd_api.v1 import lease_service_pb2 as ls

RUN_MODEL = Policy(Verb.RUN, ResourceKind.MODEL)


class Leases:
    """Translates; see the proto for what each call means."""

    def __init__(self, leases: front.Leases) -> None:
        self._leases = leases

    async def CreateLease(self, request: ls.CreateLeaseRequest, call: Call) -> ls.CreateLeaseResponse:  # noqa: N802 - the wire's name
        """Claim capacity."""
        check_request_id(request.request_id)
        spec = read_lease_spec(
            request.spec, lease_id=uuid.uuid4().hex, tenant=call.caller.tenant, request_id=request.request_id
        )
        for claim in spec.claims:
            if isinstance(claim, ModelClaim):  # what it holds nobody else runs meanwhile
                call.admission.check(RUN_MODEL, claim.model)
        return ls.CreateLeaseResponse(lease=write_lease(await self._leases.create(spec), self._leases))

    async def KeepAliveLeases(self, requests: AsyncIterator[ls.KeepAliveLeasesRequest], call: Call) -> None:  # noqa: N802 - the wire's name
        """Keep leases alive; what is wrong with one of them is told of that one."""
        async with self._leases.keeping(call.caller):
            async for request in requests:
                ttl_s = read_seconds(request.ttl, "ttl") if request.HasField("ttl") else None
                renewals = [self._renew(LeaseId(lease_id), call.caller, ttl_s) for lease_id in request.lease_ids]
                await self._leases.settled([LeaseId(lease_id) for lease_id in request.lease_ids])
                await call.write(ls.KeepAliveLeasesResponse(renewals=renewals))

    def _renew(self, lease_id: LeaseId, caller: Caller, ttl_s: float | None) -> ls.LeaseRenewal:
        try:
            return write_renewal(self._leases.keep_alive(lease_id, caller, ttl_s), self._leases)
        except (ShuttingDownError, StoreUnavailableError):
            raise
        except InferdError as error:
            why = status_of(error)
        lease = self._leases.find(lease_id, caller)  # one that had ended may be forgotten by now
        renewal = ls.LeaseRenewal(lease_id=lease_id) if lease is None else write_renewal(lease, self._leases)
        renewal.error.CopyFrom(why)
        return renewal

    async def ReleaseLease(self, request: ls.ReleaseLeaseRequest, call: Call) -> ls.ReleaseLeaseResponse:  # noqa: N802 - the wire's name
        """Give a lease back."""
        lease = self._leases.release(LeaseId(request.lease_id), call.caller)
        await self._leases.settled([lease.spec.lease_id])
        return ls.ReleaseLeaseResponse(lease=write_lease(lease, self._leases))

    async def GetLease(self, request: ls.GetLeaseRequest, call: Call) -> ls.GetLeaseResponse:  # noqa: N802 - the wire's name
        """Read a lease."""
        lease = self._leases.get(LeaseId(request.lease_id), call.caller)
        await self._leases.granted([lease.spec.lease_id])
        return ls.GetLeaseResponse(lease=write_lease(lease, self._leases))

    async def ListLeases(self, request: ls.ListLeasesRequest, call: Call) -> ls.ListLeasesResponse:  # noqa: N802 - the wire's name
        """List the tenant's leases, oldest first."""
        states = _read_states(request)
        after, size = number_of(request.page_token), size_of(request.page_size)
        page = self._leases.list(call.caller, states, after=after, size=size)
        await self._leases.granted([lease.spec.lease_id for lease in page.records])
        return ls.ListLeasesResponse(
            leases=[write_lease(lease, self._leases) for lease in page.records],
            next_page_token=token_of(page, lambda lease: lease.number),
        )

    async def WatchLease(self, request: ls.WatchLeaseRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch a lease; what changes while a message is under way is merged into the next one."""
        async with aclosing(self._leases.watch(LeaseId(request.lease_id), call.caller)) as changes:
            async for lease in changes:
                await call.write(ls.WatchLeaseResponse(lease=write_lease(lease, self._leases)))


def _read_states(request: ls.ListLeasesRequest) -> set[LeaseState]:
    try:
        return {LeaseState(state) for state in request.states}
    except ValueError:
        raise InvalidFieldError(f"states {list(request.states)} has an unknown one", field="states") from None
