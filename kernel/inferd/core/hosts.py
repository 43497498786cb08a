"""The register of hosts: who is there, which devices are whose, and the one place where a host changes its state."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from operator import attrgetter

from inferd.core.broker import Broker
from inferd.core.changes import HostChanged, HostForgotten
from inferd.core.commands import Reply
from inferd.core.host import HOST_TABLE, NO_FACTS, Host, HostChange, HostFacts, HostState, device_on, host_of
from inferd.core.ids import DeviceId, HostId
from inferd.core.index import Page, first
from inferd.core.lifecycle import advance
from inferd.core.resources import DeviceCapacity
from inferd.core.roll import Roll
from inferd.errors import InvalidFieldError, suggestion

MOST_COMPARED = 256  # names among which the one is looked for that was meant


class Hosts:
    """Hosts by id. What hangs on a host is not ended here: see `inferd.core.hosting`. One writer: the kernel machine.

    Devices of a host that is not READY have nothing to give; what is held there stays held.

    Attributes:
        known: Hosts that are not GONE; to be read.
        orders: What operators want of hosts, CORDON or DRAIN, also when they come back; of some that are yet to join.
    """

    def __init__(self, broker: Broker, out: list[Reply]) -> None:
        self.known: dict[HostId, Host] = {}
        self.orders: dict[HostId, HostChange] = {}
        self._by_id: Roll[str, Host] = Roll(attrgetter("host_id"))
        self._broker = broker
        self._out = out

    def get(self, host_id: HostId) -> Host:
        """The host of this id.

        Raises:
            InvalidFieldError: There is none; the nearest known name is suggested.
        """
        host = self.known.get(host_id)
        if host is None:
            near = suggestion(host_id, [*islice(self.known, MOST_COMPARED)])
            hint = f"did you mean {near!r}?" if near else "hosts are known from when they join to when they leave"
            raise InvalidFieldError(f"no host {host_id!r}; {hint}", field="host_id")
        return host

    def page(self, *, after: str | None, size: int) -> Page[Host]:
        """Hosts by id, behind the id `after`; so many at most."""
        return first(self._by_id.above(after), size)

    def of(self, device_id: DeviceId) -> Host:
        """The host of a known device."""
        return self.known[host_of(device_id)]

    def add(self, host_id: HostId, now: float) -> Host:
        """A host begins to join: JOINING."""
        host = self.known[host_id] = Host(host_id=host_id, since=now)
        self._by_id.add(host)
        self._out.append(HostChanged(host_id, None, host.state))
        return host

    def move(self, host: Host, change: HostChange, now: float) -> None:
        """Bring a host from one state to another, and with it what its devices may give."""
        host.state, host.since = advance(HOST_TABLE, host.state, change), now
        for device_id in host.devices:
            self._broker.open(device_id, is_open=host.state is HostState.READY)
        self._broker.atlas.stand(host.host_id, host.state)
        self._out.append(HostChanged(host.host_id, change, host.state, tuple(host.devices)))

    def equip(self, host: Host, devices: Iterable[DeviceCapacity], facts: HostFacts = NO_FACTS) -> None:
        """A host has these devices, named as it calls them, besides those that are known; or so much of them.

        The devices of one that comes back and does not name them are to be forgotten first, see `missing`.
        """
        host.facts = facts
        for device in devices:
            device_id = device_on(host.host_id, device.device_id)
            self._broker.add(replace(device, device_id=device_id), is_open=host.state is HostState.READY)
            host.devices[device_id] = None
        for device_id in host.devices:
            self._broker.atlas.describe(device_id, facts)

    def missing(self, host: Host, devices: Iterable[DeviceCapacity]) -> list[DeviceId]:
        """What a host had, and has no more as it says."""
        named = {device_on(host.host_id, device.device_id) for device in devices}
        return [device_id for device_id in host.devices if device_id not in named]

    def strip(self, host: Host, device_ids: Iterable[DeviceId]) -> None:
        """A host has some devices no more; nothing is held there."""
        for device_id in device_ids:
            self._broker.remove(device_id)
            del host.devices[device_id]

    def forget(self, host: Host) -> None:
        """A host is GONE, with its devices; nothing is held there any more."""
        self.strip(host, tuple(host.devices))
        del self.known[host.host_id]
        self.orders.pop(host.host_id, None)
        self._by_id.remove(host)
        self._out.append(HostForgotten(host.host_id))
