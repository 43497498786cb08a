"""Which models drain because others wait for their memory: they take no new tasks, end those they have, and go.

Who waits for memory that busy instances hold would wait as long as their traffic goes on. So when the first in the line
of a device, or one shortly behind it, has waited for `drain_s`, as many instances as it needs take no new tasks: first
those that were given memory after it came, and these at once, for they passed it because they fitted while it could not
go. Idle ones that must go with busy ones take no tasks either.
"""

from inferd.core.alarms import Alarms
from inferd.core.broker import Broker
from inferd.core.fleet import Fleet
from inferd.core.ids import DeviceId, InstanceId, ModelName
from inferd.core.model import Instance, InstanceState


class Relief:
    """Has instances drain, and not any more. One writer: `Capacity`.

    An instance does not drain that a lease holds a part of, or that its model keeps by `least`.

    Args:
        drain_s: An instance drains when the first in line has waited, and it has been ready, for so long.

    Attributes:
        eased: Models that may take tasks again.
        alarms: Devices where instances are to drain, and when; set from here.
    """

    def __init__(self, broker: Broker, fleet: Fleet, drain_s: float) -> None:
        self.eased: dict[ModelName, None] = {}
        self._broker = broker
        self._fleet = fleet
        self._drain_s = drain_s
        self._draining: dict[DeviceId, dict[InstanceId, None]] = {}
        self.alarms: Alarms[DeviceId] = Alarms()

    def pop_due(self, now: float) -> DeviceId | None:
        """A device where instances are to drain now, or None."""
        return self.alarms.pop_due(now)

    def relieve(self, device_id: DeviceId, wanted_bytes: int, since: float, now: float) -> None:
        """The first in the line of a device waits for so much: have those drain that are in its way.

        Args:
            device_id: The device.
            wanted_bytes: What it waits for.
            since: When the one came that has waited longest of the first in the line.
            now: The time.
        """
        self.alarms.cancel(device_id)
        evicted = self._broker.evictions(device_id, wanted_bytes)
        if evicted is not None:  # they are stopped with this event, unless they are given a task before that
            idle = (self._fleet.instances[instance_id] for instance_id in evicted)
            self._set(device_id, {i.instance_id: None for i in idle if self._due(i, since)[0] <= now})
            return
        freed_bytes = self._leaving_bytes(device_id)
        lacking = self._broker.shortfall_bytes(device_id, wanted_bytes) - freed_bytes
        chosen: dict[InstanceId, None] = {}
        at = now
        for due, _, instance_id in sorted(self._candidates(device_id, since)):
            if lacking <= 0:
                break
            chosen[instance_id] = None
            at = max(at, due)
            freed_bytes += self._broker.reserved_bytes(instance_id)
            lacking -= self._broker.reserved_bytes(instance_id)
        if lacking > 0:
            chosen = {}  # that would not be enough: it waits for leases or for other programs
        elif at > now:
            self.alarms.set(device_id, at)
            chosen = {}
        else:
            chosen |= self._counted(device_id, wanted_bytes - freed_bytes, since, now)
        self._set(device_id, chosen)

    def stop(self, device_id: DeviceId) -> None:
        """Nobody waits on a device who could not go."""
        self.alarms.cancel(device_id)
        self._set(device_id, {})

    def _leaving_bytes(self, device_id: DeviceId) -> int:
        """What comes back by itself: instances that another version of their model takes the place of are to go."""
        busy = (self._fleet.instances[instance_id] for instance_id in self._broker.busy(device_id))
        return sum(self._broker.reserved_bytes(each.instance_id) for each in busy if each.leaving and not each.holds)

    def _counted(self, device_id: DeviceId, wanted_bytes: int, since: float, now: float) -> dict[InstanceId, None]:
        """The idle instances that are to go with busy ones: they take no task until those have ended theirs.

        Otherwise some would be busy whenever others are idle, and the first in line would wait without an end.
        """
        counted: dict[InstanceId, None] = {}
        for instance_id in self._broker.evictions(device_id, wanted_bytes) or ():
            due, _ = self._due(self._fleet.instances[instance_id], since)
            if due <= now:
                counted[instance_id] = None
            else:
                self.alarms.advance(device_id, due)
        return counted

    def _candidates(self, device_id: DeviceId, since: float) -> list[tuple[float, float, InstanceId]]:
        """The instances that could drain, each with when it is due, those that passed the first in line before all."""
        found = []
        spare = dict[ModelName, int]()
        for instance_id in self._broker.busy(device_id):
            instance = self._fleet.instances[instance_id]
            if not self._may_drain(instance, spare):
                continue
            found.append((*self._due(instance, since), instance_id))
        return found

    def _due(self, instance: Instance, since: float) -> tuple[float, float]:
        """When an instance is to drain for one that waits since `since`; of equals the smaller second number first."""
        if instance.reserved > since:
            return float("-inf"), -instance.reserved
        return max(since, instance.ready or 0.0) + self._drain_s, instance.reserved

    def _may_drain(self, instance: Instance, spare: dict[ModelName, int]) -> bool:
        """Whether an instance could drain, besides those of its model that were found before."""
        if not instance.living or instance.holds or instance.leaving:
            return False
        model = self._fleet.models[instance.model]
        if model.rollout is not None and model.rollout.steps is not None:
            return False  # its tasks are shared by two versions, and both are needed for that
        ready = sum(each.state is InstanceState.READY for each in model.shared)
        left = spare.setdefault(instance.model, ready - model.least)
        if instance.state is InstanceState.READY:
            spare[instance.model] = left - 1
        return left > 0 or instance.state is not InstanceState.READY

    def _set(self, device_id: DeviceId, chosen: dict[InstanceId, None]) -> None:
        """Have these instances of a device drain, and no others."""
        before = self._draining.pop(device_id, {})
        if chosen:
            self._draining[device_id] = chosen
        for instance_id in before:
            if instance_id not in chosen and (instance := self._fleet.instances.get(instance_id)) is not None:
                instance.draining = False
                self.eased[instance.model] = None
        for instance_id in chosen:
            if instance_id not in before:
                self._fleet.instances[instance_id].draining = True
