"""When a model gets an instance more or less, between its bounds. Both need their time, and growth free memory.

The last one goes, too, where it had nothing to do for as long as its model says, or the kernel does for all.
"""

from dataclasses import dataclass

from inferd.core.alarms import Alarms
from inferd.core.fleet import Fleet
from inferd.core.ids import NO_LEASE, InstanceId, ModelName
from inferd.core.model import Instance, InstanceState, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticTimes:
    """See `inferd.config.Elastic`."""

    grow_s: float = 2.0
    shrink_s: float = 60.0
    drain_s: float = 5.0
    idle_s: float = 0.0  # 0 for never


class Elastic:
    """Grows models under pressure and shrinks idle ones. One writer: the kernel machine.

    Attributes:
        alarms: Of what is due at some time.
    """

    def __init__(self, times: ElasticTimes, fleet: Fleet) -> None:
        self._times = times
        self._fleet = fleet
        self._pressed = Alarms[ModelName]()
        self._resting = Alarms[InstanceId]()
        self._idle = Alarms[InstanceId]()
        self.alarms = (self._pressed, self._resting, self._idle)

    def press(self, model: Model, *, pressed: bool, now: float) -> None:
        """Tasks of a model wait for a place, or none does."""
        name = model.spec.name
        if not pressed or not self._can_grow(model):
            self._pressed.cancel(name)
        elif name not in self._pressed:
            self._pressed.set(name, now + self._times.grow_s)

    def rest(self, instance: Instance, now: float) -> None:
        """An instance has nothing to do any more."""
        if self._fleet.models[instance.model].spec.max_instances > 1:
            self._resting.set(instance.instance_id, now + self._times.shrink_s)

    def loaded(self, instance: Instance, now: float) -> None:
        """An instance takes tasks; when it has had none for long enough it goes."""
        if (idle_s := self._idle_s(instance)) and not instance.lease_id:
            self._idle.set(instance.instance_id, now + idle_s)

    def bounded(self, model: Model, now: float) -> None:
        """A model may have other bounds."""
        for instance in model.shared:
            if instance.state is InstanceState.READY:
                self._idle.cancel(instance.instance_id)
                self.loaded(instance, now)

    def _idle_s(self, instance: Instance) -> float:
        own = self._fleet.models[instance.model].spec.idle_s
        return self._times.idle_s if own is None else own

    def forget(self, name: ModelName) -> None:
        """A model is known no longer."""
        self._pressed.cancel(name)

    def ring(self, now: float) -> None:
        """Start and stop the instances whose time has come."""
        while (name := self._pressed.pop_due(now)) is not None:
            model = self._fleet.models[name]
            if self._can_grow(model):
                self._grow(model, now)
        while (instance_id := self._resting.pop_due(now)) is not None:
            instance = self._fleet.instances.get(instance_id)
            if instance is not None and instance.idle:
                self._shrink(instance)

        while (instance_id := self._idle.pop_due(now)) is not None:
            if (instance := self._fleet.instances.get(instance_id)) is not None and instance.living:
                self._end_idle(instance, now)

    def _end_idle(self, instance: Instance, now: float) -> None:
        """Stop an instance that had nothing to do for long enough, unless it has to stay; else look again later."""
        model, idle_s = self._fleet.models[instance.model], self._idle_s(instance)
        if not idle_s:
            return
        due = instance.used + idle_s if instance.idle else now + idle_s
        ready = sum(i.state is InstanceState.READY for i in model.shared)
        if due <= now and ready > model.least and model.rollout is None:
            self._fleet.stop(instance)
        else:
            self._idle.set(instance.instance_id, due if due > now else now + idle_s)

    def _can_grow(self, model: Model) -> bool:
        shared = model.shared
        return 0 < len(shared) < model.spec.max_instances and all(i.state is InstanceState.READY for i in shared)

    def _grow(self, model: Model, now: float) -> None:
        """One instance more if its memory is free: growth evicts nobody."""
        devices = self._fleet.siting.devices_under(model, NO_LEASE)
        may = devices and now >= model.retry_at
        if may and self._fleet.siting.place(model, model.need_on, devices=devices).at_once:
            self._fleet.start(model, now)
        else:
            self._pressed.set(model.spec.name, now + self._times.grow_s)

    def _shrink(self, instance: Instance) -> None:
        model = self._fleet.models[instance.model]
        ready = sum(i.state is InstanceState.READY for i in model.shared)
        if ready > max(1, model.spec.min_instances):
            self._fleet.stop(instance)
