"""How a version of a model comes to take its tasks, or does not; see `core.version` for what that means."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from inferd.core.admission import places_of
from inferd.core.alarms import Alarms
from inferd.core.broker import Broker
from inferd.core.canary import Pace, Passed, Steps, canary_failed, find_passed, first_limit_s
from inferd.core.capacity import Capacity
from inferd.core.commands import Reply
from inferd.core.events import UpdateModel
from inferd.core.fleet import Fleet
from inferd.core.ids import NO_LEASE, DeviceId, ModelName
from inferd.core.model import Instance, InstanceState, Model
from inferd.core.nowhere import check_place
from inferd.core.proofs import Proofs, answers
from inferd.core.resources import MemoryNeed
from inferd.core.rollout_events import ProbeAnswered, RolloutEvent
from inferd.core.task import Task, TaskState
from inferd.core.version import Rollout, Version, VersionChange, VersionState
from inferd.errors import InferdError, InvalidFieldError, ModelBusyError, ModelLoadError, NoMemoryError


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutLimits:
    """See `inferd.config.Rollouts`."""

    versions: int = 10
    most_s: float = 600.0
    trial_s: float = 60.0
    probe_s: float = 60.0
    probe_prompts: int = 32
    probe_bytes: int = 65536
    probe_tokens: int = 256
    canary_steps: int = 16
    canary_s: float = 86_400.0


class RolloutWay(Enum):
    """How a new version finds its place; the values are those of `inferd.v1.RolloutWay`."""

    UNCHANGED = 1  # what serves is what is asked for
    BOUNDS = 2  # nothing is loaded for it
    BESIDE = 3  # the old one stays until it is READY
    DRAINS = 4  # the instances of the old one on the device go first
    NO_ROOM = 5  # not even then


class Owner(Protocol):
    """Who owns tasks: the kernel machine."""

    def reconcile(self, model: Model) -> None:
        """Have workers brought up where somebody waits for them."""

    def free(self, name: ModelName) -> None:
        """A model may have places to give."""

    def move_off(self, instance: Instance) -> None:
        """Have the tasks of an instance go on elsewhere."""


class Rollouts:
    """Has versions take the place of others. One writer: the kernel machine.

    Args:
        limits: Bounds.
        fleet: Models and instances.
        capacity: Who gets memory.
        broker: Devices.
        owner: Of tasks.
        out: Where is told what is to be done.

    Attributes:
        alarms: Of what is due at some time.
    """

    def __init__(
        self,
        limits: RolloutLimits,
        fleet: Fleet,
        capacity: Capacity,
        *,
        broker: Broker,
        owner: Owner,
        out: list[Reply],
    ) -> None:
        self._limits = limits
        self._fleet = fleet
        self._capacity = capacity
        self._broker = broker
        self._owner = owner
        self._under_way: dict[ModelName, None] = {}
        self._late = Alarms[ModelName]()
        self._trials = Alarms[ModelName]()
        self._steps = Alarms[ModelName]()
        self._proofs = Proofs(limits.probe_s, out)
        self._firsts = Alarms[ModelName]()  # when a task by steps is late with its first token
        self.alarms = (self._late, self._trials, self._steps, self._firsts, self._proofs.alarms)

    def begin(self, model: Model, event: UpdateModel, now: float) -> None:
        """Have another version take a model's tasks; nothing to do where that serves which is asked for.

        Raises:
            ModelBusyError: Another one is on its way, or no host of it takes instances.
            InvalidFieldError: A device of it is not known, or no version has that number.
            LimitExceededError: As many versions are kept as may be, and all of them have instances.
        """
        _check_alone(model, now)
        _check_compared(model, event)
        version = model.serving
        if event.number is not None:
            version = self._kept(model, event.number)
        elif event.spec.loaded != version.spec.loaded or event.spec.file_version != version.spec.file_version:
            check_place(event.spec, self._broker)
            self.end_trial(model)
            version = self._fleet.add_version(model, event.spec, now, event.by)
        elif event.spec.wanted != version.spec.wanted:
            self._fleet.register.bound(model, event.spec)
            self._owner.reconcile(model)
        if version is not model.serving and event.rests and not model.instances:
            self._put(model, version, now)
        elif version is not model.serving:
            self._roll(model, version, event, now)

    def _kept(self, model: Model, number: int) -> Version:
        if (version := model.versions.get(number)) is None:
            known = ", ".join(map(str, model.versions))
            message = f"model {model.spec.name!r} has no version {number}; it has {known}"
            raise InvalidFieldError(message, field="version")
        return version

    def _roll(self, model: Model, version: Version, event: UpdateModel, now: float) -> None:
        """Bring an instance of a version up, or keep one that was about to go."""
        if not self._fleet.siting.devices_under(model, NO_LEASE, version):
            where = places_of(version.spec)
            message = f"no host of {where} takes instances now, where version {version.number} would compute"
            if version.state is VersionState.ROLLING:
                self._fleet.register.forget_version(model, version)
            raise ModelBusyError(message, retry_after_s=1.0)
        if version.state is not VersionState.ROLLING:
            self._fleet.register.move_version(model, version, VersionChange.ROLL)
        self.end_trial(model)
        model.rollout = Rollout(version=version, by=event.by, began=now, probe=event.probe, canary=event.canary)
        self._under_way[model.spec.name] = None
        self._late.set(model.spec.name, now + self._limits.most_s)
        self._fleet.refresh(model)
        leaving = [i for i in model.instances.values() if i.version == version.number and i.leaving and i.living]
        for instance in leaving:
            instance.leaving = not self._broker.devices[instance.device_id].open
            self._fleet.refresh_drain(instance)
        if all(instance.leaving for instance in leaving):
            self._fleet.start(model, now, version=version)

    def needs(self, model: Model, rollout: Rollout, instance: Instance, need: MemoryNeed, now: float) -> None:
        """It is known what an instance of a version on its way needs: it waits for that, or is refused."""
        fit = find_way(self._broker, model, instance.device_id, need, but=instance)
        if fit is RolloutWay.NO_ROOM:
            self._capacity.refuse_load(instance, now)
            return
        if fit is RolloutWay.DRAINS and rollout.canary is not None:
            rollout.version.error = no_room_for_steps(model, rollout.version, instance.device_id)
            self._fail(model, rollout)
            return
        if fit is RolloutWay.DRAINS:
            rollout.drains = True
            for each in own_instances(model, instance.device_id, but=instance):
                self._fleet.leave(each)
        self._capacity.instance_needs(instance, need, now, may_wait=True)

    def take(self, event: RolloutEvent, now: float) -> None:
        """A version on its way has answered a prompt of its probe, or a task by steps has given its first output."""
        if (instance := self._fleet.instances.get(event.instance_id)) is None:
            return
        model = self._fleet.models[instance.model]
        if isinstance(event, ProbeAnswered):
            self._proofs.answered(model, event)
        elif model.rollout is not None and model.rollout.steps is not None:
            model.rollout.steps.count_begun(event.task_id, now)

    def settle(self, now: float) -> None:
        """See what has become of the versions that are on their way."""
        self._ring(now)
        for name in tuple(self._under_way):
            model = self._fleet.models[name]
            if (rollout := model.rollout) is not None:
                self._settle(model, rollout, now)

    def _settle(self, model: Model, rollout: Rollout, now: float) -> None:
        """See whether a version serves from now on, proves itself first, or has FAILED."""
        own = [i for i in model.instances.values() if model.is_rolling(i) and i.living]
        own = [i for i in own if not i.lease_id and not i.leaving]
        ready = next((instance for instance in own if instance.state is InstanceState.READY), None)
        proof = rollout.proof
        if not own or (proof is not None and (rollout.version.error is not None or not answers(model, proof))):
            self._fail(model, rollout)
        elif ready is None:
            return
        elif rollout.steps is not None:
            self._judge(model, rollout, rollout.steps, now)
        elif rollout.probe is None or (proof is not None and proof.over):
            self._take_tasks(model, rollout, now)
        elif proof is None:
            self._fleet.register.move_version(model, rollout.version, VersionChange.PROVE)
            self._fleet.register.touch_model(model)
            self._proofs.begin(model, rollout, ready, now)

    def _take_tasks(self, model: Model, rollout: Rollout, now: float) -> None:
        """The new version takes the tasks, or a first share of them."""
        if rollout.canary is None:
            self._serve(model, rollout, now)
            return
        rollout.version.steps = steps = Steps(terms=rollout.canary, began=now)
        self._fleet.register.move_version(model, rollout.version, VersionChange.TRY)
        self._late.set(model.spec.name, now + self._limits.canary_s)
        self._begin_step(model, steps)
        self._refresh_drains(model)

    def _refresh_drains(self, model: Model) -> None:
        """No instance of a model that comes by steps gives way to others; from its end on each may again."""
        for instance in model.instances.values():
            self._fleet.refresh_drain(instance)

    def _begin_step(self, model: Model, steps: Steps) -> None:
        if steps.step.least_s:
            self._steps.set(model.spec.name, steps.began + steps.step.least_s)
        self._fleet.register.touch_model(model)
        self._owner.free(model.spec.name)

    def _judge(self, model: Model, rollout: Rollout, steps: Steps, now: float) -> None:
        """See whether a version is worse than its step allows, or has come to the end of it."""
        limit_s = first_limit_s(steps.terms, model.serving.paces)
        steps.count_left(now, limit_s)
        over = steps.is_over(now)
        if (passed := find_passed(steps, model.serving.paces, now, over=over)) is not None:
            rollout.version.error = canary_failed(model.spec.name, rollout.version, steps, passed)
            self._fail(model, rollout)
        elif over and steps.move_on(now):
            self._begin_step(model, steps)
        elif over:
            self._serve(model, rollout, now)
        if model.rollout is not None and (late := steps.next_late(now, limit_s)) is not None:
            self._firsts.set(model.spec.name, late)

    def task_ended(self, model: Model, task: Task, pace: Pace) -> None:
        """A task of a version has ended, which came so fast."""
        if (version := model.versions.get(task.version)) is None:
            return
        error = None if task.outcome is None else task.outcome.error
        failed = error is not None and error.code != "INVALID_ARGUMENT"  # that is the client's fault, with any version
        if task.state is TaskState.SUCCEEDED:
            version.paces.append(pace)
        if model.rollout is None or (steps := model.rollout.steps) is None:
            return
        if version is model.rollout.version:
            steps.count_ended(task, pace, failed=failed)
        elif version is model.serving:
            steps.old.count(failed=failed)

    def _ring(self, now: float) -> None:
        while self._steps.pop_due(now) is not None or self._firsts.pop_due(now) is not None:
            pass  # the step may be over now, or too slow, which is seen next
        while (slow := self._proofs.alarms.pop_due(now)) is not None:
            if (model := self._fleet.models.get(slow)) is not None:
                self._proofs.late(model)
        while (late := self._late.pop_due(now)) is not None:
            if (model := self._fleet.models.get(late)) is not None and (rollout := model.rollout) is not None:
                rollout.version.error = self._too_late(late, rollout)
                self._fail(model, rollout)
        while (proved := self._trials.pop_due(now)) is not None:
            if (model := self._fleet.models.get(proved)) is not None:
                self.end_trial(model)

    def _put(self, model: Model, version: Version, now: float) -> None:
        """Have a version serve for which nothing has to be loaded, as nothing is of the one before."""
        model.error, model.lacks, model.failures, model.failed_loads, model.retry_at = None, "", 0, 0, 0.0
        self._fleet.register.serve(model, version, now)
        self._owner.reconcile(model)

    def _too_late(self, name: ModelName, rollout: Rollout) -> InferdError:
        if (steps := rollout.steps) is not None:
            found = f"{steps.new.tasks} of {steps.step.tasks} tasks of the step"
            passed = Passed("canary_s", f"{self._limits.canary_s:g} s (rollouts.canary_s)", found)
            return canary_failed(name, rollout.version, steps, passed)
        return ModelLoadError(
            f"version {rollout.version.number} of model {name!r} could not serve within"
            f" {self._limits.most_s:g} s (rollouts.most_s)",
            metadata={"limit_s": f"{self._limits.most_s:g}"},
        )

    def _end(self, model: Model) -> None:
        if model.rollout is not None and model.rollout.version.steps is not None:
            model.rollout.version.steps.awaited.clear()
            model.rollout.version.steps.begun.clear()
        model.rollout = None
        del self._under_way[model.spec.name]
        self._late.cancel(model.spec.name)
        self._steps.cancel(model.spec.name)
        self._firsts.cancel(model.spec.name)
        self._proofs.end(model)
        self._refresh_drains(model)

    def _serve(self, model: Model, rollout: Rollout, now: float) -> None:
        """The new version takes the tasks; the instances of the one before end those they have, and go."""
        self._end(model)
        model.error, model.lacks, model.failures, model.failed_loads, model.retry_at = None, "", 0, 0, 0.0
        model.asked, model.loaded_on_demand = False, True
        model.before = model.serving
        self._trials.set(model.spec.name, now + self._limits.trial_s)
        self._fleet.register.serve(model, rollout.version, now)
        for instance in tuple(model.instances.values()):
            if instance.version != rollout.version.number:
                self._fleet.leave(instance)
        self._fleet.refresh(model)
        self._owner.free(model.spec.name)
        self._owner.reconcile(model)

    def end_trial(self, model: Model) -> None:
        """The version that serves has done a task, or had its time: the one before goes."""
        if model.before is not None:
            model.before = None
            self._trials.cancel(model.spec.name)
            self._fleet.refresh(model)

    def fall_back(self, model: Model, before: Version, error: InferdError, now: float) -> None:
        """The version that serves has failed on its trial: the one before takes the tasks again."""
        failed = model.serving
        self._trials.cancel(model.spec.name)
        model.before = None
        model.error, model.failures, model.failed_loads, model.retry_at = None, 0, 0, 0.0
        self._fleet.retries.cancel(model.spec.name)
        self._fleet.register.fall_back(model, before, error, now)
        for instance in tuple(model.instances.values()):
            (self._fleet.leave if instance.version == failed.number else self._fleet.stay)(instance)
        self._fleet.refresh(model)
        self._owner.free(model.spec.name)
        self._owner.reconcile(model)

    def _fail(self, model: Model, rollout: Rollout) -> None:
        """Nothing has changed, but that the new version has FAILED."""
        self._end(model)
        version = rollout.version
        own = [i for i in model.instances.values() if i.version == version.number]
        drains = any(not self._broker.devices[instance.device_id].open for instance in own)
        error = version.error or ModelBusyError(
            f"version {version.number} of model {model.spec.name!r} was stopped before it could serve"
            + (": its host takes no instances any more" if drains else "")
        )
        self._fleet.register.move_version(model, version, VersionChange.FAIL, error)
        for instance in tuple(model.instances.values()):
            if instance.version == version.number:
                self._owner.move_off(instance)  # what is worse than it may be is not to end them
                self._fleet.leave(instance)
            elif instance.version == model.serving.number:
                self._fleet.stay(instance)
        self._fleet.refresh(model)
        self._fleet.register.touch_model(model)
        self._owner.free(model.spec.name)
        self._owner.reconcile(model)


def find_way(
    broker: Broker, model: Model, device_id: DeviceId, need: MemoryNeed, *, but: Instance | None = None
) -> RolloutWay:
    """How one more instance that needs so much finds room on a device beside a model's others, or in their place."""
    own = list(own_instances(model, device_id, but=but))
    serving = [i.instance_id for i in own if i.version == model.serving.number]
    if broker.evictions(device_id, need.total_bytes, keep=serving) is not None:
        return RolloutWay.BESIDE
    if any(instance.holds for instance in own):
        return RolloutWay.NO_ROOM
    busy = set(broker.busy(device_id))
    freed_bytes = sum(broker.reserved_bytes(i.instance_id) for i in own if i.instance_id in busy)
    lacking_bytes = broker.shortfall_bytes(device_id, need.total_bytes) - freed_bytes
    return RolloutWay.DRAINS if lacking_bytes <= 0 and broker.devices[device_id].open else RolloutWay.NO_ROOM


def no_room_for_steps(model: Model, version: Version, device_id: DeviceId) -> NoMemoryError:
    """Why a version does not come by steps: both of them would have to be loaded."""
    return NoMemoryError(
        f"version {version.number} of model {model.spec.name!r} cannot take a part of the tasks: {device_id} has no"
        f" room for it beside version {model.serving.number}; leave canary out, and the old version goes first",
        metadata={"device": device_id},
    )


def own_instances(model: Model, device_id: DeviceId, *, but: Instance | None = None) -> Iterable[Instance]:
    """The instances of a model on a device that are its own to stop, but for one."""
    for instance in tuple(model.instances.values()):
        if instance.device_id == device_id and instance.living and not instance.lease_id and instance is not but:
            yield instance


def _check_alone(model: Model, now: float) -> None:
    """Refuse a second rollout beside the one under way."""
    if (rollout := model.rollout) is None:
        return
    by = f", asked for by {rollout.by}" if rollout.by else ""
    number, since_s = rollout.version.number, now - rollout.began
    raise ModelBusyError(
        f"version {number} of model {model.spec.name!r} is being rolled out since {since_s:.1f} s{by}; wait for it"
        f" (`inferd models versions`), or give it up: {_give_up(model)}",
        metadata={"version": str(number), "by": rollout.by, "since_s": f"{since_s:.1f}"},
    )


def _check_compared(model: Model, event: UpdateModel) -> None:
    """Refuse a probe that compares with another version than the one that serves."""
    compared = None if event.probe is None else event.probe.compared
    if compared not in (None, model.serving.number):
        raise ModelBusyError(
            f"version {model.serving.number} of model {model.spec.name!r} has come to serve in place of version"
            f" {compared}, which had answered the probe; try again",
            metadata={"version": str(model.serving.number)},
        )


def _give_up(model: Model) -> str:
    """How a rollout is given up, while the old version serves on."""
    own = [i.instance_id for i in model.instances.values() if model.is_rolling(i) and i.living]
    return f"`inferd unload {model.spec.name} --instance {own[0]}`" if own else f"`inferd unload {model.spec.name}`"
