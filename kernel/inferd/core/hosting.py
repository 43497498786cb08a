"""What becomes of all that hangs on a host when it comes, drains, is lost, comes back or leaves."""

from typing import Protocol, assert_never

from inferd.core import events
from inferd.core.capacity import Capacity
from inferd.core.commands import AbandonWorker, Reply
from inferd.core.fleet import Fleet
from inferd.core.host import Host, HostChange, HostState
from inferd.core.hosts import Hosts
from inferd.core.ids import HostId, ModelName
from inferd.core.lease import Lease, LeaseChange
from inferd.core.leases import Leases
from inferd.core.model import Instance, Model
from inferd.errors import InferdError, InvalidFieldError, LeaseUnavailableError, WorkerDiedError


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


class Hosting:
    """Carries out events of hosts. One writer: the kernel machine."""

    def __init__(
        self, hosts: Hosts, fleet: Fleet, leases: Leases, capacity: Capacity, *, owner: Owner, out: list[Reply]
    ) -> None:
        self._hosts = hosts
        self._fleet = fleet
        self._leases = leases
        self._capacity = capacity
        self._owner = owner
        self._out = out

    def tell(self, event: events.HostEvent, now: float) -> None:
        """Something happens to a host; what was heard of it too late changes nothing.

        Raises:
            InvalidFieldError: An operator's host is not known, or is neither READY nor DRAINING.
        """
        match event:
            case events.HostFound():
                self._found(event.host_id, now)
            case events.HostJoined():
                self._joined(event, now)
            case events.DrainHost():
                self._drain(self._hosts.get(event.host_id), now)
            case events.ResumeHost():
                self._resume(self._hosts.get(event.host_id), now)
            case events.HostLost():
                host = self._hosts.known.get(event.host_id)
                if host is not None and host.state is not HostState.LOST:
                    self._lose(host, HostChange.LOSE, event.why, now)
            case events.HostLeft():
                if (left := self._hosts.known.get(event.host_id)) is not None:
                    self._leave(left, now)
            case _:
                assert_never(event)

    def _found(self, host_id: HostId, now: float) -> Host:
        host = self._hosts.known.get(host_id)
        if host is None:
            return self._hosts.add(host_id, now)
        if host.state is HostState.LOST:
            self._hosts.move(host, HostChange.RETURN, now)
        return host

    def _joined(self, event: events.HostJoined, now: float) -> None:
        host = self._found(event.host_id, now)
        self._hosts.equip(host, event.devices)
        if host.state is HostState.JOINING:
            self._hosts.move(host, HostChange.JOIN, now)
        if host.state is HostState.READY:
            self._reconcile_on(host, now)

    def _drain(self, host: Host, now: float) -> None:
        """No new instance, no new task but those of leases; who has nothing to do goes at once."""
        if host.state is HostState.DRAINING:
            return
        _check(host, HostState.READY)
        self._hosts.move(host, HostChange.DRAIN, now)
        models = self._close(host)
        for instance_id in tuple(host.instances):
            self._fleet.leave(self._fleet.instances[instance_id])
        for model in models:
            self._owner.reconcile(model)

    def _resume(self, host: Host, now: float) -> None:
        if host.state is HostState.READY:
            return
        _check(host, HostState.DRAINING)
        self._hosts.move(host, HostChange.RESUME, now)
        for instance_id in host.instances:
            instance = self._fleet.instances[instance_id]
            self._fleet.stay(instance)
            self._owner.free(instance.model)
        self._reconcile_on(host, now)

    def _lose(self, host: Host, change: HostChange, why: str, now: float) -> None:
        """Whatever was there is no more: tasks go on elsewhere, and leases of what it had end."""
        self._hosts.move(host, change, now)
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
        for lease in self._capacity.waiting_for(host.devices):
            gone = LeaseUnavailableError(f"host {host.host_id!r} has left, of which it claims a part")
            self._owner.end_lease(lease, LeaseChange.REFUSE, gone)
        self._capacity.forget_devices(host.devices)
        self._hosts.forget(host)

    def _close(self, host: Host) -> list[Model]:
        """The devices of a host give nothing any more; the models that have instances there."""
        self._capacity.close(host.devices)
        names = dict.fromkeys(self._fleet.instances[i].model for i in host.instances)
        return [self._fleet.models[name] for name in names]

    def _reconcile_on(self, host: Host, now: float) -> None:
        """A host takes instances: those of models that waited for one; and leases get what they wait for."""
        self._capacity.reopen(host.devices, now)
        for model in self._fleet.models.values():
            if any(device_id in host.devices for device_id in model.spec.devices):
                self._owner.reconcile(model)


def _check(host: Host, state: HostState) -> None:
    if host.state is not state:
        raise InvalidFieldError(f"host {host.host_id!r} is {host.state.name}, not {state.name}", field="host_id")
