"""What becomes of all that hangs on a host when it comes, drains, is lost, comes back or leaves."""

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol, assert_never

from inferd.core import events
from inferd.core.admission import is_awaited
from inferd.core.adoption import Adoption
from inferd.core.broker import Broker
from inferd.core.capacity import Capacity
from inferd.core.commands import AbandonWorker, Reply
from inferd.core.fleet import Fleet
from inferd.core.host import LOCAL_HOST, Host, HostChange, HostState, check_facts, check_host_id, shown_host
from inferd.core.host_events import AdoptWorkers, AwaitHosts, CordonHost, HostHolds, OrderHosts
from inferd.core.hosts import Hosts
from inferd.core.ids import DeviceId, HostId, ModelName
from inferd.core.lease import Lease, LeaseChange
from inferd.core.leases import Leases
from inferd.core.model import Instance, InstanceState, Model
from inferd.core.relocation import Relocation
from inferd.core.restoration import Restoration
from inferd.core.vain import claimants, too_large_leases, too_large_loads
from inferd.errors import InferdError, InvalidFieldError, LeaseUnavailableError, WorkerDiedError

AWAY = (HostState.JOINING, HostState.LOST)
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

    def fail_waiting(self, name: ModelName, error: InferdError, *, keep_detached: bool = False) -> None:
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
        restoration: Restoration,
        owner: Owner,
        out: list[Reply],
    ) -> None:
        self._hosts = hosts
        self._broker = broker
        self._fleet = fleet
        self._leases = leases
        self._capacity = capacity
        self._restoration = restoration
        self._owner = owner
        self._out = out
        self._relocation = Relocation(fleet, broker)
        self._adoption = Adoption(hosts, fleet, leases, capacity, broker=broker, out=out)
        self._missed: dict[ModelName, dict[HostId, None]] = {}  # that lack something, and hosts that served them
        self._bereft: dict[ModelName, None] = {}  # of which a host has left that may join at any moment

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
                self._hosts.orders.pop(event.host_id, None)
                if host is not None:
                    self._leave(host, now)
            case HostHolds():
                if host is not None:
                    check_facts(facts := replace(host.facts, holds=event.holds), len(host.devices))
                    self._hosts.equip(host, (), facts)
            case AdoptWorkers():
                check_facts(event.facts, len(event.devices))
                host = self._found(event.host_id, now)
                self._equip(host, event)
                self._adoption.take(host, event.workers, now)
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
            case AwaitHosts():
                self._await(waits=event.waits)
            case CordonHost():
                if (host := self._there(event.host_id, HostChange.CORDON)) is not None:
                    self._cordon(host, now)
            case events.DrainHost():
                if (host := self._there(event.host_id, HostChange.DRAIN)) is not None:
                    self._drain(host, now)
            case events.ResumeHost():
                if (host := self._there(event.host_id, HostChange.RESUME)) is not None:
                    self._resume(host, now)
            case _:
                assert_never(event)

    def _there(self, host_id: HostId, order: HostChange) -> Host | None:
        """The host that an order is for; None where it is not there: then it holds once it joins.

        Raises:
            InvalidFieldError: Nothing is known of it, nor was anything wanted of it.
        """
        if host_id not in self._hosts.orders or host_id in self._hosts.known:
            host = self._hosts.get(host_id)
            if host.state not in AWAY:
                return host
        if order is HostChange.RESUME:
            self._hosts.orders.pop(host_id, None)
        else:
            self._hosts.orders[host_id] = order
        return None

    def _await(self, *, waits: bool) -> None:
        """Hosts may join that were there before; or none has come in time, and who waits for one has waited enough."""
        atlas = self._broker.atlas
        awaited = [name for name, model in self._fleet.models.items() if is_awaited(model, atlas)]
        atlas.awaits = waits
        if not waits:
            self._fleet.doubtful |= dict.fromkeys(awaited)
            self._restoration.waited()
            bereft, self._bereft = self._bereft, {}
            for model in filter(None, map(self._fleet.models.get, bereft)):
                self._end(model)

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
        self._equip(host, event)
        self._refuse_too_large(host)
        self._miss_no_more(host)
        if host.state is HostState.JOINING:
            self._hosts.move(host, self._hosts.orders.get(host.host_id, HostChange.JOIN), now)
        if host.state is HostState.READY:
            self._reconcile_on(host, now)
        elif host.state is HostState.DRAINING:
            self._vacate(host, now)  # it may have adopted workers before it was to drain

    def _equip(self, host: Host, told: events.HostJoined | AdoptWorkers) -> None:
        """A host says which devices it has."""
        if host.state is HostState.JOINING:
            self._forget_devices(host, self._hosts.missing(host, told.devices))
        self._hosts.equip(host, told.devices, told.facts)
        self._restoration.returned(host)

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
        """It gives nothing any more; what is there goes."""
        if host.state is HostState.DRAINING:
            return
        _check(host, HostState.READY, HostState.CORDONED)
        self._hosts.orders[host.host_id] = HostChange.DRAIN
        self._hosts.move(host, HostChange.DRAIN, now)
        self._vacate(host, now)

    def _vacate(self, host: Host, now: float) -> None:
        """No new instance, no new task but those of leases; who has nothing to do goes at once.

        An instance that is used, and that no other one could stand in for, takes tasks until another one is READY
        elsewhere, where there is room for that now.
        """
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
        """Instances go whose stand-ins are READY, or will not be; and who waits in vain for a model is told so."""
        for instance in self._relocation.settle():
            self._fleet.leave(instance)
            self._owner.free(instance.model)

        for name in tuple(self._fleet.doubtful):
            self._doubt(name)

    def _doubt(self, name: ModelName) -> None:
        """Tasks of a model that lacks something end, unless a host may join that it lacks, or they outlive clients.

        Those that a lost host served go on with what that has kept, and wait until it is back without it, or removed.
        It may lack something only since they were taken, or was served by a worker that its host had kept. One whose
        host has just joined stays in doubt until what it lacks is seen anew.
        """
        model = self._fleet.models.get(name)
        if self._is_missed(name):
            del self._fleet.doubtful[name]
            return
        if model is not None and is_awaited(model, self._broker.atlas):
            if self._broker.atlas.awaits:
                del self._fleet.doubtful[name]
            return
        del self._fleet.doubtful[name]
        if model is not None and model.lacks and (error := self._fleet.strand(model)) is not None:
            self._owner.fail_waiting(name, error, keep_detached=True)

    def _is_missed(self, name: ModelName) -> bool:
        """Whether a host is away that served a model which can be loaded nowhere else."""
        known = self._hosts.known
        return any((host := known.get(each)) is not None and host.state in AWAY for each in self._missed.get(name, ()))

    def _miss_no_more(self, host: Host) -> None:
        """A host is back, or removed: it serves what it served, or does not."""
        for name in [name for name, hosts in self._missed.items() if host.host_id in hosts]:
            del self._missed[name][host.host_id]
            if not self._missed[name]:
                del self._missed[name]
            self._fleet.doubtful[name] = None

    def _lose(self, host: Host, change: HostChange, why: str, now: float) -> None:
        """Whatever was there is no more: tasks go on elsewhere, and leases of what it had end."""
        self._hosts.move(host, change, now)
        host.why = why
        for device_id in host.devices:  # once it is back it says what there is to give, beside what others hold by then
            self._broker.set_foreign(device_id, 0)
        error = WorkerDiedError(f"host {host.host_id!r} is lost: {why}", metadata={"host": host.host_id, "cause": why})
        models = self._close(host)
        if change is HostChange.LOSE:
            for model in models:
                if model.lacks:
                    self._missed.setdefault(model.spec.name, {})[host.host_id] = None
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
        self._miss_no_more(host)
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
            if self._broker.atlas.awaits:
                self._bereft[model.spec.name] = None
            else:
                self._end(model)

    def _end(self, model: Model) -> None:
        """What waits for a model ends, if that can be loaded nowhere any more."""
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
        raise InvalidFieldError(
            f"host {name!r} is {host.state.name}, not {wanted}; resume it first (`inferd hosts resume {name}`)",
            field="host_id",
        )
