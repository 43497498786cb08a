"""Workers that outlived their kernel, or their host's link to it: which of them are instances again, without a load.

A host that joins tells of those that it has kept, before anything is given of its devices. One is adopted that is just
what would be loaded there: the version that serves, on devices that the model may use, and no more instances than may
be; one that has not begun to take tasks elsewhere makes way for it. One that still loads goes on with that. One that
was loaded under a lease is adopted where that lease holds, under the same fencing token, and is to have the model. What
it holds is reserved with that. Whatever else is there ends, and the host gives of its devices when that is gone. So
nothing is held twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.commands import AdoptWorker, RefuseWorker, Reply
from inferd.core.host import HostChange, HostState, device_on, host_of
from inferd.core.ids import InstanceId
from inferd.core.lease import LeaseState
from inferd.core.model import Instance, InstanceChange, InstanceState
from inferd.core.resources import size_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.core.broker import Broker
    from inferd.core.capacity import Capacity
    from inferd.core.fleet import Fleet
    from inferd.core.host import Host
    from inferd.core.host_events import HeldWorker
    from inferd.core.hosts import Hosts
    from inferd.core.ids import DeviceId
    from inferd.core.leases import Leases
    from inferd.core.model import Model

MOST_NUMBER = 1 << 31  # of an instance: a larger one is none that a kernel has given
MOST_TOLD = 3  # devices
LOADED = "it was loaded there already, and its host has kept it"
LOADS = "it was being loaded there, and its host has kept it"


class Adoption:
    """Decides on workers that a host has kept. One writer: `Hosting`."""

    def __init__(
        self, hosts: Hosts, fleet: Fleet, leases: Leases, capacity: Capacity, *, broker: Broker, out: list[Reply]
    ) -> None:
        self._hosts = hosts
        self._fleet = fleet
        self._leases = leases
        self._capacity = capacity
        self._broker = broker
        self._out = out

    def take(self, host: Host, workers: Iterable[HeldWorker], now: float) -> None:
        """A host that joins has kept these: those that ran most tasks first, which go on there with what it has.

        Those that still load come last.
        """
        for worker in sorted(workers, key=lambda each: (each.loading, -each.tasks)):
            if why := self._hinders(host, worker) or self._adopt(host, worker, now):
                self._out.append(RefuseWorker(host.host_id, worker.instance_id, why))

    def _hinders(self, host: Host, worker: HeldWorker) -> str:
        """Why a worker would not be started where it is; "" where it might be."""
        model = self._fleet.models.get(worker.model)
        if model is None or model.going:
            return f"model {worker.model!r} is not known"
        if worker.differs:
            return worker.differs
        drains = self._hosts.orders.get(host.host_id) is HostChange.DRAIN and not worker.lease_id
        if host.state is not HostState.JOINING or drains:
            return "its host takes no instances now"
        if worker.lease_id and (why := self._hinders_under(worker)):
            return why
        if model.gives_way:
            return "another version of its model is loaded in its place"
        return self._hinders_on(model, _devices(host, worker), is_shared=not worker.lease_id)

    def _hinders_under(self, worker: HeldWorker) -> str:
        """Why a worker would not be started under its lease; "" where it would be."""
        lease = self._leases.known.get(worker.lease_id)
        if lease is None or lease.state is not LeaseState.ACTIVE:
            return "its lease has ended"
        if lease.fencing_token != worker.fencing_token:
            return f"its lease was granted anew: its fencing token is {lease.fencing_token}, not {worker.fencing_token}"
        return "" if worker.model in lease.models else "its model is not loaded under its lease"

    def _hinders_on(self, model: Model, device_ids: tuple[DeviceId, ...], *, is_shared: bool) -> str:
        """Why no instance of a model would be on some devices; "" where one might be."""
        atlas, spec = self._broker.atlas, model.spec
        bits = atlas.bits_of(device_ids)
        if not device_ids or bits.bit_count() != len(device_ids) or bits & ~atlas.may(spec):
            return f"its model may not use {_some(device_ids)}"
        if len(device_ids) != spec.span:
            return f"it computes on {len(device_ids)} devices, and its model on {spec.span}"
        beside = (i for i in model.instances.values() if i.living and not i.leaving)
        if is_shared and spec.placement.apart and any(host_of(i.device_id) == host_of(device_ids[0]) for i in beside):
            return "another instance of its model is on its host, and they are to be apart"
        return ""

    def _adopt(self, host: Host, worker: HeldWorker, now: float) -> str:
        """Make a worker an instance; why that cannot be, "" where it is one."""
        model = self._fleet.models[worker.model]
        most = max(1, model.spec.max_instances)
        shared = () if worker.lease_id else model.shared  # those under leases do not count
        fresh = [instance for instance in shared if instance.state is not InstanceState.READY and not instance.adopted]
        if len(shared) >= most and not fresh:
            return f"its model has {len(shared)} instances, which are as many as may be"
        if (number := _number(worker)) <= model.instance_count:  # this kernel has given that to another one
            number = model.instance_count + 1
        device_id, *beside = _devices(host, worker)
        instance = Instance(
            instance_id=InstanceId(f"{model.spec.name}-{number}"),
            model=model.spec.name,
            version=model.serving.number,
            device_id=device_id,
            beside=tuple(beside),
            device_reason=LOADS if worker.loading else LOADED,
            adopted=True,
            lease_id=worker.lease_id,
            created=now,
        )
        if not self._capacity.take_over(instance, worker.need):
            left = "its lease has" if worker.lease_id else "others leave of its device"
            return f"it holds {size_text(worker.need.total_bytes)}, more than {left}"
        model.instance_count = number
        self._begin(model, instance, worker)
        self._fleet.reserved(instance, now)
        if len(shared) >= most:
            self._fleet.stop(fresh[-1])
        return ""

    def _begin(self, model: Model, instance: Instance, worker: HeldWorker) -> None:
        """It is as one whose memory is to be reserved; it is READY when it has said again what it has loaded."""
        register = self._fleet.register
        if worker.lease_id:
            lease = self._leases.known[worker.lease_id]
            del lease.models[model.spec.name]
            self._leases.begin_instance(lease, instance.instance_id)
        else:
            model.error = None
            self._fleet.retries.cancel(model.spec.name)
        command = AdoptWorker(
            instance.instance_id, model.spec, instance.device_id, worker.held_id, beside=instance.beside
        )
        self._out.append(command)
        register.add(instance)
        instance.need = worker.need
        register.move(instance, InstanceChange.NEED)
        model.serving.measured({instance.device_id: worker.need})


def _devices(host: Host, worker: HeldWorker) -> tuple[DeviceId, ...]:
    return tuple(device_on(host.host_id, device_id) for device_id in worker.device_ids)


def _some(device_ids: tuple[DeviceId, ...]) -> str:
    """Devices as a host says them, for people: not more than a few."""
    more = " and others" if len(device_ids) > MOST_TOLD else ""
    return ", ".join(device_ids[:MOST_TOLD]) + more or "no device"


def _number(worker: HeldWorker) -> int:
    """That of the instance which it held; 0 where that is none that a kernel gives."""
    name, _, number = worker.instance_id.rpartition("-")
    if name != worker.model or not (number.isascii() and number.isdigit()):
        return 0
    return found if (found := int(number[:12])) < MOST_NUMBER else 0
