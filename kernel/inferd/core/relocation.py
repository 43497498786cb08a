"""Instances whose host drains, and the new ones elsewhere that are to stand in for them: new beside old first.

A model that is used, and whose only instance that takes tasks is on the host, would make its tasks wait for a load. So
another instance comes up elsewhere, where it fits what is free, and the old one takes tasks until that is READY. Where
it does not come up the old one goes as any other does, and tasks wait.
"""

from inferd.core.broker import Broker
from inferd.core.fleet import Fleet
from inferd.core.ids import NO_LEASE, InstanceId
from inferd.core.model import Instance, InstanceState, Model


class Relocation:
    """Which instance stands in for which. One writer: `Hosting`."""

    def __init__(self, fleet: Fleet, broker: Broker) -> None:
        self._fleet = fleet
        self._broker = broker
        self._stand_ins: dict[InstanceId, InstanceId] = {}  # of those that are to go

    def begin(self, instance: Instance, now: float) -> bool:
        """Have an instance that is to go stay until another one takes its place, if one can; whether it stays."""
        model = self._fleet.models[instance.model]
        if not self._may_stay(model, instance) or now < model.retry_at:
            return False
        devices = self._fleet.siting.devices_under(model, NO_LEASE)
        if not devices or not self._fleet.siting.place(model, model.need_on, devices=devices).at_once:
            return False
        self._stand_ins[instance.instance_id] = self._fleet.start(model, now).instance_id
        return True

    def stay(self, instance: Instance) -> None:
        """An instance need not go: what was to stand in for it ends, if it has not come up."""
        stand_in = self._fleet.instances.get(self._stand_ins.pop(instance.instance_id, InstanceId("")))
        if stand_in is not None and stand_in.state is not InstanceState.READY:
            self._fleet.stop(stand_in)

    def settle(self) -> list[Instance]:
        """Those that may go now, as their stand-ins are READY or gone."""
        going = []
        for old_id, new_id in tuple(self._stand_ins.items()):
            old, new = self._fleet.instances.get(old_id), self._fleet.instances.get(new_id)
            if old is None or not old.living:
                del self._stand_ins[old_id]
            elif new is None or not new.living:
                self._follow(old)
            elif new.state is not InstanceState.READY:
                continue
            else:
                del self._stand_ins[old_id]
            if old is not None and old.living and old_id not in self._stand_ins:
                going.append(old)
        return going

    def _follow(self, old: Instance) -> None:
        """What was to stand in is gone: another one of the model that came in its place does, or none."""
        del self._stand_ins[old.instance_id]
        model = self._fleet.models[old.model]
        others = (i for i in model.shared if i is not old and self._broker.devices[i.device_id].open)
        if (other := next(others, None)) is not None and other.state is not InstanceState.READY:
            self._stand_ins[old.instance_id] = other.instance_id

    def _may_stay(self, model: Model, instance: Instance) -> bool:
        """Whether an instance is used, and the only one that takes the model's tasks."""
        if instance.state is not InstanceState.READY or instance.lease_id or instance.leaving or instance.draining:
            return False
        if model.going or model.rollout is not None or model.before is not None:
            return False
        ready = [i for i in model.shared if i.state is InstanceState.READY]
        used = bool(instance.running or model.least)
        return used and not any(i is not instance and self._broker.devices[i.device_id].open for i in ready)
