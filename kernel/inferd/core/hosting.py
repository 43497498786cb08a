"""What becomes of all that hangs on a host when it comes, drains, is lost, comes back or leaves."""

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol, assert_never

from inferd.core import events
from inferd.core.broker import Broker
from inferd.core.capacity import Capacity
from inferd.core.commands import AbandonWorker, Reply
from inferd.core.fleet import Fleet
from inferd.core.host import LOCAL_HOST, Host, HostChange, HostState, check_facts, check_host_id, shown_host
from inferd.core.host_events import CordonHost, HostHolds, OrderHosts
from inferd.core.hosts import Hosts
from inferd.core.ids import DeviceId, HostId, ModelName
from inferd.core.lease import Lease, LeaseChange
from inferd.core.leases import Leases
from inferd.core.model import Instance, InstanceState, Model
from inferd.core.relocation import Relocation
from inferd.core.vain import claimants, too_large_leases, too_large_loads
from inferd.errors import InferdError, InvalidFieldError, LeaseUnavailableError, WorkerDiedError

NOT_BEGUN = (InstanceState.STARTING, InstanceState.WAITING)


class Owner(Protocol):
    """Who owns tasks and leases: the kernel machine."""

    def lose(self, instance: Instance, error: InferdError) -> None:
        """An instance is gone with its host: its tasks go on elsewhere."""

    def end_lease(self, lease: Lease, change: LeaseChange, error: InferdError | None = None) -> None:
        """End a lease, with all that hangs on it."""

    def reconcile(self, model: Model) -> None:
        """Have workers brought up where somebody waits for them."""

    def free(self, name: ModelName) -> None:
        """A model may have places to give."""

    def outgrow(self, instance: Instance) -> None:
        """An instance waits for more than its device has at all any more."""

    def fail_waiting(self, name: ModelName, error: InferdError) -> None:
        """A model cannot be loaded: whatever waits for it ends."""


class Hosting:
    """Carries out events of hosts. One writer: the kernel machine."""

    def __init__(
        self,
        hosts: Hosts,
        fleet: Fleet,
        leases: Leases,
        capacity: Capacity,
        *,
        broker: Broker,
        owner: Owner,
        out: list[Reply],
    ) -> None:
        self._hosts = hosts
        self._broker = broker
        self._fleet = fleet
        self._leases = leases
        self._capacity = capacity
        self._owner = owner
        self._out = out
        self._relocation = Relocation(fleet, broker)

    def tell(self, event: events.HostTold, now: float) -> None:
        """Something happens to a host; what was heard of it too late changes nothing.

        Raises:
            InvalidFieldError: What a host says of itself is too much, or nothing that one can say.
        """
        host = self._hosts.known.get(event.host_id)
        match event:
            case events.HostFound():
                self._found(event.host_id, now)
            case events.HostJoined():
                self._joined(event, now)
            case events.HostLost():
                if host is not None and host.state is not HostState.LOST:
                    self._lose(host, HostChange.LOSE, event.why, now)
            case events.HostLeft():
                if host is not None:
                    self._leave(host, now)
            case HostHolds():
                if host is not None:
                    check_facts(facts := replace(host.facts, holds=event.holds), len(host.devices))
                    self._hosts.equip(host, (), facts)
            case _:
                assert_never(event)

    def order(self, event: events.HostOrder, now: float) -> None:
        """An operator wants something of a host.

        Raises:
            InvalidFieldError: The host is not known, or is in no state for that.
        """
        match event:
            case OrderHosts():
                self._hosts.orders.update(event.orders)
            case CordonHost():
                self._cordon(self._hosts.get(event.host_id), now)
            case events.DrainHost():
                self._drain(self._hosts.get(event.host_id), now)
            case events.ResumeHost():
                self._resume(self._hosts.get(event.host_id), now)
            case _:
                assert_never(event)

    def _found(self, host_id: HostId, now: float) -> Host:
        host = self._hosts.known.get(host_id)
        if host is None:
            if host_id != LOCAL_HOST:
                check_host_id(host_id)
            return self._hosts.add(host_id, now)
        if host.state is HostState.LOST:
            host.why = ""
            self._hosts.move(host, HostChange.RETURN, now)
        return host

    def _joined(self, event: events.HostJoined, now: float) -> None:
        check_facts(event.facts, len(event.devices))
        host = self._found(event.host_id, now)
        if host.state is HostState.JOINING:
            self._forget_devices(host, self._hosts.missing(host, event.devices))
        self._hosts.equip(host, event.devices, event.facts)
        self._refuse_too_large(host)
        if host.state is HostState.JOINING:
            self._hosts.move(host, self._hosts.orders.get(host.host_id, HostChange.JOIN), now)
        if host.state is HostState.READY:
            self._reconcile_on(host, now)

    def _cordon(self, host: Host, now: float) -> None:
        """No new instance, and no load goes on there that has not begun; what is READY stays."""
        if host.state is HostState.CORDONED:
            return
        _check(host, HostState.READY)
        self._hosts.orders[host.host_id] = HostChange.CORDON
        self._hosts.move(host, HostChange.CORDON, now)
        models = self._close(host)
        for instance_id in tuple(host.instances):
            if (instance := self._fleet.instances[instance_id]).state in NOT_BEGUN:
                self._fleet.leave(instance)
        for model in models:
            self._owner.reconcile(model)

    def _drain(self, host: Host, now: float) -> None:
        """No new instance, no new task but those of leases; who has nothing to do goes at once.

        An instance that is used, and that no other one could stand in for, takes tasks until another one is READY
        elsewhere, where there is room for that now.
        """
        if host.state is HostState.DRAINING:
            return
        _check(host, HostState.READY, HostState.CORDONED)
        self._hosts.orders[host.host_id] = HostChange.DRAIN
        self._hosts.move(host, HostChange.DRAIN, now)
        models = self._close(host)
        for instance_id in tuple(host.instances):
            instance = self._fleet.instances[instance_id]
            if not self._relocation.begin(instance, now):
                self._fleet.leave(instance)
        for model in models:
            self._owner.reconcile(model)

    def _resume(self, host: Host, now: float) -> None:
        if host.state is HostState.READY:
            return
        _check(host, HostState.DRAINING, HostState.CORDONED)
        self._hosts.orders.pop(host.host_id, None)
        self._hosts.move(host, HostChange.RESUME, now)
        for instance_id in tuple(host.instances):
            instance = self._fleet.instances[instance_id]
            self._relocation.stay(instance)
            self._fleet.stay(instance)
            self._owner.free(instance.model)
        self._reconcile_on(host, now)

    def settle(self) -> None:
        """Instances go whose stand-ins are READY, or will not be."""
        for instance in self._relocation.settle():
            self._fleet.leave(instance)
            self._owner.free(instance.model)

    def _lose(self, host: Host, change: HostChange, why: str, now: float) -> None:
        """Whatever was there is no more: tasks go on elsewhere, and leases of what it had end."""
        self._hosts.move(host, change, now)
        host.why = why
        error = WorkerDiedError(f"host {host.host_id!r} is lost: {why}", metadata={"host": host.host_id, "cause": why})
        models = self._close(host)
        for instance_id in tuple(host.instances):
            self._out.append(AbandonWorker(instance_id, error.message))
            self._owner.lose(self._fleet.instances[instance_id], error)
        for lease in self._capacity.lessees(host.devices):
            self._owner.end_lease(lease, LeaseChange.LOSE, LeaseUnavailableError(error.message))
        for model in models:
            self._owner.free(model.spec.name)
            self._owner.reconcile(model)

    def _leave(self, host: Host, now: float) -> None:
        """A host is gone for good: nobody waits for it any longer."""
        if host.state is HostState.LOST:
            self._hosts.move(host, HostChange.LEAVE, now)
        else:
            self._lose(host, HostChange.LEAVE, "it has left", now)
        self._forget_devices(host, tuple(host.devices))
        self._hosts.forget(host)

    def _forget_devices(self, host: Host, device_ids: Collection[DeviceId]) -> None:
        """Some devices of a host that has no instances are gone for good: nobody waits for them any longer."""
        for lease in claimants(device_ids, self._leases):
            gone = LeaseUnavailableError(f"{' and '.join(device_ids)} has left for good, of which it claims a part")
            self._owner.end_lease(lease, LeaseChange.REFUSE, gone)
        self._capacity.forget_devices(device_ids)
        concerned = self._users(device_ids)
        self._hosts.strip(host, device_ids)
        for model in concerned:
            if (error := self._fleet.strand(model)) is not None:
                for lease_id in tuple(model.leases):
                    self._owner.end_lease(self._leases.known[lease_id], LeaseChange.LOSE, error)
                self._owner.fail_waiting(model.spec.name, error)

    def _refuse_too_large(self, host: Host) -> None:
        """A host may have less than before: who waits for more than that waits in vain."""
        among = (self._leases, self._broker, self._fleet)
        for lease, why in too_large_leases(host.devices, *among):
            self._owner.end_lease(lease, LeaseChange.REFUSE, LeaseUnavailableError(why))
        for instance in too_large_loads(host.devices, *among):
            self._owner.outgrow(instance)

    def _close(self, host: Host) -> list[Model]:
        """The devices of a host give nothing any more; the models that have instances there."""
        self._capacity.close(host.devices)
        names = dict.fromkeys(self._fleet.instances[i].model for i in host.instances)
        return [self._fleet.models[name] for name in names]

    def _reconcile_on(self, host: Host, now: float) -> None:
        """A host takes instances: those of models that waited for one; and leases get what they wait for."""
        self._capacity.reopen(host.devices, now)
        for model in self._users(host.devices):
            self._owner.reconcile(model)

    def _users(self, device_ids: Collection[DeviceId]) -> list[Model]:
        """The models that may use one of some devices."""
        models = self._fleet.models
        return [models[spec.name] for spec in self._broker.atlas.users((m.spec for m in models.values()), device_ids)]


def _check(host: Host, *states: HostState) -> None:
    if host.state not in states:
        wanted, name = " or ".join(state.name for state in states), shown_host(host.host_id)
        raise InvalidFieldError(f"host {name!r} is {host.state.name}, not {wanted}", field="host_id")
