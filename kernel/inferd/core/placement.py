"""Where a model is loaded: chosen at each start, of the devices that it may use.

First comes where it fits what is free, then where the least has to give way to it, then where fewer of its own
instances are, on the host and on the device, then where its files are, then where more is free, then the order of its
backend. A model that packs takes where less is free, and its own instances do not count. Loads that have begun count as
if they had their memory. One that turns out to have to wait where it is goes on to a device where it would not have to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import TYPE_CHECKING

from inferd.core.host import host_of
from inferd.core.placement_rules import PlacementStrategy
from inferd.core.resources import MemoryNeed, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferd.core.broker import Broker
    from inferd.core.ids import DeviceId, HostId, LeaseId
    from inferd.core.model import Instance, ModelSpec


@dataclass(slots=True)
class Own:
    """How many instances of a model there are, or come, where."""

    on: Counter[DeviceId] = field(default_factory=Counter)
    on_host: Counter[HostId] = field(default_factory=Counter)

    @classmethod
    def of(cls, instances: Iterable[Instance]) -> Own:
        """Of these that live."""
        own = cls()
        for instance in instances:
            if instance.living:
                own.on[instance.device_id] += 1
                own.on_host[host_of(instance.device_id)] += 1
        return own


@dataclass(slots=True, kw_only=True)  # frozen it would take three times as long to make
class Site:
    """A device, as one start of a model finds it. Nobody changes it.

    Attributes:
        device_id: The device.
        beside: Those of its host that a start that spans devices takes with it; what follows is of the worst of them.
        most_bytes: What it could be given there at all.
        need_bytes: What it needs there, as far as that is known.
        room_bytes: What is free there, or in the lease that it starts under, less what loads that have begun will take.
        idle_bytes: What idle instances would make free, and those that are being stopped.
        own: Instances of the model that are there, or come.
        host_own: Those on the whole host.
        has_files: Whether the host tells that it has the model's files.
        packs: Whether less free memory is better than more, and own instances count nothing.
    """

    device_id: DeviceId
    most_bytes: int
    need_bytes: int
    room_bytes: int
    idle_bytes: int = 0
    own: int = 0
    host_own: int = 0
    has_files: bool = True
    packs: bool = False
    beside: tuple[DeviceId, ...] = ()

    @property
    def too_large(self) -> bool:
        """Whether it could never be loaded there."""
        return self.need_bytes > self.most_bytes

    @property
    def yielded_bytes(self) -> int:
        """What has to give way, idle or not."""
        return max(0, self.need_bytes - self.room_bytes)

    @property
    def lacking_bytes(self) -> int:
        """What busy instances, leases or other programs have to give back."""
        return max(0, self.yielded_bytes - self.idle_bytes)

    @property
    def rank(self) -> tuple[bool, int, int, int, int, bool, int]:
        """What speaks against it, the heaviest first."""
        yielded = max(0, self.need_bytes - self.room_bytes)
        waits = self.need_bytes > self.most_bytes, max(0, yielded - self.idle_bytes), yielded
        if self.packs:
            return *waits, 0, 0, not self.has_files, self.room_bytes
        return *waits, self.host_own, self.own, not self.has_files, -self.room_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a start goes.

    Attributes:
        device_id: The device.
        at_once: Whether it fits what is free there.
        reason: Why there, for people.
        beside: Other devices that it takes.
    """

    device_id: DeviceId
    at_once: bool
    reason: str
    beside: tuple[DeviceId, ...] = ()


def look(
    broker: Broker, device_id: DeviceId, need: MemoryNeed, spec: ModelSpec, *, own: Own, lease_id: LeaseId
) -> Site:
    """A device as it stands, for a start of a model under a lease or under none."""
    account, room_bytes = broker.account(device_id), broker.room_bytes(device_id, lease_id)
    most_bytes, idle_bytes = account.capacity_bytes, account.idle_bytes + account.stopping_bytes
    if lease_id:
        most_bytes, idle_bytes = room_bytes, 0
    else:
        room_bytes -= account.expected_bytes
    return Site(
        device_id=device_id,
        most_bytes=most_bytes,
        need_bytes=need.total_bytes,
        room_bytes=room_bytes,
        idle_bytes=idle_bytes,
        own=own.on[device_id],
        host_own=own.on_host[host_of(device_id)],
        has_files=broker.atlas.holds(device_id, spec),
        packs=spec.placement.strategy is PlacementStrategy.PACK,
    )


def is_misplaced(site: Site, others: Iterable[Site]) -> bool:
    """Whether a start that has to wait where it is, or does not fit there at all, would do better elsewhere."""
    return any(
        (site.too_large and not other.too_large) or (site.yielded_bytes and not other.yielded_bytes) for other in others
    )


def choose(sites: Sequence[Site]) -> Placement:
    """The best of the devices that a model may use, in the order of its backend; there is one."""
    ranked = nsmallest(2, ((site.rank, at, site) for at, site in enumerate(sites)))
    best = ranked[0][2]
    reason = "the only device that it may use" if len(ranked) == 1 else _compare(best, ranked[1][2])
    return Placement(device_id=best.device_id, at_once=not best.yielded_bytes, reason=reason, beside=best.beside)


def _compare(best: Site, other: Site) -> str:
    """What decided between the best and the next best."""
    there = other.device_id
    if best.rank == other.rank:
        return f"as good as {there}, and named before it by the backend"
    mine = size_text(best.lacking_bytes) if best.lacking_bytes else "nothing"
    gives = f"{size_text(best.yielded_bytes)} has to give way" if best.yielded_bytes else "it fits what is free"
    packs = ", and it packs" if best.packs else ""
    words = (
        f"{there} has {size_text(other.most_bytes)} to give at most, {size_text(other.need_bytes)} is needed",
        f"{mine} that others use has to be given back, on {there} {size_text(other.lacking_bytes)}",
        f"{gives}, on {there} {size_text(other.yielded_bytes)} has to give way",
        f"it has {best.host_own} instances on that host, on that of {there} {other.host_own}",
        f"it has {best.own} instances there, on {there} {other.own}",
        f"the host has its files from before, that of {there} not",
        f"{_free(best)} is free, on {there} {_free(other)}{packs}",
    )
    return next(said for said, own, its in zip(words, best.rank, other.rank, strict=True) if own != its)


def _free(site: Site) -> str:
    return size_text(max(0, site.room_bytes))
