"""What may be done with leases."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress

from inferd.core.ids import LeaseId
from inferd.core.index import Page
from inferd.core.lease import Lease, LeaseSpec, LeaseState, ModelClaim
from inferd.errors import InvalidFieldError, StoreUnavailableError
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import SharedBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.shelf import Shelf

LIVING = (LeaseState.PENDING, LeaseState.ACTIVE)


class Leases:
    """Gives leases, keeps them alive, takes them back and tells of them.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        watchers: Bounds the streams that watch leases.
        keepers: Bounds the streams that keep leases alive.

    Attributes:
        clock: The time of all leases.
    """

    def __init__(self, driver: Driver, shelf: Shelf, *, watchers: SharedBound, keepers: SharedBound) -> None:
        self.clock = driver.clock
        self._driver = driver
        self._shelf = shelf
        self._keepers = keepers
        self._watchers = watchers

    def models_claimed(self, caller: Caller, request_id: str) -> tuple[str | None, ...]:
        """The models that the lease claims which a request of this id has made, claim by claim; none for no lease."""
        return self._driver.views.models_claimed(caller.tenant, request_id)

    def check(self, caller: Caller) -> None:
        """Refuse a call, whichever it is, that names a lease which does not hold.

        Raises:
            LeaseNotFoundError: The tenant has no such lease.
            LeaseEndedError: It has ended, or is not ACTIVE yet.
        """
        if caller.lease_id:
            self._driver.views.active_lease(caller.lease_id, caller.tenant)

    async def create(self, spec: LeaseSpec) -> Lease:
        """Claim capacity, or find the lease that the same `request_id` made.

        Raises:
            InferdError: It is refused.
        """
        for claim in spec.claims:
            if isinstance(claim, ModelClaim):
                await self._shelf.look_for(claim.model)
        if (keeper := self._driver.keeper) is not None:
            keeper.check()
        lease = self._driver.create_lease(spec)
        await self.settled([lease.spec.lease_id])
        return lease

    async def settled(self, lease_ids: Iterable[LeaseId]) -> None:
        """Wait until what has become of leases is kept, before their holder is told of it.

        Raises:
            StoreUnavailableError: It cannot be: the kernel after this one may know them as they were before.
        """
        if (keeper := self._driver.keeper) is not None:
            for lease_id in lease_ids:
                await keeper.settled_lease(lease_id)

    async def granted(self, lease_ids: Iterable[LeaseId]) -> None:
        """Wait until leases may be told of: nobody hears of a grant, a renewal or a release that is not kept.

        Raises:
            StoreUnavailableError: That cannot be now.
        """
        if (keeper := self._driver.keeper) is not None:
            for lease_id in lease_ids:
                await keeper.granted(lease_id)

    @asynccontextmanager
    async def keeping(self, caller: Caller) -> AsyncIterator[None]:
        """A stream of `keep_alive` of a caller, which ends when the kernel closes.

        Raises:
            LimitExceededError: There are as many as may be, or its tenant has its share.
            ShuttingDownError: The kernel is shutting down.
        """
        with self._keepers.place(caller.tenant):
            async with self._driver.closing.cut_short():
                yield

    def keep_alive(self, lease_id: LeaseId, caller: Caller, ttl_s: float | None) -> Lease:
        """Let a lease hold for its TTL, or a new one, from now on; to be told once that is `settled`.

        Raises:
            StoreUnavailableError: It cannot be kept that it does.
            ShuttingDownError: The kernel is shutting down.
            LeaseNotFoundError, LeaseEndedError: There is none, or it has ended.
            InvalidFieldError: No lease is named, or the TTL is outside its bounds.
        """
        self._driver.check_open()
        if not lease_id:
            raise InvalidFieldError("an id of lease_ids is empty; it must be given", field="lease_ids")
        if (keeper := self._driver.keeper) is not None:
            keeper.check()
        return self._driver.keep_alive(lease_id, caller.tenant, ttl_s)

    def release(self, lease_id: LeaseId, caller: Caller) -> Lease:
        """Give a lease back; one that has ended stays as it is. To be told once that is `settled`.

        Raises:
            LeaseNotFoundError: The tenant has no such lease.
        """
        return self._driver.release_lease(lease_id, caller.tenant)

    def get(self, lease_id: LeaseId, caller: Caller) -> Lease:
        """The lease of this id; to be told once it is `granted`.

        Raises:
            LeaseNotFoundError: The tenant has no such lease.
        """
        return self._driver.views.lease(lease_id, caller.tenant)

    def find(self, lease_id: LeaseId, caller: Caller) -> Lease | None:
        """The lease of this id; None when the tenant has none."""
        return self._driver.views.find_lease(lease_id, caller.tenant)

    def list(self, caller: Caller, states: Collection[LeaseState], *, after: int | None, size: int) -> Page[Lease]:
        """The tenant's leases in one of these states, none for all, oldest first, behind the one of number `after`.

        They are to be told once they are `granted`.
        """
        return self._driver.views.leases(caller.tenant, states, after=after, size=size)

    def position(self, lease: Lease) -> int:
        """How many stand before a waiting lease; 0 when it does not wait."""
        return self._driver.views.position(lease) if lease.state is LeaseState.PENDING else 0

    def eta_s(self, lease: Lease) -> float | None:
        """When a waiting lease can be granted, by how long others were held; None when that is not known."""
        return self._driver.views.eta_s(lease) if lease.state is LeaseState.PENDING else None

    def remaining_s(self, lease: Lease) -> float | None:
        """For how long a lease holds, or waits, unless it is kept alive; None once it has ended."""
        return max(0.0, lease.expires - self.clock.now()) if lease.state in LIVING else None

    async def watch(self, lease_id: LeaseId, caller: Caller) -> AsyncGenerator[Lease, None]:
        """A lease, now and after each change, to its end; what changes while its reader is busy is merged.

        Raises:
            LeaseNotFoundError: The tenant has no such lease.
            LimitExceededError: As many are watched as may be, or the tenant has its share.
            ShuttingDownError: The kernel is shutting down.
        """
        lease = self.get(lease_id, caller)
        changes, views, told = self._driver.watchers.leases, self._driver.views, None
        with self._watchers.place(caller.tenant):
            while True:
                with changes.watch(lease_id, *views.lines(lease)) as changed:
                    if told is not None and self._driver.keeper is not None:
                        self._driver.check_open()  # what ends with this kernel ends for this call alone
                    await self._told_of(lease_id)
                    state, stands = lease.state, self._stands(lease)
                    if stands != told:  # in a line somebody may have come behind it
                        told = stands
                        yield lease
                    if state not in LIVING:  # what it has become since was not told
                        return
                    self._driver.check_open()
                    await changed.wait(0)

    async def _told_of(self, lease_id: LeaseId) -> None:
        """As `granted`, for who has time: each write that fails is waited for, too."""
        while True:
            with suppress(StoreUnavailableError):
                return await self.granted([lease_id])

    def _stands(self, lease: Lease) -> tuple[object, ...]:
        """All of a lease that can change, less what changes with time alone. Tasks under it are told with the rest."""
        counts = self.position(lease), len(lease.instances), len(lease.tasks)
        return (lease.state, lease.expires, lease.waits_for, *counts)
