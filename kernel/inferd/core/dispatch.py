"""Who goes where: the waiting tasks of a model and the places of its instances."""

from collections.abc import Mapping
from typing import Protocol

from inferd.core.alarms import Alarms
from inferd.core.census import Census
from inferd.core.elastic import Elastic
from inferd.core.fleet import Fleet
from inferd.core.ids import LeaseId, ModelName, TaskId
from inferd.core.line import Line, TaskLimits
from inferd.core.model import Instance, InstanceState, Model
from inferd.core.priority import Priority
from inferd.core.queues import Queues
from inferd.core.scheduler import choose_instance, choose_victim
from inferd.core.task import SuspendReason, Task, TaskChange
from inferd.errors import present


class Owner(Protocol):
    """Who owns the tasks."""

    def run(self, task: Task, instance: Instance, now: float) -> None:
        """Hand a task, taken from its queue, to an instance."""

    def stop(self, task: Task, change: TaskChange, reason: SuspendReason, now: float, *, dropped: bool = True) -> None:
        """Stop a task, to go on later."""


class Dispatcher:
    """Hands waiting tasks to instances, and has tasks of lower classes give way. One writer: `Tasks`.

    Attributes:
        yields: When a class LOW gives way to a NORMAL one, by model; set from here.

    Args:
        limits: Bounds of tasks.
        known: All tasks by id.
        queues: Where they wait.
        fleet: Models and their instances.
        elastic: Told where places are short.
        census: How many tasks run.
        owner: Of the tasks.
    """

    def __init__(
        self,
        limits: TaskLimits,
        known: Mapping[TaskId, Task],
        *,
        queues: Queues,
        fleet: Fleet,
        elastic: Elastic,
        census: Census,
        owner: Owner,
    ) -> None:
        self._limits = limits
        self._known = known
        self._queues = queues
        self._fleet = fleet
        self._elastic = elastic
        self._census = census
        self._owner = owner
        self.yields: Alarms[ModelName] = Alarms()

    def pop_due(self, now: float) -> ModelName | None:
        """Take a model whose places may be given now, or None."""
        return self.yields.pop_due(now)

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer."""
        self.yields.cancel(name)

    def dispatch(self, name: ModelName, now: float) -> None:
        """Hand waiting tasks to the instances of a model, as far as there are places."""
        line, model = self._queues[name], self._fleet.models[name]
        for lease_id in tuple(line.leased):
            self._dispatch_leased(line, model, lease_id, now)
        while (line.shared or line.suspects) and self._dispatch_one(line, model, now):
            pass
        if model.spec.max_instances > 1:
            places = any(instance.open_places > 0 for instance in model.shared)
            self._elastic.press(model, pressed=bool(line.shared) and not places, now=now)

    def _dispatch_one(self, line: Line, model: Model, now: float) -> bool:
        """Hand one task to an instance; False when there is none, or no place."""
        if self._census.of_model(model.spec.name).running >= self._limits.model_running:
            return False
        if line.suspects and self._dispatch_suspect(line, model, now):
            return True
        shared = self._takers(line, model, now)
        free = sum([max(0, instance.open_places) for instance in shared])
        may = free or choose_victim(shared, Priority.HIGH) is not None
        priority = line.shared.priority(now) if may else None
        if priority is None:
            return False
        if not free:
            return self._take_place_for_first(line, [i for i in shared if not i.draining], priority, now)
        next_id = line.shared.peek(now)
        if self._must_wait(line, shared, next_id) or (
            priority is not Priority.HIGH and not self._allows(line, next_id, free)
        ):
            return False
        highest = line.shared.priority(now, aging=False)
        task = self._known[line.shared.pop(now)]
        task.protected = highest is not None and priority < highest
        sticky = task.spec.demand.sticky
        preferred = line.affinity.find(task.spec) if len(shared) > 1 else None
        chosen = present(choose_instance(shared, preferred, sticky=sticky))  # one has a free place
        if len(shared) > 1 and not sticky:  # else whoever runs it does so
            line.affinity.remember(task.spec, chosen.instance_id)
        if model.rollout is not None and (steps := model.rollout.steps) is not None:
            steps.count_sent(task, now, new=model.is_rolling(chosen))
        self._owner.run(task, chosen, now)
        return True

    def _takers(self, line: Line, model: Model, now: float) -> list[Instance]:
        """Who may take the next task: the version that serves, or one that comes by steps, if it is its turn.

        One that is to have all new tasks has them wait for it; a smaller share is taken while there is a place.
        """
        if model.rollout is None or (steps := model.rollout.steps) is None or not steps.due:
            return model.shared
        next_id, trying = line.shared.peek(now), model.trying
        task = None if next_id is None else self._known[next_id]
        if task is None or task.attempt or task.spec.demand.sticky:
            return model.shared
        takes = steps.takes_all or any(instance.open_places > 0 for instance in trying)
        return trying if takes else model.shared

    def _dispatch_suspect(self, line: Line, model: Model, now: float) -> bool:
        """Hand a task that is to run alone in its batch to an instance where no other one is; whether one could go."""
        for task_id in line.suspects:
            task = self._known[task_id]
            chosen = choose_instance(i for i in self._able(line, model, task, now) if i.suspect is None)
            if chosen is not None:
                self._queues.take_suspect(task, now)
                chosen.suspect, chosen.alone = task_id, False
                task.protected = True  # a class above it would take its place, and it another one, without an end
                self._owner.run(task, chosen, now)
                return True
        return False

    def _able(self, line: Line, model: Model, task: Task, now: float) -> list[Instance]:
        """The instances that may take a task, if they have a place."""
        lease_id = task.spec.lease_id
        if not lease_id:
            return model.shared
        leased = self._leased_instance(model, lease_id)
        return [i for i in (leased,) if i is not None and self._may_run_leased(line, i, lease_id, now)]

    def _must_wait(self, line: Line, shared: list[Instance], next_id: TaskId | None) -> bool:
        """Whether the next task has to go to an instance that has no place now."""
        spec = self._known[next_id].spec if next_id is not None else None
        if spec is None or not spec.demand.sticky or len(shared) < 2:  # noqa: PLR2004 - there is nowhere else
            return False
        home = line.affinity.find(spec)
        return any(instance.instance_id == home and instance.open_places <= 0 for instance in shared)

    def _allows(self, line: Line, next_id: TaskId | None, free: int) -> bool:
        """Whether the next task may take a place, or its tenant has to leave the last ones to others."""
        spec = self._known[present(next_id)].spec  # there is a class that may go
        running = line.shared.running_of(spec.tenant)
        return line.headroom.allows(free=free, places=self._queues.places(spec), running=running)

    def _dispatch_leased(self, line: Line, model: Model, lease_id: LeaseId, now: float) -> None:
        queue = line.leased[lease_id]
        while (task_id := queue.peek(now)) is not None:
            instance = self._leased_instance(model, lease_id)
            if instance is None or not self._may_run_leased(line, instance, lease_id, now):
                return
            queue.pop(now)
            self._owner.run(self._known[task_id], instance, now)

    def _leased_instance(self, model: Model, lease_id: LeaseId) -> Instance | None:
        """Where the next task of a lease goes: an instance of its own, or the one that keeps its part of the model."""
        own = [i for i in model.instances.values() if i.lease_id == lease_id and i.places > 0]
        if own:
            return own[0]
        kept = model.leases.get(lease_id)
        return None if kept is None else self._fleet.instances.get(kept)

    def _may_run_leased(self, line: Line, instance: Instance, lease_id: LeaseId, now: float) -> bool:
        if instance.lease_id == lease_id:
            return instance.places > 0
        hold = instance.holds.get(lease_id)
        if hold is not None and hold.unused and instance.state is InstanceState.READY:
            return instance.places > 0 or self._preempt([instance], Priority.HIGH + 1, now, for_lease=True)
        return instance.free_places > 0 and not line.shared

    def _take_place_for_first(self, line: Line, shared: list[Instance], due: Priority, now: float) -> bool:
        """Have a place freed for the first of the highest class, or for the class that is due before it."""
        first_id = present(line.shared.peek(now, aging=False))  # there is a class that may go
        first = self._known[first_id]
        if first.spec.priority is not Priority.HIGH and not self._allows(line, first_id, 1):
            return False
        below = first.spec.priority if due >= first.spec.priority else due + 1  # else it would take one of its betters
        return self._take_place(shared, first, below, now)

    def _take_place(self, instances: list[Instance], task: Task, below: int, now: float) -> bool:
        """Have a running task below a class give its place to one of class HIGH at once, of class NORMAL in time."""
        if choose_victim(instances, below) is None or not self._limits.preempt:
            return False
        due_at = task.waits_since + (0.0 if task.spec.priority is Priority.HIGH else self._limits.low_yields_s)
        if now < due_at:
            self.yields.advance(task.spec.model, due_at)
            return False
        return self._preempt(instances, below, now)

    def _preempt(self, instances: list[Instance], below: int, now: float, *, for_lease: bool = False) -> bool:
        """Stop the youngest running task of the lowest class, if there is a lower one; whether a place is free now."""
        if not (self._limits.preempt or for_lease):
            return False
        victim = choose_victim(instances, below, protected=for_lease)
        if victim is None:
            return False
        self._owner.stop(self._known[victim], TaskChange.PREEMPT, SuspendReason.PREEMPTED, now)
        return True
