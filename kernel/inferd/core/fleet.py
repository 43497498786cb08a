"""Models and their instances: which worker is started, stopped or given up. The part of the machine without tasks."""

from dataclasses import dataclass

from inferd.core.alarms import Alarms
from inferd.core.commands import Command, StartWorker, StopWorker, TellModel
from inferd.core.ids import InstanceId, ModelName
from inferd.core.lifecycle import advance, terminal
from inferd.core.model import (
    INSTANCE_TABLE,
    MODEL_TABLE,
    Instance,
    InstanceChange,
    InstanceFacts,
    InstanceState,
    Model,
    ModelChange,
    ModelSpec,
    ModelState,
)
from inferd.errors import InferdError, LimitExceededError, ModelBusyError, ModelExistsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The wait after failures in a row: `first_s`, doubled with each, at most `most_s`."""

    first_s: float = 0.5
    most_s: float = 30.0

    def wait_s(self, failures: int) -> float:
        """The wait after this many failures in a row."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))


class Fleet:
    """Models by name and instances by id. One writer: the kernel machine.

    Attributes:
        models: Known models.
        instances: Instances whose worker may still live.
        retries: When a model's backoff ends.
    """

    def __init__(self, backoff: Backoff, models_limit: int) -> None:
        self.models: dict[ModelName, Model] = {}
        self.instances: dict[InstanceId, Instance] = {}
        self.retries: Alarms[ModelName] = Alarms()
        self._backoff = backoff
        self._models_limit = models_limit

    def create(self, spec: ModelSpec, now: float) -> None:
        """Make a model known; the same again changes nothing.

        Raises:
            ModelExistsError: The name stands for something else.
            LimitExceededError: `limits.models` are known.
        """
        known = self.models.get(spec.name)
        if known is not None and known.spec != spec:
            raise ModelExistsError(
                f"model {spec.name!r} exists with source {known.spec.source!r}, backend {known.spec.backend!r} and "
                f"settings {dict(known.spec.settings)}; choose another name",
                field="model.name",
            )
        if known is None and len(self.models) >= self._models_limit:
            limit = str(self._models_limit)
            raise LimitExceededError(
                f"{limit} models are known and limits.models is {limit}",
                metadata={"bound": "limits.models", "value": limit, "limit": limit},
            )
        if known is None:
            self.models[spec.name] = Model(spec=spec, created=now)

    def load(self, model: Model, now: float) -> list[Command]:
        """Start a worker now, whatever the backoff; nothing to do when one is up or coming.

        Raises:
            ModelBusyError: The model is being unloaded.
        """
        if model.state is ModelState.UNLOADING:
            raise ModelBusyError(f"model {model.spec.name!r} is being unloaded; try again when it is UNLOADED")
        if model.state in (ModelState.READY, ModelState.LOADING):
            return []
        return self._start(model, now)

    def start_on_demand(self, model: Model, now: float) -> list[Command]:
        """Start a worker for waiting tasks, or set the alarm for the end of the backoff."""
        if model.state not in (ModelState.UNLOADED, ModelState.FAILED):
            return []
        if now < model.retry_at:
            self.retries.set(model.spec.name, model.retry_at)
            return []
        return self._start(model, now)

    def _start(self, model: Model, now: float) -> list[Command]:
        model.instance_count += 1
        instance_id = InstanceId(f"{model.spec.name}-{model.instance_count}")
        instance = Instance(instance_id=instance_id, model=model.spec.name, created=now)
        model.instances[instance_id] = self.instances[instance_id] = instance
        model.state = advance(MODEL_TABLE, model.state, ModelChange.LOAD)
        model.error = None
        self.retries.cancel(model.spec.name)
        return [StartWorker(instance_id, model.spec), TellModel(model.spec.name)]

    def worker_ready(self, instance_id: InstanceId) -> list[Command]:
        """A worker has spoken."""
        instance = self.instances[instance_id]
        if instance.state is InstanceState.STOPPING:
            return []
        instance.state = advance(INSTANCE_TABLE, instance.state, InstanceChange.HELLO)
        return [TellModel(instance.model)]

    def instance_loaded(self, instance_id: InstanceId, facts: InstanceFacts, now: float) -> list[Command]:
        """A worker can take tasks."""
        instance = self.instances[instance_id]
        if instance.state is InstanceState.STOPPING:
            return []
        instance.state = advance(INSTANCE_TABLE, instance.state, InstanceChange.LOADED)
        instance.facts, instance.ready = facts, now
        model = self.models[instance.model]
        model.state = advance(MODEL_TABLE, model.state, ModelChange.LOADED)
        return [TellModel(instance.model)]

    def instance_refused(self, instance_id: InstanceId, error: InferdError, now: float) -> list[Command]:
        """A worker could not load its model; the model waits out its backoff."""
        instance = self.instances[instance_id]
        if instance.state is InstanceState.STOPPING:
            return []
        self._fail(instance, InstanceChange.FAIL, error, now)
        model = self.models[instance.model]
        model.state = advance(MODEL_TABLE, model.state, ModelChange.LOAD_FAILED)
        model.error = error
        return [StopWorker(instance_id), TellModel(instance.model)]  # it may not end by itself

    def unload(self, model: Model) -> list[Command]:
        """Stop every instance; nothing to do when there is none."""
        living = [i for i in model.instances.values() if not terminal(INSTANCE_TABLE, i.state)]
        ids = [i.instance_id for i in living if i.state is not InstanceState.STOPPING]
        for instance_id in ids:
            instance = self.instances[instance_id]
            instance.state = advance(INSTANCE_TABLE, instance.state, InstanceChange.STOP)
        if model.state in (ModelState.READY, ModelState.LOADING):
            model.state = advance(MODEL_TABLE, model.state, ModelChange.UNLOAD)
        return [*map(StopWorker, ids), TellModel(model.spec.name)]

    def worker_exited(self, instance: Instance, error: InferdError, now: float) -> list[Command]:
        """A worker is gone, asked for or not."""
        model = self.models[instance.model]
        del self.instances[instance.instance_id], model.instances[instance.instance_id]
        match instance.state:
            case InstanceState.STOPPING:
                instance.state = advance(INSTANCE_TABLE, instance.state, InstanceChange.EXIT)
            case InstanceState.FAILED:
                pass  # it had said why before it went
            case _:
                if model.state is ModelState.LOADING:
                    model.error = error
                self._fail(instance, InstanceChange.EXIT, error, now)
                model.state = advance(MODEL_TABLE, model.state, ModelChange.WORKER_DIED)
        if model.state is ModelState.UNLOADING and not model.instances:
            model.state = advance(MODEL_TABLE, model.state, ModelChange.UNLOADED)
        return [TellModel(instance.model)]

    def _fail(self, instance: Instance, change: InstanceChange, error: InferdError, now: float) -> None:
        instance.state = advance(INSTANCE_TABLE, instance.state, change)
        instance.error = error
        model = self.models[instance.model]
        model.failures += 1
        model.retry_at = now + self._backoff.wait_s(model.failures)
