"""Tasks: their queues, their dispatch, and their end. The part of the machine that knows no worker's life."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from inferd.core import admission, commands
from inferd.core.alarms import Alarms
from inferd.core.archive import Archive
from inferd.core.bounds import TaskBounds
from inferd.core.census import Census, Holding
from inferd.core.elastic import Elastic
from inferd.core.fleet import Fleet
from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
from inferd.core.leases import Leases
from inferd.core.lifecycle import advance, terminal
from inferd.core.line import Line, TaskLimits
from inferd.core.model import Instance, InstanceState, Model
from inferd.core.priority import Priority
from inferd.core.queues import Queues
from inferd.core.scheduler import choose_instance, choose_victim
from inferd.core.size import size_bytes
from inferd.core.task import TASK_TABLE, Outcome, Sampling, Task, TaskChange, TaskSpec, TaskState, TextInput
from inferd.errors import TaskExpiredError, TaskNotFoundError, TaskStateError

CHANGE_OF = {
    TaskState.SUCCEEDED: TaskChange.SUCCEED,
    TaskState.FAILED: TaskChange.FAIL,
    TaskState.CANCELLED: TaskChange.CANCEL,
    TaskState.EXPIRED: TaskChange.EXPIRE,
}
QUEUED, SUSPENDED = Holding(queued=1), Holding(suspended=1)
NO_INPUT, NO_SAMPLING = TextInput(""), Sampling()


class Tasks:
    """Waiting, running, suspended and retained tasks. One writer: the kernel machine.

    Attributes:
        known: All of them by id, in the order of their creation.
        census: How many wait and run.
    """

    def __init__(
        self, limits: TaskLimits, fleet: Fleet, leases: Leases, elastic: Elastic, out: list[commands.Command]
    ) -> None:
        self.known: dict[TaskId, Task] = {}
        self.census = Census()
        self._limits = limits
        self._bounds = TaskBounds(limits, self.census)
        self._fleet = fleet
        self._leases = leases
        self._elastic = elastic
        self._out = out
        self._queues = Queues(limits, fleet, self.known, out)
        self._accepted = 0
        self._archive = Archive(
            self.known, retained_tasks=limits.retained_tasks, retention_s=limits.retention_s, out=out
        )
        self._expiries: Alarms[TaskId] = Alarms()
        self._yields: Alarms[ModelName] = Alarms()  # when a class LOW gives way to a NORMAL one

    def get(self, task_id: TaskId, tenant: Tenant) -> Task:
        """The tenant's task of this id.

        Raises:
            TaskNotFoundError: There is none, or it is another tenant's.
        """
        task = self.known.get(task_id)
        if task is None or task.spec.tenant != tenant:
            raise TaskNotFoundError(f"no task {task_id!r}; it never was, or its retention ended", field="task_id")
        return task

    def known_request(self, spec: TaskSpec) -> Task | None:
        """The task that an earlier call with the same `request_id` made, or None.

        Raises:
            RequestConflictError: That call had other contents.
        """
        return self._archive.find(spec)

    def waiting(self, name: ModelName) -> Iterator[TaskId]:
        """The tasks that wait for a model."""
        return self._queues.waiting(name)

    def wait_for(self, name: ModelName) -> bool:
        """Whether tasks without a lease wait for a model."""
        return len(self._queues[name].shared) > 0

    def next_alarm(self) -> float | None:
        """When something is due."""
        times = (self._expiries.next(), self._yields.next(), self._archive.next_alarm())
        return min((t for t in times if t is not None), default=None)

    def expire(self, now: float) -> tuple[ModelName, ...]:
        """End what has expired, forget what was retained for long enough; the models where places may be given now.

        Nothing is dispatched: the next in turn may have expired as well, or its lease.
        """
        freed: dict[ModelName, None] = {}
        while (task_id := self._expiries.pop_due(now)) is not None:
            task = self.known[task_id]
            late = TaskExpiredError(f"the deadline passed while the task was {task.state.name}")
            self.finish(task, Outcome(state=TaskState.EXPIRED, error=late), now)
            freed[task.spec.model] = None
        while (name := self._yields.pop_due(now)) is not None:
            freed[name] = None
        self._archive.forget(now)
        return tuple(freed)

    def add_model(self, name: ModelName) -> None:
        """A model is known: tasks may wait for it."""
        self._queues.add_model(name)

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer; none of its tasks lives."""
        self._queues.forget_model(name)
        self._yields.cancel(name)
        self.census.forget_model(name)

    def submit(self, spec: TaskSpec, now: float) -> None:
        """Accept a task; what its lease and its model say has been checked.

        Raises:
            QueueFullError: Too many tasks wait, at all, of the tenant or for the model, or their inputs are too large.
            LimitExceededError: It is detached, and too many are.
            TaskExpiredError: Its deadline has passed.
        """
        line = self._queues[spec.model]
        input_bytes = size_bytes(spec.input) + size_bytes(spec.sampling) + size_bytes(spec.adapter)
        self._bounds.check_new(spec, input_bytes)
        line.headroom.see(spec.tenant, now)
        if spec.deadline is not None and spec.deadline <= now:
            raise TaskExpiredError("the deadline had passed before the task arrived")
        self._accepted += 1
        task = self.known[spec.task_id] = Task(
            spec=spec, number=self._accepted, created=now, input_bytes=input_bytes, expires=spec.deadline
        )
        outputs = line.times.output_tokens(spec.tenant, spec.sampling.max_tokens)
        task.expected_tokens = admission.prompt_tokens(spec.input) + outputs * spec.sampling.n
        self._archive.begin(spec)
        if spec.deadline is not None:
            self._expiries.set(spec.task_id, spec.deadline)
        self.census.take(task, Holding(queued=1, input_bytes=input_bytes))
        if spec.detached:
            self._detach(task, now)
        if spec.lease_id:
            self._leases.known[spec.lease_id].tasks[spec.task_id] = None
        self._queues.push(task, now)
        self.dispatch(spec.model, now)
        if task.state is TaskState.QUEUED:
            self._queues.tell(task)

    def detach(self, task: Task, now: float) -> None:
        """Let a task outlive its client's call; one that does, or that has ended, stays as it is.

        Raises:
            LimitExceededError: Too many do.
        """
        if not task.detached and not terminal(TASK_TABLE, task.state):
            self._bounds.check_detached(task.spec)
            self._detach(task, now)

    def _detach(self, task: Task, now: float) -> None:
        """Nobody may ever ask for a detached task again: it expires, if only by default."""
        task.detached = True
        self.census.take(task, Holding(detached=1))
        if task.expires is None:
            task.expires = now + self._limits.detached_s
            self._expiries.set(task.spec.task_id, task.expires)

    def end_attempt(self, task_id: TaskId, attempt: int, outcome: Outcome, now: float) -> Task | None:
        """A worker has ended an attempt; the task, unless that was over before."""
        task = self.known.get(task_id)
        if task is None or terminal(TASK_TABLE, task.state) or task.attempt != attempt or task.instance_id is None:
            return None  # cancelled or expired while the worker's last word was under way
        if outcome.state is TaskState.SUCCEEDED and task.started is not None:
            times = self._queues[task.spec.model].times
            times.observe(task.spec.tenant, run_s=now - task.started, output_tokens=outcome.usage.output_tokens)
        self.finish(task, outcome, now, dropped=False)
        self.dispatch(task.spec.model, now)
        return task

    def suspend(self, task: Task, now: float) -> None:
        """Stop a task for its client; one that is suspended stays as it is.

        Raises:
            TaskStateError: It has ended.
            LimitExceededError: Too many are suspended.
        """
        self._check_living(task)
        if task.state is TaskState.SUSPENDED:
            return
        self._bounds.check_suspended(task.spec)
        home = self._queues.home(task)
        if home is not None:
            home.suspended[task.spec.task_id] = None
            self._fleet.refresh_drain(home)
        if task.state is TaskState.RUNNING:
            self._pause(task, TaskChange.SUSPEND)
        else:
            self._queues.withdraw(task)
            task.state = advance(TASK_TABLE, task.state, TaskChange.SUSPEND)
            self.census.leave(task, QUEUED)
            self.census.take(task, SUSPENDED)
            self._out.append(commands.PauseTask(None, task.spec.task_id, by_client=True))
        self.dispatch(task.spec.model, now)

    def resume(self, task: Task, now: float) -> None:
        """Let a suspended task wait for its turn; one that waits or runs stays as it is.

        Raises:
            TaskStateError: It has ended.
        """
        self._check_living(task)
        if task.state is not TaskState.SUSPENDED:
            return
        task.state = advance(TASK_TABLE, task.state, TaskChange.RESUME)
        self.census.leave(task, SUSPENDED)
        self.census.take(task, QUEUED)
        if (home := self._queues.home(task)) is not None:
            home.suspended.pop(task.spec.task_id, None)
            self._fleet.refresh_drain(home)
        self._queues.push(task, now)
        self.dispatch(task.spec.model, now)
        if task.state is TaskState.QUEUED:
            self._queues.tell(task)

    def finish(self, task: Task, outcome: Outcome, now: float, *, dropped: bool = True) -> None:
        """End a task; `dropped` when its instance, if it has one, still holds it."""
        task_id, spec = task.spec.task_id, task.spec
        if task.state is TaskState.RUNNING:
            self.census.run(task, -1)
        else:
            self.census.leave(task, SUSPENDED if task.state is TaskState.SUSPENDED else QUEUED)
        self.census.leave(task, Holding(detached=int(task.detached), input_bytes=task.input_bytes))
        instance = self._queues.home(task)
        told = float(outcome.usage.prompt_tokens + outcome.usage.output_tokens)
        self._queues.withdraw(task, used=told or task.charged_tokens + task.expected_tokens)
        if instance is not None:
            instance.paused.pop(task_id, None)
            if instance.suspended.pop(task_id, True) is None:
                self._fleet.refresh_drain(instance)
            self._out += [commands.DropTask(instance.instance_id, task_id)] if dropped else []
            self._rested(instance, now)
        if spec.lease_id and (lease := self._leases.known.get(spec.lease_id)) is not None:
            lease.tasks.pop(task_id, None)
        task.state = advance(TASK_TABLE, task.state, CHANGE_OF[outcome.state])
        task.outcome, task.finished = outcome, now
        task.spec, task.input_bytes = replace(spec, input=NO_INPUT, sampling=NO_SAMPLING, adapter="", embedding=None), 0
        self._expiries.cancel(task_id)
        self._out.append(commands.TellFinished(task, outcome))
        self._archive.end(task_id)

    def finish_all(self, task_ids: Iterable[TaskId], outcome: Outcome, now: float, *, dropped: bool = True) -> None:
        """End several tasks in the same way."""
        for task_id in tuple(task_ids):
            self.finish(self.known[task_id], outcome, now, dropped=dropped)

    # Dispatch.

    def dispatch(self, name: ModelName, now: float) -> None:
        """Hand waiting tasks to the instances of a model, as far as there are places."""
        line, model = self._queues[name], self._fleet.models[name]
        for lease_id in tuple(line.leased):
            self._dispatch_leased(line, model, lease_id, now)
        while self._dispatch_one(line, model, now):
            pass
        if model.spec.max_instances > 1:
            places = any(instance.open_places > 0 for instance in model.shared)
            self._elastic.press(model, pressed=bool(line.shared) and not places, now=now)

    def _dispatch_one(self, line: Line, model: Model, now: float) -> bool:
        """Hand one task to an instance; False when there is none, or no place."""
        if self.census.running_of(model.spec.name) >= self._limits.model_running:
            return False
        shared = model.shared
        if self._run_at_home(shared, now):
            return True
        priority = line.shared.priority(now)
        if priority is None:
            return False
        free = sum(max(0, instance.open_places) for instance in shared)
        if not free:
            return self._take_place_for_first(line, [i for i in shared if not i.draining], priority, now)
        if priority is not Priority.HIGH and not self._leaves_room(line, free, now):
            return False
        highest = line.shared.priority(now, aging=False)
        task = self._queues.take(line.shared, now)
        task.protected = highest is not None and priority < highest
        home = self._queues.home(task)
        if home is None:
            preferred = line.affinity.find(task.spec) if len(shared) > 1 else None
            chosen = choose_instance(shared, preferred)
            assert chosen is not None  # noqa: S101 - one has a free place
            if len(shared) > 1:
                line.affinity.remember(task.spec, chosen.instance_id)
            self._run(task, chosen, now)
        elif home.free_places > 0:
            self._run(task, home, now)
        else:
            home.waiting[task.spec.task_id] = None
        return True

    def _run_at_home(self, instances: list[Instance], now: float) -> bool:
        """Let one task go on whose turn came while its instance was full; False when there is none, or no place."""
        for instance in instances:
            if instance.draining:
                self._queues.take_home(instance)
            for task_id in instance.waiting:
                task = self.known[task_id]
                if instance.free_places > 0:
                    self._run(task, instance, now)
                    return True
                if self._take_place([instance], task, task.spec.priority, now):
                    return True  # there is a place now, or one less is lacking of those that are kept for leases
                break
        return False

    def _leaves_room(self, line: Line, free: int, now: float) -> bool:
        """Whether the next task may take a place, or its tenant has to leave the last ones to others."""
        return self._allows(line, line.shared.peek(now), free)

    def _allows(self, line: Line, next_id: TaskId | None, free: int) -> bool:
        assert next_id is not None  # noqa: S101 - there is a class that may go
        spec = self.known[next_id].spec
        running = line.shared.running_of(spec.tenant)
        return line.headroom.allows(free=free, places=self._queues.places(spec), running=running)

    def _dispatch_leased(self, line: Line, model: Model, lease_id: LeaseId, now: float) -> None:
        queue = line.leased[lease_id]
        while (task_id := queue.peek(now)) is not None:
            task = self.known[task_id]
            home = self._queues.home(task)
            instance = home if home is not None else self._leased_instance(model, lease_id)
            if instance is None or not self._may_run_leased(line, instance, lease_id, now):
                return
            self._queues.take(queue, now)
            self._run(task, instance, now)

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
        first_id = line.shared.peek(now, aging=False)
        assert first_id is not None  # noqa: S101 - there is a class that may go
        first = self.known[first_id]
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
            self._yields.advance(task.spec.model, due_at)
            return False
        return self._preempt(instances, below, now)

    def _preempt(self, instances: list[Instance], below: int, now: float, *, for_lease: bool = False) -> bool:
        """Stop the youngest running task of the lowest class, if there is a lower one; whether a place is free now."""
        if not (self._limits.preempt or for_lease):
            return False
        victim = choose_victim(instances, below, protected=for_lease)
        if victim is None:
            return False
        task = self.known[victim]
        self._pause(task, TaskChange.PREEMPT)
        self._queues.push(task, now, front=True)
        return True

    def _run(self, task: Task, instance: Instance, now: float) -> None:
        """Hand a task, taken from its queue, to an instance, or let it go on there."""
        task_id = task.spec.task_id
        task.state = advance(TASK_TABLE, task.state, TaskChange.DISPATCH)
        self.census.leave(task, QUEUED)
        self.census.run(task, +1)
        instance.running[task_id] = None
        if not task.spec.lease_id:
            instance.victims.add(task_id, task.spec.priority, protected=task.protected)
        if task.spec.lease_id in instance.holds:
            instance.holds[task.spec.lease_id].running += 1
        if len(instance.running) == 1:
            self._fleet.refresh(self._fleet.models[instance.model])
        if task_id in instance.paused:
            del instance.paused[task_id]
            instance.waiting.pop(task_id, None)
            self._out.append(commands.ContinueTask(instance.instance_id, task_id))
            return
        task.attempt += 1
        task.started = now
        task.instance_id = instance.instance_id
        lease = self._leases.known.get(task.spec.lease_id)
        self._out.append(
            commands.SendTask(
                instance.instance_id,
                task.spec,
                task.attempt,
                fencing_token=0 if lease is None else lease.fencing_token,
                expected_tokens=task.expected_tokens,
                weight=self._limits.policy.weights.get(task.spec.tenant, 1.0),
            )
        )

    def _pause(self, task: Task, change: TaskChange) -> None:
        """Stop a running task; it stays on its instance."""
        instance, task_id = self._queues.home(task), task.spec.task_id
        assert instance is not None  # noqa: S101 - it runs there
        self._queues.withdraw(task, used=task.charged_tokens + task.expected_tokens)
        task.charged_tokens += task.expected_tokens
        task.expected_tokens = 0.0
        task.state = advance(TASK_TABLE, task.state, change)
        instance.paused[task_id] = None
        self.census.run(task, -1)
        self.census.take(task, SUSPENDED if change is TaskChange.SUSPEND else QUEUED)
        by_client = change is TaskChange.SUSPEND
        self._out.append(commands.PauseTask(instance.instance_id, task_id, by_client=by_client))

    def _rested(self, instance: Instance, now: float) -> None:
        instance.used = now
        if instance.idle:
            self._fleet.refresh(self._fleet.models[instance.model])
            self._elastic.rest(instance, now)

    def _check_living(self, task: Task) -> None:
        if terminal(TASK_TABLE, task.state):
            state = task.state.name
            raise TaskStateError(f"task {task.spec.task_id} has ended: it is {state}", metadata={"state": state})
