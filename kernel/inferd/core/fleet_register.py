"""The register of models and their instances: the one place where they change their states."""

from operator import attrgetter

from inferd.core.changes import InstanceChanged, InstanceForgotten, ModelChanged, ModelForgotten
from inferd.core.commands import Reply
from inferd.core.hosts import Hosts
from inferd.core.ids import InstanceId, ModelName
from inferd.core.index import Page, first
from inferd.core.lifecycle import advance
from inferd.core.model import (
    INSTANCE_TABLE,
    LIVING,
    MODEL_TABLE,
    Instance,
    InstanceChange,
    InstanceState,
    Model,
    ModelSpec,
    ModelState,
)
from inferd.core.roll import Roll

CHANGE_TO = {  # how a model comes from one state to another
    state: {after: change for change, after in row.items()} for state, row in MODEL_TABLE.items()
}


class FleetRegister:
    """Models by name and instances by id. The state of a model follows those of its instances. One writer: `Fleet`.

    Attributes:
        models: Known models.
        instances: Instances whose worker may still live.

    Args:
        hosts: Where instances are.
        out: Where changes are told.
    """

    def __init__(self, hosts: Hosts, out: list[Reply]) -> None:
        self.models: dict[ModelName, Model] = {}
        self.instances: dict[InstanceId, Instance] = {}
        self._by_name: Roll[str, Model] = Roll(attrgetter("spec.name"))
        self._hosts = hosts
        self._out = out

    def page(self, *, after: str | None, size: int) -> Page[Model]:
        """Models by name, behind the name `after`; so many at most."""
        return first(self._by_name.above(after), size)

    def add_model(self, spec: ModelSpec, now: float) -> None:
        """A model is known: UNLOADED."""
        model = self.models[spec.name] = Model(spec=spec, created=now)
        self._by_name.add(model)
        self.touch_model(model)

    def touch_model(self, model: Model) -> None:
        """Something is known of a model that was not, but its state."""
        self._out.append(ModelChanged(model.spec.name, model.state))

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer; it has no instances."""
        self._by_name.remove(self.models.pop(name))
        self._out.append(ModelForgotten(name))

    def add(self, instance: Instance) -> None:
        """An instance was made: STARTING."""
        model = self.models[instance.model]
        model.instances[instance.instance_id] = self.instances[instance.instance_id] = instance
        self._hosts.of(instance.device_id).instances[instance.instance_id] = None
        self.touch(instance)
        self._follow(model, failed=False)

    def touch(self, instance: Instance) -> None:
        """Something is known of an instance that was not, but its state."""
        self._tell(instance, None)

    def move(self, instance: Instance, change: InstanceChange, *, failed: bool = False) -> None:
        """Bring an instance from one state to another, and its model with it; `failed` when a load has just failed."""
        instance.state = advance(INSTANCE_TABLE, instance.state, change)
        self._tell(instance, change)
        self._follow(self.models[instance.model], failed=failed)

    def forget(self, instance: Instance) -> None:
        """The worker of an instance is gone; the instance has come to its end."""
        model = self.models[instance.model]
        del self.instances[instance.instance_id], model.instances[instance.instance_id]
        del self._hosts.of(instance.device_id).instances[instance.instance_id]
        self._out.append(InstanceForgotten(instance.instance_id, instance.model))
        self._follow(model, failed=False)

    def _tell(self, instance: Instance, change: InstanceChange | None) -> None:
        self._out.append(
            InstanceChanged(instance.instance_id, instance.model, instance.device_id, change, instance.state)
        )

    def _follow(self, model: Model, *, failed: bool) -> None:
        """Bring a model's state in line with its instances."""
        after = _state(model, failed=failed)
        if after is not model.state:
            model.state = advance(MODEL_TABLE, model.state, CHANGE_TO[model.state][after])
            self.touch_model(model)


def _state(model: Model, *, failed: bool) -> ModelState:
    states = {instance.state for instance in model.instances.values()}
    if InstanceState.READY in states:
        return ModelState.READY
    if states.intersection(LIVING):
        return ModelState.LOADING
    if failed and model.state is ModelState.LOADING:
        return ModelState.FAILED
    if model.state is ModelState.FAILED:
        return ModelState.FAILED
    return ModelState.UNLOADING if InstanceState.STOPPING in states else ModelState.UNLOADED
