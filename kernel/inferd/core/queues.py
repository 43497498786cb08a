"""The queues of all models: where tasks wait, and how they leave them."""

from collections.abc import Iterator

from inferd.core.commands import Command, TellQueued
from inferd.core.fleet import Fleet
from inferd.core.headroom import Headroom
from inferd.core.ids import ModelName, TaskId
from inferd.core.line import Line, TaskLimits
from inferd.core.model import Instance
from inferd.core.queue import FairQueue
from inferd.core.task import Task, TaskSpec, TaskState


class Queues:
    """What waits for each model. One writer: `Tasks`.

    Args:
        known: All tasks by id.
    """

    def __init__(self, limits: TaskLimits, fleet: Fleet, known: dict[TaskId, Task], out: list[Command]) -> None:
        self._limits = limits
        self._fleet = fleet
        self._known = known
        self._out = out
        self._lines: dict[ModelName, Line] = {}

    def __getitem__(self, name: ModelName) -> Line:
        """What waits for a model."""
        return self._lines[name]

    def add_model(self, name: ModelName) -> None:
        """A model is known: tasks may wait for it."""
        if name not in self._lines:
            limits = self._limits
            self._lines[name] = Line(shared=FairQueue(limits.policy), headroom=Headroom(limits.headroom))

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer."""
        del self._lines[name]

    def waiting(self, name: ModelName) -> Iterator[TaskId]:
        """The tasks that wait for a model."""
        line = self._lines[name]
        for queue in (line.shared, *line.leased.values()):
            yield from queue.tasks()

    def push(self, task: Task, now: float, *, front: bool = False) -> None:
        """Let a task wait for its turn, behind the others of its tenant and class or before them."""
        spec = task.spec
        task.waits_since = now
        self._of(spec).push(
            spec.task_id, tenant=spec.tenant, priority=spec.priority, tokens=task.expected_tokens, now=now, front=front
        )

    def take(self, queue: FairQueue, now: float) -> Task:
        """Take the next task of a queue."""
        task = self._known[queue.pop(now)]
        task.taken = True
        return task

    def take_home(self, instance: Instance) -> None:
        """Have those of class and turn alike go on that were stopped on an instance which takes no others."""
        for task_id in instance.paused:
            task = self._known[task_id]
            if task.state is TaskState.QUEUED and not task.taken and not task.spec.lease_id:
                self._lines[task.spec.model].shared.take(task_id)
                task.taken = True
                instance.waiting[task_id] = None

    def withdraw(self, task: Task, *, used: float | None = None) -> None:
        """Take a task out of wherever it waits or runs; it cost `used` tokens in all, or what it was charged with."""
        spec, task_id = task.spec, task.spec.task_id
        queue, instance = self._of(spec), self.home(task)
        if task.taken:
            task.taken = False
            more = 0.0 if used is None else used - task.charged_tokens
            queue.settle(spec.tenant, expected=task.expected_tokens, used=more)
        elif task.state is TaskState.QUEUED:
            queue.remove(task_id)
        if spec.lease_id and not len(queue) and not queue.running_of(spec.tenant):
            self._lines[spec.model].leased.pop(spec.lease_id, None)
        if instance is not None:
            instance.waiting.pop(task_id, None)
            if task_id in instance.running:
                del instance.running[task_id]
                instance.victims.drop(task_id, spec.priority)
                if spec.lease_id in instance.holds:
                    instance.holds[spec.lease_id].running -= 1

    def home(self, task: Task) -> Instance | None:
        """The instance that holds a task, running or stopped."""
        return None if task.instance_id is None else self._fleet.instances.get(task.instance_id)

    def places(self, spec: TaskSpec) -> int:
        """Places of a task's model that are not those of a lease's own instances."""
        shared = self._fleet.models[spec.model].shared
        return sum(instance.facts.max_tasks for instance in shared if instance.facts is not None)

    def tell(self, task: Task) -> None:
        """Tell the watchers of a task where it waits."""
        position = 0 if task.taken else self._of(task.spec).position(task.spec.task_id)
        eta_s = self._lines[task.spec.model].times.eta_s(position, self.places(task.spec))
        self._out.append(TellQueued(task.spec.task_id, position, eta_s))

    def _of(self, spec: TaskSpec) -> FairQueue:
        line = self._lines[spec.model]
        if not spec.lease_id:
            return line.shared
        return line.leased.setdefault(spec.lease_id, FairQueue(self._limits.policy))
