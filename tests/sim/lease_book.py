"""Leases as their holders see them: when each must end, and who may go before whom."""

import heapq
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf, nextafter

from device_book import DeviceBook, Share
from rules import BrokenRuleError, Rule
from tally import Tally
from task_book import Place

from inferd.core.capacity import MOST_PASSING
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import CoresClaim, Lease, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.leases import LeaseLimits
from inferd.core.priority import Priority

PENDING = LeaseState.PENDING
LIVING = (PENDING, LeaseState.ACTIVE)


@dataclass(slots=True)
class Held:
    """A lease, pending, active or ended and not yet forgotten; what is shown of it to its holder."""

    spec: LeaseSpec
    shown: Lease
    ttl_s: float
    created: float
    ends: float
    state: LeaseState = LeaseState.PENDING
    token: int = 0
    lines: tuple[str, ...] = ()
    tasks: dict[TaskId, None] = field(default_factory=dict)

    def shares(self) -> dict[DeviceId, Share]:
        shares: dict[DeviceId, Share] = {}
        for claim in self.spec.claims:
            match claim:
                case MemoryClaim():
                    shares.setdefault(claim.device_id, Share()).size_bytes += claim.memory_bytes
                case CoresClaim():
                    shares.setdefault(claim.device_id, Share()).cores += claim.cores
                case ModelClaim():
                    pass
        return shares


def lines_of(spec: LeaseSpec) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for claim in spec.claims:
        match claim:
            case MemoryClaim():
                names[f"memory {claim.device_id}"] = None
            case CoresClaim():
                names[f"cores {claim.device_id}"] = None
            case ModelClaim():
                names[f"model {claim.model}"] = None
    return tuple(names)


class LeaseBook:
    """All leases, and the lines of those who wait. One writer: the mirror."""

    def __init__(self, limits: LeaseLimits, devices: DeviceBook) -> None:
        self.known: dict[LeaseId, Held] = {}
        self.grants = 0
        self.ends: Counter[LeaseState] = Counter()
        self.retained = 0
        self.living = Tally("leases are held or wait")
        self.waiting: dict[str, dict[str, float]] = {}  # lines: who waits, with its rank
        self.touched: dict[str, None] = {}
        self._limits = limits
        self._devices = devices
        self._needs: dict[str, tuple[DeviceId, int]] = {}
        self._ends: list[tuple[float, LeaseId]] = []
        self._waits: list[tuple[float, LeaseId]] = []
        self._since = dict[str, float]()  # when instances came to wait
        self._unsure = dict[str, None]()
        self._token = 0
        self._ended: dict[LeaseId, None] = {}
        self._grew: Tenant | None = None  # whose lease the event made

    def created(self, lease: Lease, now: float) -> None:
        spec = lease.spec
        ttl_s = self._limits.default_ttl_s if spec.ttl_s is None else spec.ttl_s
        held = self.known[spec.lease_id] = Held(spec, lease, ttl_s, now, now + ttl_s)
        self.living.add(spec.tenant, 1)
        self._grew = spec.tenant
        self._set(spec.lease_id, held, now)
        if spec.wait_s is not None:
            heapq.heappush(self._waits, (now + spec.wait_s, spec.lease_id))

    def kept_alive(self, lease_id: LeaseId, ttl_s: float | None, now: float) -> None:
        held = self.known[lease_id]
        if held.state not in LIVING:
            raise BrokenRuleError(Rule.ENDED, f"lease {lease_id} was kept alive after its end")
        held.ttl_s = held.ttl_s if ttl_s is None else ttl_s
        self._set(lease_id, held, now)

    def told(self, lease_id: LeaseId, now: float, *, released: bool, lost: bool) -> None:
        """A lease has changed.

        Args:
            lease_id: The lease.
            now: The time.
            released: Its holder has just released it, or the kernel shuts down.
            lost: A host has just been lost, or left, of which it claims a part.
        """
        held = self.known[lease_id]
        lease = held.shown
        if held.state is PENDING and not held.lines:
            held.lines = lines_of(held.spec)
            self._enter(lease_id, held.lines, self._rank(held.spec.priority, held.created))
        elif held.state is PENDING and lease.granted is not None:
            self._grant(lease, held, now)
        elif held.state is lease.state is PENDING:
            pass
        elif held.state not in LIVING:
            raise BrokenRuleError(Rule.ENDED, f"lease {lease_id} is {lease.state.name} after it was {held.state.name}")
        elif held.state is not lease.state:
            self._end(lease, held, now, told_why=lost, released=released)

    def forgotten(self, lease_id: LeaseId) -> None:
        if self.known.pop(lease_id).state in LIVING:
            raise BrokenRuleError(Rule.ENDED, f"lease {lease_id} was forgotten before its end")
        self.retained -= 1

    def instance_waits(self, place: Place, need_bytes: int, now: float) -> None:
        """An instance waits for memory of a device: where the first lease stands that waits for its model, at least."""
        self._since[place.instance_id] = now
        if f"model {place.model}" in self.waiting or f"model {place.model}" in self.touched:
            self._unsure[place.instance_id] = None  # where it stands: that lease may have come or gone with this event
        self._needs[place.instance_id] = (place.device_id, need_bytes)
        leases = self.waiting.get(f"model {place.model}", {}).values()
        rank = min([self._rank(Priority.NORMAL, place.created), *(nextafter(rank, -inf) for rank in leases)])
        self._enter(place.instance_id, (f"memory {place.device_id}",), rank)

    def instance_left(self, instance_id: InstanceId, device_id: DeviceId) -> None:
        """An instance waits no more."""
        self._needs.pop(instance_id, None)
        self._leave(instance_id, (f"memory {device_id}",))

    def instance_stops(self, instance_id: InstanceId) -> None:
        """An instance that waits is stopped: it stands in its line until its worker is gone, and wants nothing."""
        self._needs.pop(instance_id, None)

    def first_of(self, device_id: DeviceId) -> tuple[float, int] | None:
        """Since when the first in the line for the memory of a device waits, and for how much.

        None where nobody waits, and where the first wants other things, too.
        """
        waiting = self.waiting.get(f"memory {device_id}", {})
        if not waiting:
            return None
        first = sorted(waiting, key=lambda each: waiting[each])[:MOST_PASSING]
        leases = {key: held for key in first if (held := self.known.get(LeaseId(key))) is not None}
        if any(key in self._unsure or (key not in leases and key not in self._needs) for key in first):
            return None
        since = min(leases[key].created if key in leases else self._since[key] for key in first)
        if (held := leases.get(first[0])) is None:
            return since, self._needs[first[0]][1]
        return (since, held.shares()[device_id].size_bytes) if len(held.lines) == 1 else None

    def holds_part(self, model: ModelName) -> bool:
        """Whether a lease holds a part of a model."""
        active = (held for held in self.known.values() if held.state is LeaseState.ACTIVE)
        return any(isinstance(c, ModelClaim) and c.model == model for held in active for c in held.spec.claims)

    def check_lost(self, device_ids: Collection[DeviceId]) -> None:
        """No lease holds anything of devices that are lost."""
        for lease_id, held in self.known.items():
            if held.state is LeaseState.ACTIVE and not held.shares().keys().isdisjoint(device_ids):
                raise BrokenRuleError(Rule.LOSS, f"lease {lease_id} goes on, which holds something of {device_ids}")

    def leave(self, lease_id: LeaseId) -> None:
        """A lease waits no more."""
        self._leave(lease_id, self.known[lease_id].lines)

    def check(self, now: float, alarm: float | None) -> None:
        """What must hold after an event."""
        for lease_id in self._ended:
            held = self.known.get(lease_id)
            if held is not None and held.tasks:
                text = f"task {next(iter(held.tasks))} goes on after the end of lease {lease_id}"
                raise BrokenRuleError(Rule.ENDED, text)
        self._ended.clear()
        if self._grew is not None:
            self.living.check(self._grew, self._limits.leases, self._limits.tenant_share, 1, beside=0)
            self._grew = None
        if alarm is not None and alarm <= now:
            raise BrokenRuleError(Rule.LATE, f"what was due at {alarm} was not done at {now}")
        self._check_times(self._ends, now, alarm)
        self._check_times(self._waits, now, alarm)
        for line in self.touched:
            if len(waiting := self.waiting.get(line, ())) == 1:
                self._check_served(next(iter(waiting)))
        self.touched.clear()
        if self.retained > self._limits.retained:
            raise BrokenRuleError(Rule.BOUND, f"{self.retained} ended leases are retained")

    def _check_times(self, times: list[tuple[float, LeaseId]], now: float, alarm: float | None) -> None:
        """What has to end has ended, and an alarm is set for what has to end next."""
        ends = times is self._ends
        while times:
            at, lease_id = times[0]
            held = self.known.get(lease_id)
            if held is not None and ((held.state in LIVING and held.ends == at) if ends else held.state is PENDING):
                if at <= now:
                    raise BrokenRuleError(Rule.LATE, f"lease {lease_id} had to end at {at}, and goes on at {now}")
                if alarm is None or alarm > at:
                    raise BrokenRuleError(Rule.LATE, f"lease {lease_id} ends at {at}, the next alarm is at {alarm}")
                return
            heapq.heappop(times)

    def _check_served(self, key: str) -> None:
        """Who is alone in all of its lines does not wait for what is free."""
        devices = self._devices.devices
        if key in self._needs:
            device_id, need_bytes = self._needs[key]
            wanted = {device_id: Share(need_bytes)}
            lines: tuple[str, ...] = (f"memory {device_id}",)
        elif (held := self.known.get(LeaseId(key))) is not None:
            wanted, lines = held.shares(), held.lines
        else:
            return
        if any(len(self.waiting[line]) > 1 or line.startswith("model ") for line in lines):
            return
        if all(
            share.size_bytes <= devices[device_id].free_bytes and share.cores <= devices[device_id].free_cores
            for device_id, share in wanted.items()
        ):
            raise BrokenRuleError(Rule.IDLE, f"{key} waits for what is free")

    def _end(self, lease: Lease, held: Held, now: float, *, told_why: bool, released: bool) -> None:
        before, held.state = held.state, lease.state
        lease_id = lease.spec.lease_id
        if lease.state is LeaseState.EXPIRED and now < held.ends and not told_why:
            raise BrokenRuleError(Rule.EARLY, f"lease {lease_id} expired at {now}, {held.ends - now} s early")
        waited = held.spec.wait_s is not None and now >= held.created + held.spec.wait_s
        in_vain = told_why or any(isinstance(c, ModelClaim) for c in held.spec.claims)  # it could not be loaded
        taken = lease.state is LeaseState.RELEASED and not released
        if taken or (lease.state is LeaseState.REFUSED and not waited and not in_vain):
            raise BrokenRuleError(Rule.EARLY, f"lease {lease_id} became {lease.state.name} without a reason")
        self.leave(lease_id)
        self.living.add(held.spec.tenant, -1)
        self.ends[lease.state] += 1
        self.retained += 1
        self._ended[lease_id] = None
        if before is LeaseState.ACTIVE:
            self._devices.end(lease_id)

    def _grant(self, lease: Lease, held: Held, now: float) -> None:
        lease_id = lease.spec.lease_id
        rank = self._rank(held.spec.priority, held.created)
        for line in held.lines or lines_of(held.spec):
            waiting = [
                item for item in self.waiting.get(line, {}).items() if item[0] in self._needs or item[0] in self.known
            ]
            before = [key for key, its_rank in waiting if its_rank < rank and key != lease_id]
            if before and not self._leaves(line, (lease_id, *before)):
                text = f"{lease_id} of rank {rank} takes of what {before[:3]} wait for in the line for {line}"
                raise BrokenRuleError(Rule.ORDER, text)
        self.leave(lease_id)
        held.state = LeaseState.ACTIVE
        self.grants += 1
        if lease.fencing_token <= self._token:
            text = f"lease {lease_id} has token {lease.fencing_token} after {self._token}"
            raise BrokenRuleError(Rule.FENCING, text)
        self._token = held.token = lease.fencing_token
        self._set(lease_id, held, now)
        self._devices.claim(lease_id, held.shares())

    def _leaves(self, line: str, keys: tuple[str, ...]) -> bool:
        """Whether all these could have what they want of a line."""
        what, _, name = line.partition(" ")
        if what == "model":
            return False
        device = self._devices.devices[DeviceId(name)]
        wants = [self.want(key, DeviceId(name)) for key in keys]
        if what == "memory":
            return sum(share.size_bytes for share in wants) <= device.free_bytes
        return sum(share.cores for share in wants) <= device.free_cores

    def want(self, key: str, device_id: DeviceId) -> Share:
        """What a waiter wants of a device."""
        if key in self._needs:
            return Share(self._needs[key][1])
        held = self.known.get(LeaseId(key))  # None for an instance that is being stopped
        return Share() if held is None else held.shares().get(device_id, Share())

    def _set(self, lease_id: LeaseId, held: Held, now: float) -> None:
        held.ends = now + held.ttl_s
        heapq.heappush(self._ends, (held.ends, lease_id))

    def _rank(self, priority: Priority, created: float) -> float:
        return created - priority * self._limits.aging_s

    def _enter(self, key: str, lines: tuple[str, ...], rank: float) -> None:
        for line in lines:
            self.waiting.setdefault(line, {})[key] = rank
            self.touched[line] = None

    def _leave(self, key: str, lines: tuple[str, ...]) -> None:
        for line in lines:
            self.touched[line] = None
            if key in (waiting := self.waiting.get(line, {})):
                del waiting[key]
                if not waiting:
                    del self.waiting[line]
