"""Fake hosts: they join, drain, are lost, come back, and leave; and some join again under their old names."""

from world import World

from inferd.core import events
from inferd.core.host import HostState, host_of, name_of
from inferd.core.ids import HostId
from inferd.core.resources import DeviceCapacity

SHARED = 8  # the first hosts, on which the models are


class FakeHosts:
    """All hosts. One writer: its world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._devices = {
            host_of(device.device_id): DeviceCapacity(
                device_id=name_of(device.device_id), memory_bytes=device.memory_bytes, cores=device.cores
            )
            for device in world.devices
        }
        self._left = world.scale.host_events

    def begin(self, *, lasts_s: float) -> None:
        """The first hosts are there, the others join soon; later they come and go."""
        first, others = [*self._devices][:SHARED], [*self._devices][SHARED:]
        for host_id in first:
            self._join(host_id)
        for host_id in others:
            self._world.later(2.0, lambda host_id=host_id: self._come(host_id))
        if self._left:
            self._world.later(0.5, lambda: self._stir(lasts_s / self._left))

    def restore(self) -> None:
        """All hosts are there again."""
        for host_id in self._devices:
            self._join(host_id)
            if self._state(host_id) is HostState.DRAINING:
                self._world.tell(events.ResumeHost(host_id))

    def _state(self, host_id: HostId) -> HostState | None:
        return self._world.mirror.hosts.states.get(host_id)

    def _stir(self, pause_s: float) -> None:
        """Something happens to a host, and to another one after a while."""
        world = self._world
        if world.quiet or self._left == 0:
            return
        self._left -= 1
        hosts = [*self._devices]
        self._change(world.random.choice(hosts[:SHARED] if world.random.random() < 0.6 else hosts))
        world.later(pause_s, lambda: self._stir(pause_s))

    def _change(self, host_id: HostId) -> None:
        world, roll, state = self._world, self._world.random.random(), self._state(host_id)
        if state is not None:
            world.seen[f"host {state.name}"] += 1
        match state:
            case HostState.READY if roll < 0.4:
                world.tell(events.HostLost(host_id, "no word for 10 s"))
                self._later(host_id)
            case HostState.READY if roll < 0.8:
                world.tell(events.DrainHost(host_id))
                self._later(host_id)
            case HostState.READY | HostState.LOST | HostState.DRAINING if roll < 0.85:
                world.tell(events.HostLeft(host_id))
                self._later(host_id)
            case HostState.DRAINING if roll < 0.4:
                world.tell(events.HostLost(host_id, "no word for 10 s"))
                self._later(host_id)
            case HostState.DRAINING:
                world.tell(events.ResumeHost(host_id))
            case HostState.LOST if roll < 0.1:  # late, or of no consequence
                world.tell(world.random.choice([events.HostLost, _drain])(host_id, "again"))
            case _:
                self._come(host_id)

    def _later(self, host_id: HostId) -> None:
        """A host does not stay away."""
        self._world.later(1.0, lambda: None if self._world.quiet else self._change(host_id))

    def _come(self, host_id: HostId) -> None:
        """A host is heard of, and says then, or at once, which devices it has."""
        world = self._world
        if world.random.random() < 0.5:
            world.tell(events.HostFound(host_id))
            world.later(0.2, lambda: None if self._state(host_id) is not HostState.JOINING else self._join(host_id))
            if world.random.random() < 0.1:
                world.tell(events.HostLost(host_id, "it went before it had joined"))
                self._later(host_id)
        else:
            self._join(host_id)

    def _join(self, host_id: HostId) -> None:
        self._world.tell(events.HostJoined((self._devices[host_id],), host_id))


def _drain(host_id: HostId, _: str) -> events.Event:
    return events.DrainHost(host_id)
