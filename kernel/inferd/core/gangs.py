"""Instances that span devices: which of a host's they take together, and whether there is room on all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.core.atlas import kind_of
from inferd.core.host import host_of, name_of
from inferd.core.resources import HOST_DEVICE
from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from inferd.core.broker import Broker
    from inferd.core.ids import DeviceId, InstanceId, LeaseId
    from inferd.core.model import Instance, ModelSpec
    from inferd.core.placement import Site
    from inferd.core.plan import LoadPlan
    from inferd.core.resources import MemoryNeed


def others_of(broker: Broker, lead: DeviceId, spec: ModelSpec, lease_id: LeaseId) -> list[DeviceId]:
    """The devices of a host that are like one of it and that a model may use, too; of a lease what it holds."""
    atlas, kind = broker.atlas, kind_of(name_of(lead))
    bits = atlas.may(spec) & atlas.of_host(host_of(lead)) & ~atlas.bits_of((lead,))
    if lease_id:
        bits &= atlas.bits_of(broker.leased(lease_id))
    return [device_id for device_id in atlas.listed(bits, spec) if kind_of(name_of(device_id)) == kind]


def may_lead(broker: Broker, lead: DeviceId, spec: ModelSpec, lease_id: LeaseId) -> bool:
    """Whether a host has as many devices that take something as a start needs that begins with one of them."""
    others = others_of(broker, lead, spec, lease_id)
    return sum(bool(lease_id) or broker.devices[device_id].open for device_id in others) >= spec.span - 1


def together(first: Site, others: Sequence[Site], *, count: int) -> Site:
    """A device as a start finds it that begins there and takes so many others with it: those that suit it best.

    What is told of it is what is worst of any of them.
    """
    chosen = sorted(others, key=lambda site: site.rank)[:count]
    worst = max((first, *chosen), key=lambda site: site.rank)
    return replace(worst, device_id=first.device_id, own=first.own, beside=tuple(site.device_id for site in chosen))


def room_bytes(broker: Broker, instance: Instance) -> int:
    """What an instance could be given now of each of its devices."""
    return min(broker.room_bytes(device_id, instance.lease_id) for device_id in instance.device_ids)


def evictions(
    broker: Broker, device_ids: Sequence[DeviceId], wanted_bytes: int, *, keep: Collection[InstanceId] = ()
) -> tuple[InstanceId, ...] | None:
    """The idle instances to stop that make room on all of some devices; None when all are not enough."""
    found: dict[InstanceId, None] = {}
    for device_id in device_ids:
        if (these := broker.evictions(device_id, wanted_bytes, keep=keep)) is None:
            return None
        found |= dict.fromkeys(these)
    return tuple(found)


def plan(broker: Broker, device_ids: Sequence[DeviceId], need: MemoryNeed) -> LoadPlan:
    """What giving an instance what it needs of each of some devices would take: the plan of the one that hinders most.

    Raises:
        InvalidFieldError: There is no such device.
    """
    plans = [broker.plan(device_id, need) for device_id in device_ids]
    if len(plans) == 1:
        return plans[0]
    worst = min(plans, key=lambda each: (each.fits, each.capacity_bytes >= need.total_bytes, each.free_bytes))
    evicted = dict.fromkeys(instance_id for each in plans for instance_id in each.evicted)
    busy = dict.fromkeys(instance_id for each in plans for instance_id in each.busy)
    leases = dict.fromkeys(lease_id for each in plans for lease_id in each.leases)
    return replace(
        worst,
        device_id=device_ids[0],
        beside=tuple(device_ids[1:]),
        evicted=tuple(evicted),
        busy=tuple(busy),
        leases=tuple(leases),
    )


def check_span(spec: ModelSpec, broker: Broker, where: str = "") -> None:
    """Refuse a model whose instances would span more devices than any known host has of a kind.

    Raises:
        InvalidFieldError: So it is; both numbers are named.
    """
    if spec.span == 1:
        return
    atlas = broker.atlas
    counts = Counter((host_of(d), kind_of(name_of(d))) for d in atlas.listed(atlas.may(spec), spec))
    if (most := max(counts.values(), default=0)) >= spec.span:
        return
    names = ", ".join(spec.devices)
    hint = ""
    if spec.devices == (HOST_DEVICE,):
        hint = "; a processor is one device: the setting `ranks` has several processes compute on it"
    raise InvalidFieldError(
        f"setting 'devices' is {spec.span}, and the host that has most of those that the model may use ({names}) has"
        f" {most}{hint}",
        field=f"{where}settings",
    )
