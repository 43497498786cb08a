"""Where hosts stand, reckoned from events alone."""

from dataclasses import dataclass, field

from device_book import DeviceBook
from rules import BrokenRuleError, Rule
from task_entries import Place

from inferd.core import events
from inferd.core.host import HostState, device_on, host_of
from inferd.core.ids import DeviceId, HostId

READY, DRAINING, LOST, JOINING = HostState.READY, HostState.DRAINING, HostState.LOST, HostState.JOINING


@dataclass(slots=True)
class HostBook:
    """All hosts that are there, or were lost. One writer: the mirror."""

    devices: DeviceBook
    states: dict[HostId, HostState] = field(default_factory=dict)
    drains: dict[HostId, None] = field(default_factory=dict)  # also when they come back

    def take(self, event: events.HostEvent) -> None:
        """Something has happened to a host, and was not refused."""
        host_id, state = event.host_id, self.states.get(event.host_id)
        match event:
            case events.HostFound():
                self.states[host_id] = JOINING if state in (None, LOST) else state
            case events.HostJoined():
                self.states[host_id] = DRAINING if host_id in self.drains else READY
                for device in event.devices:
                    self.devices.found(device_on(host_id, device.device_id), device)
            case events.DrainHost():
                self.states[host_id] = DRAINING
                self.drains[host_id] = None
            case events.ResumeHost():
                self.states[host_id] = READY
                self.drains.pop(host_id, None)
            case events.HostLost() | events.HostLeft() if state is not None:
                self.states[host_id] = LOST
                for device_id in self.devices_of(host_id) if state is not LOST else ():
                    self.devices.foreign(device_id, 0)
            case _:
                pass
        for device_id in self.devices_of(host_id):
            self.devices.open(device_id, is_open=self.states[host_id] is READY)

    def forget(self, host_id: HostId) -> None:
        """A host has left, with all that it had."""
        self.drains.pop(host_id, None)
        if self.states.pop(host_id, None) is not None:
            for device_id in self.devices_of(host_id):
                self.devices.forget(device_id)

    def devices_of(self, host_id: HostId) -> list[DeviceId]:
        return [device_id for device_id in self.devices.devices if host_of(device_id) == host_id]

    def is_ready(self, device_id: DeviceId) -> bool:
        return self.states.get(host_of(device_id)) is READY

    def check_open(self, device_id: DeviceId, what: str, *, leased: bool) -> None:
        """Something comes to a device: its host takes that."""
        state = self.states.get(host_of(device_id))
        if state is not READY and not (leased and state is DRAINING):
            raise BrokenRuleError(Rule.HOST, f"{what} comes to {device_id}, whose host is {state and state.name}")

    def must_go(self, place: Place) -> bool:
        """Whether an instance is on a host that drains, and neither computes nor keeps anything."""
        busy = place.running or place.holds or place.lease_id or place.stopping
        return not busy and self.states.get(host_of(place.device_id)) is DRAINING
