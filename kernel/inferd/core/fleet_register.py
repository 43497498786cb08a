"""The register of models and their instances: the one place where they change their states."""

from collections.abc import Collection
from dataclasses import replace
from operator import attrgetter

from inferd.core.changes import (
    InstanceChanged,
    InstanceForgotten,
    ModelChanged,
    ModelForgotten,
    VersionChanged,
    VersionForgotten,
)
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
from inferd.core.restored import RestoredVersion
from inferd.core.roll import Roll
from inferd.core.traits import Traits
from inferd.core.version import VERSION_TABLE, Version, VersionChange, VersionState
from inferd.errors import InferdError, ShuttingDownError

CHANGE_TO = {  # how a model comes from one state to another
    state: {after: change for change, after in row.items()} for state, row in MODEL_TABLE.items()
}


class FleetRegister:
    """Models by name and instances by id. The state of a model follows those of its instances.

    One writer: `Fleet`, and `Rollouts` where it is about versions.

    Attributes:
        models: Known models.
        instances: Instances whose worker may still live.
        aliases: Whose alias a name is.
        held: Whose alias a name is to become, if an update that is under way does not fail.

    Args:
        hosts: Where instances are.
        out: Where changes are told.
    """

    def __init__(self, hosts: Hosts, out: list[Reply]) -> None:
        self.models: dict[ModelName, Model] = {}
        self.instances: dict[InstanceId, Instance] = {}
        self.aliases: dict[str, ModelName] = {}
        self.held: dict[str, ModelName] = {}
        self._by_name: Roll[str, Model] = Roll(attrgetter("spec.name"))
        self._hosts = hosts
        self._out = out

    def page(self, *, after: str | None, size: int) -> Page[Model]:
        """Models by name, behind the name `after`; so many at most."""
        return first(self._by_name.above(after), size)

    def add_model(self, spec: ModelSpec, now: float, before: Collection[RestoredVersion] = ()) -> None:
        """A model is known: UNLOADED; with the versions of a kernel before this one, one of which serves.

        One that was on its way then has FAILED: nobody knows what it would have come to.
        """
        versions = {each.number: _restored(each) for each in sorted(before, key=lambda each: each.number)}
        serving = next((each for each in versions.values() if each.state is VersionState.SERVING), None)
        if serving is None:
            number = max(versions, default=0) + 1
            serving = versions[number] = Version(
                number=number, spec=spec, state=VersionState.SERVING, created=now, served=now
            )
        serving.spec = spec
        model = Model(serving=serving, versions=versions, version_count=max(versions), created=now)
        self.models[spec.name] = model
        self._by_name.add(model)
        self.touch_model(model)

    def add_version(self, model: Model, spec: ModelSpec, now: float, by: str) -> Version:
        """A version of a model was made: ROLLING."""
        model.version_count += 1
        version = Version(number=model.version_count, spec=spec, created=now, by=by)
        model.versions[version.number] = version
        self._tell_version(model, version, None)
        return version

    def move_version(
        self, model: Model, version: Version, change: VersionChange, error: InferdError | None = None
    ) -> None:
        """Bring a version from one state to another."""
        version.state, version.error = advance(VERSION_TABLE, version.state, change), error
        self._tell_version(model, version, change)

    def forget_version(self, model: Model, version: Version) -> None:
        """A version is known no longer; it has no instances, and neither serves nor is on its way."""
        del model.versions[version.number]
        self._out.append(VersionForgotten(model.spec.name, version.number))

    def serve(self, model: Model, version: Version, now: float) -> None:
        """A version takes the model's new tasks, in place of the one that did."""
        self.move_version(model, model.serving, VersionChange.RETIRE)
        model.serving, version.served = version, now
        self.move_version(model, version, VersionChange.SERVE)
        self._follow(model, failed=False)
        self.touch_model(model)

    def fall_back(self, model: Model, before: Version, error: InferdError, now: float) -> None:
        """The version that serves has failed on its trial: the one before serves again."""
        self.move_version(model, model.serving, VersionChange.FAIL, error)
        model.serving, before.served = before, now
        self.move_version(model, before, VersionChange.RETURN)
        self._follow(model, failed=False)
        self.touch_model(model)

    def bound(self, model: Model, spec: ModelSpec) -> None:
        """A model has other bounds of its instances and of its waiting tasks, whichever version serves."""
        for version in model.versions.values():
            version.spec = replace(
                version.spec,
                min_instances=spec.min_instances,
                max_instances=spec.max_instances,
                queued_tasks=spec.queued_tasks,
                idle_s=spec.idle_s,
                prefix_keep_bytes=spec.prefix_keep_bytes,
            )
        model.serving.spec = replace(model.serving.spec, settings=spec.settings)
        self._tell_version(model, model.serving, None)
        self.touch_model(model)

    def give_traits(self, model: Model, traits: Traits) -> None:
        """A model has these traits from now on."""
        for alias in model.traits.aliases:
            del self.aliases[alias]
        model.traits = traits
        self.aliases.update(dict.fromkeys(traits.aliases, model.spec.name))
        self.touch_model(model)

    def _tell_version(self, model: Model, version: Version, change: VersionChange | None) -> None:
        self._out.append(VersionChanged(model.spec.name, version.number, change, version.state))

    def touch_model(self, model: Model) -> None:
        """Something is known of a model that was not, but its state."""
        self._out.append(ModelChanged(model.spec.name, model.state))

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer; it has no instances."""
        model = self.models.pop(name)
        for alias in model.traits.aliases:
            del self.aliases[alias]
        self._by_name.remove(model)
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


def _restored(before: RestoredVersion) -> Version:
    state, error = before.state, before.error
    if state.under_way:
        why = f"the kernel ended while version {before.number} of model {before.spec.name!r} was being rolled out"
        state, error = VersionState.FAILED, ShuttingDownError(f"{why}; ask for it again")
    return Version(
        number=before.number,
        spec=before.spec,
        state=state,
        by=before.by,
        created=before.created,
        served=before.served,
        error=error,
    )


def _state(model: Model, *, failed: bool) -> ModelState:
    """The state of a model: that of the instances of the version that serves."""
    number = model.serving.number
    states = {instance.state for instance in model.instances.values() if instance.version == number}
    if InstanceState.READY in states:
        return ModelState.READY
    if states.intersection(LIVING):
        return ModelState.LOADING
    if failed and model.state is ModelState.LOADING:
        return ModelState.FAILED
    if model.state in (ModelState.FAILED, ModelState.UNLOADED):  # also where a version serves again that is about to go
        return model.state
    return ModelState.UNLOADING if InstanceState.STOPPING in states else ModelState.UNLOADED
