"""The register of leases: who holds what, until when, and what became of the ended ones."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from inferd.core.alarms import Alarms
from inferd.core.changes import LeaseChanged, LeaseForgotten, LeaseRestored, LineChanged
from inferd.core.commands import Reply
from inferd.core.ids import InstanceId, LeaseId, Tenant
from inferd.core.index import Index, Page
from inferd.core.lease import LEASE_TABLE, Lease, LeaseChange, LeaseSpec, LeaseState
from inferd.core.lifecycle import advance, terminal
from inferd.core.priority import Priority
from inferd.core.quotas import Quotas
from inferd.core.restored import RestoredLease
from inferd.core.retention import Retention
from inferd.core.waiters import Waiters
from inferd.errors import (
    InferdError,
    InvalidFieldError,
    LeaseEndedError,
    LeaseNotFoundError,
    LimitExceededError,
    RequestConflictError,
)

LEARNING = 0.2  # how much of the mean time of holding the newest lease takes away


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLimits:
    """Bounds of leases; see `inferd.config` for what each means."""

    min_ttl_s: float = 1.0
    max_ttl_s: float = 3600.0
    default_ttl_s: float = 30.0
    max_wait_s: float = 604_800.0
    aging_s: float = 60.0
    leases: int = 10_000
    tenant_share: float = 4.0
    retained: int = 1000


class Leases:
    """Leases by id, their expiry and their tokens. It gives nothing: see `inferd.core.capacity`.

    A lease ends at the first event at or after its instant, never before; one that has ended never comes back,
    whatever arrives later. One writer: the kernel machine.

    Attributes:
        known: Pending, active and retained leases, in the order of their creation.
        waiters: Those that wait; instances that wait for memory stand in the same lines.
        alarms: Of what is due at some time.
    """

    def __init__(self, limits: LeaseLimits, quotas: Quotas, out: list[Reply]) -> None:
        self.known: dict[LeaseId, Lease] = {}
        self.waiters: Waiters[str] = Waiters()
        self._limits = limits
        self._quotas = quotas
        self._out = out
        self._index: Index[Lease] = Index()
        self._created = 0
        self._granted = 0
        self._living = 0
        self._living_of: Counter[Tenant] = Counter()  # no tenant that has none
        self._active = 0
        self._held_s: float | None = None  # mean, of those that ended
        self._requests: dict[tuple[Tenant, str], LeaseId] = {}
        self._expiries: Alarms[LeaseId] = Alarms()
        self._waits: Alarms[LeaseId] = Alarms()
        self.alarms = (self._expiries, self._waits)
        self._ended: Retention[LeaseId] = Retention(limits.retained, inf)
        self._touched: dict[LeaseId, None] = {}  # their watchers are to hear of it with the end of the event

    @property
    def living(self) -> int:
        """Leases that are held or wait."""
        return self._living

    @property
    def fencing_token(self) -> int:
        """The highest one that was given, by any kernel."""
        return self._granted

    def find(self, lease_id: LeaseId, tenant: Tenant) -> Lease | None:
        """The tenant's lease of this id; None when there is none, or it is another tenant's."""
        lease = self.known.get(lease_id)
        return lease if lease is not None and lease.spec.tenant == tenant else None

    def get(self, lease_id: LeaseId, tenant: Tenant) -> Lease:
        """The tenant's lease of this id.

        Raises:
            LeaseNotFoundError: There is none, or it is another tenant's.
        """
        lease = self.find(lease_id, tenant)
        if lease is None:
            message = f"no lease {lease_id[:80]!r}; it never was, or it ended long ago"
            raise LeaseNotFoundError(message, field="lease_id")
        return lease

    def active(self, lease_id: LeaseId, tenant: Tenant) -> Lease:
        """The tenant's lease of this id, which holds.

        Raises:
            LeaseNotFoundError: There is none, or it is another tenant's.
            LeaseEndedError: It does not hold yet or any more.
        """
        lease = self.get(lease_id, tenant)
        if lease.state is not LeaseState.ACTIVE:
            raise _ended(lease, "create a new one" if terminal(LEASE_TABLE, lease.state) else "wait until it is ACTIVE")
        return lease

    def made_by(self, spec: LeaseSpec) -> Lease | None:
        """The lease that a call made, or an earlier one of the tenant with the same `request_id`; else None."""
        lease_id = self._requests.get((spec.tenant, spec.request_id)) if spec.request_id else spec.lease_id
        return None if lease_id is None else self.known.get(lease_id)

    def requested(self, tenant: Tenant, request_id: str) -> Lease | None:
        """The known lease that a call of the tenant with this `request_id` has made; None for none."""
        lease_id = self._requests.get((tenant, request_id)) if request_id else None
        return None if lease_id is None else self.known.get(lease_id)

    def repeats(self, spec: LeaseSpec) -> bool:
        """Whether an earlier call with the same `request_id` has made this lease.

        Raises:
            RequestConflictError: That one had other contents.
        """
        lease = self.made_by(spec) if spec.request_id else None
        if lease is None:
            return False
        if lease.spec.fingerprint != spec.fingerprint:
            raise RequestConflictError(
                f"request_id {spec.request_id!r} made lease {lease.spec.lease_id} from other contents; use a new "
                "request_id",
                field="request_id",
            )
        return True

    def page(self, tenant: Tenant, states: Collection[LeaseState], *, after: int | None, size: int) -> Page[Lease]:
        """The tenant's leases in one of these states, none for all, oldest first, behind the one of number `after`."""
        return self._index.page(tenant, states, after=after, size=size, newest_first=False)

    def position(self, lease_id: LeaseId) -> int:
        """How many stand before a waiting lease; 0 when it does not wait."""
        return self.waiters.position(lease_id)

    def eta_s(self, lease_id: LeaseId) -> float | None:
        """When a waiting lease can be granted, by how long others were held; None when that is not known."""
        if lease_id not in self.waiters or self._held_s is None or not self._active:
            return None
        return (self.position(lease_id) + 1) * self._held_s / self._active

    def check(self, spec: LeaseSpec, now: float) -> float:
        """Refuse what no lease may be; the TTL in seconds.

        Raises:
            InvalidFieldError: The TTL or the longest wait is outside its bounds.
            QuotaExceededError: A quota of its tenant does not allow it now.
            LimitExceededError: There are too many leases, or the tenant has its share.
        """
        if spec.wait_s is not None and spec.wait_s > self._limits.max_wait_s:
            most = f"{self._limits.max_wait_s:g}"
            message = f"spec.wait_timeout is {spec.wait_s:g} s; leases.max_wait_s is {most} s, the most that it can be"
            raise InvalidFieldError(message, field="spec.wait_timeout")
        ttl_s = self._check_ttl(self._limits.default_ttl_s if spec.ttl_s is None else spec.ttl_s, "spec.ttl")
        self._quotas.check_lease(spec, now)
        self._check_count(spec.tenant)
        return ttl_s

    def add(self, spec: LeaseSpec, ttl_s: float, now: float) -> Lease:
        """Take a lease into the register, PENDING; its TTL runs from now on, so that nobody waits for the dead."""
        self._quotas.hold_lease(spec, now)
        self._created += 1
        lease = Lease(spec=spec, number=self._created, ttl_s=ttl_s, expires=now + ttl_s, created=now)
        self.known[spec.lease_id] = lease
        self._count(spec.tenant, 1)
        self._index.add(lease)
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.lease_id
        self._expiries.set(spec.lease_id, lease.expires)
        return lease

    def restore(self, kept: RestoredLease, now: float) -> Lease:
        """A lease of a kernel before this one is known again; what it holds is not given to it yet."""
        spec = kept.spec
        self._quotas.hold_lease(spec, now)
        self._created = max(self._created, kept.number)
        self.granted_before(kept.fencing_token)
        lease = Lease(
            spec=spec,
            number=kept.number,
            ttl_s=kept.ttl_s,
            expires=kept.expires,
            created=kept.created,
            state=LeaseState.ACTIVE,
            fencing_token=kept.fencing_token,
            granted=kept.granted,
        )
        self.known[spec.lease_id] = lease
        self._count(spec.tenant, 1)
        self._active += 1
        self._index.add(lease)
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.lease_id
        self._expiries.set(spec.lease_id, lease.expires)
        self._out.append(LeaseRestored(spec.lease_id, spec.tenant))
        return lease

    def granted_before(self, token: int) -> None:
        """A kernel has given fencing tokens up to this one: those of later grants are higher."""
        self._granted = max(self._granted, token)

    def forget_request(self, lease: Lease) -> None:
        """A lease that has ended is told of no more: the call that made it makes a new one when it comes again."""
        request = lease.spec.tenant, lease.spec.request_id
        if self._requests.get(request) == lease.spec.lease_id:  # else it has made another one since
            del self._requests[request]

    def wait(self, lease: Lease, lines: tuple[str, ...], waits_for: str) -> None:
        """Have a lease wait in these lines."""
        spec = lease.spec
        lease.waits_for = waits_for
        self.waiters.add(spec.lease_id, lines, self.rank(spec.priority, lease.created), lease.created)
        if spec.wait_s is not None:
            self._waits.set(spec.lease_id, lease.created + spec.wait_s)
        self._tell(lease, None)

    def lack(self, lease: Lease, words: str) -> None:
        """What a waiting lease waits for, as things stand."""
        if lease.waits_for != words:
            lease.waits_for = words
            self._touched[lease.spec.lease_id] = None

    def begin_instance(self, lease: Lease, instance_id: InstanceId) -> None:
        """An instance was started under a lease, to end with it."""
        lease.instances[instance_id] = None
        self._touched[lease.spec.lease_id] = None

    def end_instance(self, lease_id: LeaseId, instance_id: InstanceId) -> None:
        """An instance under a lease is gone; the lease may be known no longer."""
        if (lease := self.known.get(lease_id)) is not None and instance_id in lease.instances:
            del lease.instances[instance_id]
            self._touched[lease_id] = None

    def tell(self) -> None:
        """Tell of what has changed with this event of leases that hold or wait, besides their states, and of lines."""
        if not self._touched and not self.waiters.moved:
            return
        for lease_id in self._touched:
            if (lease := self.known.get(lease_id)) is not None and not terminal(LEASE_TABLE, lease.state):
                self._tell(lease, None)
        self._out += map(LineChanged, self.waiters.moved)
        self._touched.clear()
        self.waiters.moved.clear()

    def rank(self, priority: Priority, created: float) -> float:
        """Where a waiter stands: its arrival, earlier by `aging_s` for each class."""
        return created - priority * self._limits.aging_s

    def grant(self, lease: Lease, now: float) -> None:
        """A lease holds: its TTL begins anew."""
        self._granted += 1
        lease.fencing_token, lease.granted, lease.waits_for = self._granted, now, ""
        self._waits.cancel(lease.spec.lease_id)
        self._extend(lease, now)
        self._move(lease, LeaseChange.GRANT)

    def keep_alive(self, lease_id: LeaseId, tenant: Tenant, ttl_s: float | None, now: float) -> None:
        """Let a lease hold for its TTL, or a new one, from now on.

        Raises:
            LeaseNotFoundError: There is none, or it is another tenant's.
            LeaseEndedError: It has ended.
            InvalidFieldError: The TTL is outside its bounds.
        """
        lease = self.get(lease_id, tenant)
        if terminal(LEASE_TABLE, lease.state):
            raise _ended(lease, "create a new one")
        if ttl_s is not None:
            lease.ttl_s = self._check_ttl(ttl_s, "ttl")
        self._extend(lease, now)
        self._tell(lease, None)

    def end(self, lease: Lease, change: LeaseChange, now: float, error: InferdError | None = None) -> None:
        """A lease ends."""
        lease_id = lease.spec.lease_id
        if lease.state is LeaseState.ACTIVE:
            held_s = now - (lease.granted or now)
            self._held_s = held_s if self._held_s is None else self._held_s + LEARNING * (held_s - self._held_s)
        lease.ended, lease.error, lease.waits_for = now, error, ""
        self._move(lease, change)
        self._quotas.end_lease(lease.spec, now)
        self._expiries.cancel(lease_id)
        self._waits.cancel(lease_id)
        self._ended.add(lease_id, lease.spec.tenant, now)
        if (first := self._ended.excess()) is not None:
            self._forget(first)

    def pop_expired(self, now: float) -> Lease | None:
        """Take a lease whose TTL is over, or None."""
        lease_id = self._expiries.pop_due(now)
        return None if lease_id is None else self.known[lease_id]

    def pop_waited(self, now: float) -> Lease | None:
        """Take a lease that has waited for as long as it may, or None."""
        lease_id = self._waits.pop_due(now)
        return None if lease_id is None else self.known[lease_id]

    def _move(self, lease: Lease, change: LeaseChange) -> None:
        """The one place where a lease comes from one state to another; all else that changes with it is known."""
        before, lease.state = lease.state, advance(LEASE_TABLE, lease.state, change)
        self._index.move(lease, before)
        self._active += (lease.state is LeaseState.ACTIVE) - (before is LeaseState.ACTIVE)
        if terminal(LEASE_TABLE, lease.state):
            self._count(lease.spec.tenant, -1)
        self._tell(lease, change)

    def _tell(self, lease: Lease, change: LeaseChange | None) -> None:
        spec = lease.spec
        self._out.append(
            LeaseChanged(spec.lease_id, spec.tenant, change, lease.state, lease.fencing_token, lease.expires)
        )

    def _extend(self, lease: Lease, now: float) -> None:
        lease.expires = now + lease.ttl_s
        self._expiries.set(lease.spec.lease_id, lease.expires)

    def _check_count(self, tenant: Tenant) -> None:
        limit, total, have = self._limits.leases, self._living, self._living_of[tenant]
        free = limit - total
        if free < 1:
            raise LimitExceededError(
                f"{total} leases are held or wait and leases.leases is {limit}",
                metadata={"bound": "leases.leases", "value": str(total), "limit": str(limit)},
                retry_after_s=1.0,
            )
        if have + 1 > self._limits.tenant_share * free:
            raise LimitExceededError(
                f"tenant {tenant!r} has {have} leases that are held or wait, and may have "
                f"{self._limits.tenant_share:g} times the {free} that are left of {limit} (scheduler.tenant_share, "
                "leases.leases); release some, or try again later",
                metadata={"bound": "scheduler.tenant_share", "value": str(have), "free": str(free)},
                retry_after_s=1.0,
            )

    def _count(self, tenant: Tenant, more: int) -> None:
        """So many more leases of a tenant are held or wait."""
        self._living += more
        self._living_of[tenant] += more
        if not self._living_of[tenant]:
            del self._living_of[tenant]

    def _check_ttl(self, ttl_s: float, field: str) -> float:
        low, high = self._limits.min_ttl_s, self._limits.max_ttl_s
        if not low <= ttl_s <= high:
            raise InvalidFieldError(f"the TTL is {ttl_s:g} s; it must be from {low:g} s to {high:g} s", field=field)
        return ttl_s

    def _forget(self, lease_id: LeaseId) -> None:
        self._ended.drop(lease_id)
        lease = self.known.pop(lease_id)
        self._index.remove(lease)
        self.forget_request(lease)
        self._out.append(LeaseForgotten(lease_id))


def _ended(lease: Lease, fix: str) -> LeaseEndedError:
    lease_id, state = lease.spec.lease_id, lease.state.name
    return LeaseEndedError(
        f"lease {lease_id} is {state}; {fix}", metadata={"lease_id": lease_id, "state": state}, field="lease_id"
    )
