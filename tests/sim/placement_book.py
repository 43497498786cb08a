"""Where instances start and wait, judged by what was measured."""

from device_book import DeviceBook
from host_book import HostBook
from rules import BrokenRuleError, Rule
from task_book import TaskBook
from task_entries import Place

from inferd.core.ids import DeviceId, InstanceId, ModelName
from inferd.core.machine import KernelMachine


class PlacementBook:
    """What versions of models need, by device, as it was told. One writer: the mirror."""

    def __init__(self, tasks: TaskBook, hosts: HostBook, devices: DeviceBook, machine: KernelMachine) -> None:
        self.measured = dict[tuple[ModelName, int, DeviceId], int]()
        self._tasks = tasks
        self._hosts = hosts
        self._devices = devices
        self._machine = machine

    def check_place(self, place: Place) -> None:
        """An instance starts where it may, and as well as elsewhere by what was measured."""
        spec, here = self._tasks.models[place.model].spec, place.device_id
        if here not in spec.devices:
            raise BrokenRuleError(Rule.PLACEMENT, f"{place.instance_id} starts on {here}, not one of {spec.devices}")
        fits = {d: self._fits(place, d) for d in spec.devices if self._hosts.is_ready(d)}
        if not place.lease_id and fits[here] is False and True in fits.values():
            raise BrokenRuleError(Rule.PLACEMENT, f"{place.instance_id} starts on {here}, and fits: {fits}")

    def check_waiting(self, place: Place) -> None:
        """An instance does not come to wait where it does not fit, when it fits a device where it was not yet."""
        tried = (place.device_id, *self._machine.fleet.instances[place.instance_id].tried)
        devices = self._tasks.models[place.model].spec.devices
        left = [d for d in devices if d not in tried and self._hosts.is_ready(d)]
        here = self._fits(place, place.device_id, but=place.instance_id)
        if here is False and any(self._fits(place, d) for d in left):
            raise BrokenRuleError(Rule.PLACEMENT, f"{place.instance_id} waits on {place.device_id}, and fits {left}")

    def has_stand_in(self, place: Place) -> bool:
        """Whether another instance comes up to take the place of one whose host drains."""
        return any(
            other.model == place.model and not (other.ready or other.stopping or other.lease_id)
            for other in self._tasks.places.values()
            if self._hosts.is_ready(other.device_id)
        )

    def must_go(self, place: Place) -> bool:
        """Whether an instance is on a host that drains, and nothing keeps it there."""
        return self._hosts.must_go(place) and not self.has_stand_in(place)

    def _fits(self, place: Place, device_id: DeviceId, *, but: InstanceId | None = None) -> bool | None:
        """Whether one fits what is free on a device and not wanted by loads that have begun; None: not known."""
        before = (p for p in self._tasks.places.values() if p.device_id == device_id and not p.lease_id)
        begun = [
            (p.model, p.version)
            for p in before
            if not p.stopping and p.instance_id not in self._devices.holdings and p.instance_id != but
        ]
        needs = [self.measured.get((*each, device_id)) for each in ((place.model, place.version), *begun)]
        known = [need for need in needs if need is not None]
        return sum(known) <= self._devices.devices[device_id].free_bytes if len(known) == len(needs) else None
