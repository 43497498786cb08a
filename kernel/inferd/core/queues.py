"""The queues of all models: where tasks wait, and how they leave them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from inferd.core.changes import ShareChanged
from inferd.core.commands import Reply, TellQueued
from inferd.core.fleet import Fleet
from inferd.core.headroom import Headroom
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.line import Line, TaskLimits
from inferd.core.model import Instance
from inferd.core.priority import Priority
from inferd.core.queue import FairQueue
from inferd.core.restored import RestoredShare, RestoredTask
from inferd.core.task import Task, TaskSpec, TaskState


class Queues:
    """What waits for each model. One writer: `Tasks`.

    Args:
        known: All tasks by id.
    """

    def __init__(self, limits: TaskLimits, fleet: Fleet, known: Mapping[TaskId, Task], out: list[Reply]) -> None:
        self._limits = limits
        self._fleet = fleet
        self._known = known
        self._out = out
        self._lines: dict[ModelName, Line] = {}
        self._moved: dict[tuple[ModelName, Tenant], None] = {}  # whose shares have changed with this event
        self._openings = 0  # of the fleet, when who waits was told of them

    def __getitem__(self, name: ModelName) -> Line:
        """What waits for a model."""
        return self._lines[name]

    def add_model(self, name: ModelName) -> None:
        """A model is known: tasks may wait for it."""
        if name not in self._lines:
            limits = self._limits
            note = partial(self._note, name) if limits.tells_shares else None
            self._lines[name] = Line(shared=FairQueue(limits.policy, note), headroom=Headroom(limits.headroom))

    def _note(self, name: ModelName, tenant: Tenant) -> None:
        self._moved[name, tenant] = None

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer."""
        if self._limits.tells_shares:
            for tenant in self._lines[name].shared.tenants():
                self._note(name, tenant)
        del self._lines[name]

    def restore(self, living: Iterable[RestoredTask], shares: Iterable[RestoredShare]) -> None:
        """Have those that ran go on first, and tenants stand where they stood; all that waited waits again.

        Before that is too early for shares: who comes first would lift others that come later. When a class was passed
        over last is not kept: it may have been when its oldest task came, which gives it one turn too early at most.
        """
        oldest = defaultdict[ModelName, dict[Priority, float]](dict)
        expected: dict[tuple[ModelName, Tenant], float] = {}  # of those that ran: they are charged again
        for kept in living:
            task, spec = self._known[kept.spec.task_id], kept.spec
            if task.state is TaskState.QUEUED:
                ages = oldest[spec.model]
                ages[spec.priority] = min(kept.created, ages.get(spec.priority, kept.created))
            if kept.state is not TaskState.RUNNING or task.state is not TaskState.QUEUED:
                continue
            if not self._is_suspect(task):
                self._of(spec).return_first(spec.task_id)
            if not spec.lease_id:
                of = spec.model, spec.tenant
                expected[of] = expected.get(of, 0.0) + kept.expected_tokens
        for name, ages in oldest.items():
            self._lines[name].shared.restore_ages(ages)
        for share in shares:
            of = share.model, share.tenant
            if (line := self._lines.get(share.model)) is not None:
                line.shared.restore(share.tenant, share.counter, share.level, expected=expected.get(of, 0.0))
            self._note(*of)

    def tell_held(self) -> None:
        """Tell who waits why no host takes an instance, where that has changed with this event."""
        if self._openings == (openings := self._fleet.openings):
            return
        self._openings = openings
        for name, line in self._lines.items():
            if (line.shared or line.suspects) and self._fleet.why_held(name) != line.held:
                for task_id in (*line.suspects, *line.shared.tasks()):
                    self.tell(self._known[task_id])

    def tell_shares(self) -> None:
        """Tell of the shares that have changed with this event."""
        for name, tenant in self._moved:
            queue = None if (line := self._lines.get(name)) is None else line.shared
            counter, level = (None, 0.0) if queue is None else (queue.share(tenant), queue.level)
            self._out.append(ShareChanged(name, tenant, counter, level))
        self._moved.clear()

    def waiting(self, name: ModelName) -> Iterator[TaskId]:
        """The tasks that wait for a model."""
        line = self._lines[name]
        yield from tuple(line.suspects)
        for queue in (line.shared, *line.leased.values()):
            yield from queue.tasks()

    def push(self, task: Task, now: float, *, front: bool = False) -> None:
        """Let a task wait for its turn, behind the others of its tenant and class or before them.

        One that was present at so many deaths of workers as make it a suspect waits to run alone in its batch.
        """
        task.waits_since = now
        if not self._is_suspect(task):
            self._push(task, now, front=front)
        else:
            suspects = self._lines[task.spec.model].suspects
            suspects[task.spec.task_id] = None
            suspects.move_to_end(task.spec.task_id, last=not front)

    def _is_suspect(self, task: Task) -> bool:
        return task.deaths >= self._limits.suspect_deaths

    def take_suspect(self, task: Task, now: float) -> None:
        """Take a task that waits to run alone; it counts as one that was taken from its queue."""
        del self._lines[task.spec.model].suspects[task.spec.task_id]
        self._push(task, now).take(task.spec.task_id)

    def withdraw(self, task: Task, *, used: float) -> None:
        """Take a task out of wherever it waits or runs; it cost `used` tokens in all, if it runs."""
        spec, task_id = task.spec, task.spec.task_id
        line, queue, instance = self._lines[spec.model], self._of(spec), self.home(task)
        if instance is not None:
            queue.settle(spec.tenant, expected=task.expected_tokens, used=used - task.charged_tokens)
            _clear_place(instance, spec)
        elif task_id in line.suspects:
            del line.suspects[task_id]
        elif task.state is TaskState.QUEUED:
            queue.remove(task_id)
        if spec.lease_id and not len(queue) and not queue.running_of(spec.tenant):
            line.leased.pop(spec.lease_id, None)

    def home(self, task: Task) -> Instance | None:
        """The instance that a task runs on; None when it does not run."""
        if task.state is not TaskState.RUNNING or task.instance_id is None:
            return None
        return self._fleet.instances[task.instance_id]

    def places(self, spec: TaskSpec) -> int:
        """Places of a task's model that are not those of a lease's own instances."""
        shared = self._fleet.models[spec.model].shared
        return sum(instance.facts.max_tasks for instance in shared if instance.facts is not None)

    def tell(self, task: Task) -> None:
        """Tell the watchers of a task where it waits."""
        alone = task.spec.task_id in self._lines[task.spec.model].suspects
        position = 0 if alone else self._of(task.spec).position(task.spec.task_id)
        line = self._lines[task.spec.model]
        eta_s = line.times.eta_s(position, self.places(task.spec))
        line.held = self._fleet.why_held(task.spec.model)
        self._out.append(TellQueued(task.spec.task_id, position, eta_s, "" if task.spec.lease_id else line.held))

    def _push(self, task: Task, now: float, *, front: bool = False) -> FairQueue:
        spec, queue = task.spec, self._of(task.spec)
        queue.push(
            spec.task_id, tenant=spec.tenant, priority=spec.priority, tokens=task.expected_tokens, now=now, front=front
        )
        return queue

    def _of(self, spec: TaskSpec) -> FairQueue:
        line = self._lines[spec.model]
        if not spec.lease_id:
            return line.shared
        return line.leased.setdefault(spec.lease_id, FairQueue(self._limits.policy))


def _clear_place(instance: Instance, spec: TaskSpec) -> None:
    """Take a running task off its instance."""
    del instance.running[spec.task_id]
    instance.victims.drop(spec.task_id, spec.priority)
    if spec.lease_id in instance.holds:
        instance.holds[spec.lease_id].running -= 1
    if instance.suspect == spec.task_id:
        instance.suspect, instance.alone = None, False
