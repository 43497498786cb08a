"""What becomes of tasks and leases when an instance cannot be loaded, or its worker or its host is gone."""

from typing import Protocol

from inferd.core.capacity import Capacity
from inferd.core.events import TaskEnded
from inferd.core.fleet import Fleet
from inferd.core.ids import ModelName, TaskId
from inferd.core.lease import LeaseState
from inferd.core.leases import Leases
from inferd.core.model import Instance, InstanceState, Model, ModelState
from inferd.core.rollouts import Rollouts
from inferd.core.task import Outcome, SuspendReason, TaskState
from inferd.core.tasks import Tasks
from inferd.core.version import Version
from inferd.errors import BackendFailedError, InferdError, WorkerDiedError


class Owner(Protocol):
    """Who hands out places: the kernel machine."""

    def free(self, name: ModelName) -> None:
        """A model may have places to give."""


class Losses:
    """Ends or moves what hung on an instance. One writer: the kernel machine.

    Args:
        tasks: Tasks.
        fleet: Models and instances.
        leases: Leases.
        capacity: Who waits for memory.
        rollouts: Versions on their way, and on trial.
        deaths: Loads of a model in a row at which workers may die before tasks that ran end for it.
        owner: Is told where places are free.
    """

    def __init__(
        self,
        tasks: Tasks,
        fleet: Fleet,
        leases: Leases,
        capacity: Capacity,
        *,
        rollouts: Rollouts,
        deaths: int,
        owner: Owner,
    ) -> None:
        self._rollouts = rollouts
        self._tasks = tasks
        self._fleet = fleet
        self._leases = leases
        self._capacity = capacity
        self._deaths = deaths
        self._owner = owner

    def give_up(self, instance: Instance, now: float) -> None:
        """End what waits for a model that could not be loaded; what comes later finds a new try or its backoff."""
        model, error = self._fleet.models[instance.model], instance.error
        if instance.lease_id:
            self._give_up_leased(instance, model, now)
            return
        if instance.version != model.serving.number:
            return  # nothing waits for it
        model.asked = False
        if model.state is ModelState.FAILED and error is not None:
            again = isinstance(error, WorkerDiedError) and model.failed_loads <= self._deaths
            self.fail_waiting(instance.model, error, now, keep_begun=again)

    def fail_waiting(
        self, name: ModelName, error: InferdError, now: float, *, keep_begun: bool = False, keep_detached: bool = False
    ) -> None:
        """A model cannot be loaded: whatever waits for it ends, but for what hangs on a lease.

        With `keep_begun` tasks that ran before wait for the next try: the model could be loaded then. With
        `keep_detached` those wait that outlive their clients.
        """
        tasks = (self._tasks.known[task_id] for task_id in self._tasks.waiting(name))
        tasks = (task for task in tasks if not (keep_detached and task.detached))
        waiting = [t.spec.task_id for t in tasks if not t.spec.lease_id and not (keep_begun and t.attempt)]
        self._tasks.finish_all(waiting, Outcome(state=TaskState.FAILED, error=error), now)
        self._capacity.refuse_waiting(name, error, now)

    def _give_up_leased(self, instance: Instance, model: Model, now: float) -> None:
        """End what waits under a lease for an instance that is lost, unless another one serves the lease."""
        lease = self._leases.known.get(instance.lease_id)
        served = any(i.lease_id == instance.lease_id and i.living for i in model.instances.values())
        if lease is None or served or instance.lease_id in model.leases:
            return
        tasks = (self._tasks.known[t] for t in lease.tasks)
        waiting = [t.spec.task_id for t in tasks if t.spec.model == instance.model and t.state is not TaskState.RUNNING]
        self._tasks.finish_all(waiting, Outcome(state=TaskState.FAILED, error=instance.error), now)
        self._owner.free(instance.model)

    def exited(self, instance: Instance, error: InferdError, now: float) -> None:
        """A worker is gone, asked for or not."""
        if instance.adopted and instance.state is InstanceState.LOADING:
            self.lose(instance, error, now)  # which is no load that failed: it is loaded anew where need be
            lease = self._leases.known.get(instance.lease_id)
            if lease is not None and lease.state is LeaseState.ACTIVE:
                lease.models[instance.model] = None  # no host has kept it after all
            return
        was_ready = instance.state is InstanceState.READY
        before = self._before(instance)
        if before is not None or self._fleet.models[instance.model].is_tried(instance):
            self._tasks.interrupt(instance.running, SuspendReason.WORKER_DIED, now)
        self._end_running(instance, error, now)
        told = instance.error is not None
        self._fleet.exited(instance, error, now)
        self._capacity.instance_gone(instance, now)
        model = self._fleet.models[instance.model]
        if before is not None:
            self._rollouts.fall_back(model, before, error, now)
        if was_ready and instance.lease_id and instance.state is InstanceState.FAILED:
            self._replace_leased(instance, model, now)
        if not told and instance.state is InstanceState.FAILED:
            self.give_up(instance, now)

    def _before(self, instance: Instance) -> Version | None:
        """The version that serves again if an instance fails now; None where it is not on trial."""
        model = self._fleet.models[instance.model]
        on_trial = instance.state is InstanceState.READY and model.is_on_trial(instance)
        return model.before if on_trial else None

    def falls_back(self, event: TaskEnded, now: float) -> bool:
        """Whether a task that a backend failed shows that its version is none: then it goes on with the one before."""
        task = self._tasks.known.get(event.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.attempt != event.attempt:
            return False
        instance = None if task.instance_id is None else self._fleet.instances.get(task.instance_id)
        if instance is None or not isinstance(event.outcome.error, BackendFailedError):
            return False
        if (before := self._before(instance)) is None:
            return self._goes_on_with_the_old(instance, event.task_id, now)
        self._tasks.interrupt(tuple(instance.running), SuspendReason.UNLOADED, now)
        self._rollouts.fall_back(self._fleet.models[instance.model], before, event.outcome.error, now)
        return True

    def _goes_on_with_the_old(self, instance: Instance, task_id: TaskId, now: float) -> bool:
        """Whether a task that a backend failed is of a version that comes by steps: it counts, and goes on."""
        model = self._fleet.models[instance.model]
        steps = None if model.rollout is None else model.rollout.steps
        if steps is None or not model.is_tried(instance):
            return False
        steps.awaited.pop(task_id, None)  # it has ended there, and not by being late
        steps.begun.pop(task_id, None)
        steps.new.count(failed=True)
        self._tasks.interrupt((task_id,), SuspendReason.UNLOADED, now)
        self._owner.free(instance.model)
        return True

    def _replace_leased(self, instance: Instance, model: Model, now: float) -> None:
        """Start another instance under a lease for one that died, if tasks wait for it to go on."""
        lease = self._leases.known.get(instance.lease_id)
        if lease is None or lease.state is not LeaseState.ACTIVE:
            return
        waits = any(self._tasks.known[task_id].spec.model == instance.model for task_id in lease.tasks)
        if waits and self._fleet.siting.devices_under(model, instance.lease_id):
            fresh = self._fleet.start(model, now, instance.lease_id)
            self._leases.begin_instance(lease, fresh.instance_id)

    def _end_running(self, instance: Instance, error: InferdError, now: float) -> None:
        """A worker is gone with all that it ran: they go on elsewhere, but for one that it died of."""
        running = tuple(instance.running)
        culprit = instance.suspect if instance.alone or len(running) == 1 else None  # it may die before it computes
        if culprit is not None:
            poison = self._tasks.poison(culprit, error, now)
            self._tasks.finish_all((culprit,), Outcome(state=TaskState.FAILED, error=poison), now, dropped=False)
        others = [task_id for task_id in running if task_id != culprit]
        self._tasks.interrupt(others, SuspendReason.WORKER_DIED, now, died=culprit is None)

    def lose(self, instance: Instance, error: InferdError, now: float) -> None:
        """An instance is gone with its host: its tasks go on elsewhere, and no task is suspected of that."""
        self._tasks.interrupt(instance.running, SuspendReason.WORKER_DIED, now)
        self._fleet.lost(instance, error)
        self._capacity.instance_gone(instance, now)
