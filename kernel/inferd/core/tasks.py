"""Tasks: their queues, their dispatch, and their end. The part of the machine that knows no worker's life."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from inferd.core import admission, commands
from inferd.core.alarms import Alarms
from inferd.core.census import Census
from inferd.core.elastic import Elastic
from inferd.core.fleet import Fleet
from inferd.core.headroom import Headroom
from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
from inferd.core.leases import Leases
from inferd.core.lifecycle import advance, terminal
from inferd.core.line import Line, TaskLimits
from inferd.core.model import Instance, InstanceState, Model
from inferd.core.priority import Priority
from inferd.core.queue import FairQueue
from inferd.core.scheduler import choose_instance, choose_victim
from inferd.core.task import TASK_TABLE, Outcome, Task, TaskChange, TaskSpec, TaskState
from inferd.errors import RequestConflictError, TaskExpiredError, TaskNotFoundError, TaskStateError

CHANGE_OF = {
    TaskState.SUCCEEDED: TaskChange.SUCCEED,
    TaskState.FAILED: TaskChange.FAIL,
    TaskState.CANCELLED: TaskChange.CANCEL,
    TaskState.EXPIRED: TaskChange.EXPIRE,
}


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
        self._fleet = fleet
        self._leases = leases
        self._elastic = elastic
        self._out = out
        self._lines: dict[ModelName, Line] = {}
        self._accepted = 0
        self._ended: OrderedDict[TaskId, None] = OrderedDict()
        self._requests: dict[tuple[Tenant, str], TaskId] = {}
        self._expiries: Alarms[TaskId] = Alarms()

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
        task_id = self._requests.get((spec.tenant, spec.request_id))
        if not spec.request_id or task_id is None:
            return None
        task = self.known[task_id]
        if task.spec.fingerprint != spec.fingerprint:
            raise RequestConflictError(
                f"request_id {spec.request_id!r} made task {task_id} from other contents; use a new request_id",
                field="request_id",
            )
        return task

    def waiting(self, name: ModelName) -> Iterator[TaskId]:
        """The tasks that wait for a model."""
        line = self._lines[name]
        for queue in (line.shared, *line.leased.values()):
            yield from queue.tasks()

    def wait_for(self, name: ModelName) -> bool:
        """Whether tasks without a lease wait for a model."""
        return len(self._lines[name].shared) > 0

    def next_alarm(self) -> float | None:
        """When something is due."""
        oldest = next(iter(self._ended), None)
        retention = None if oldest is None else self._forget_at(oldest)
        return min((t for t in (self._expiries.next(), retention) if t is not None), default=None)

    def expire(self, now: float) -> tuple[ModelName, ...]:
        """End what has expired, forget what was retained for long enough; the models where that freed places.

        Nothing is dispatched: the next in turn may have expired as well, or its lease.
        """
        freed: dict[ModelName, None] = {}
        while (task_id := self._expiries.pop_due(now)) is not None:
            task = self.known[task_id]
            late = TaskExpiredError(f"the deadline passed while the task was {task.state.name}")
            self.finish(task, Outcome(state=TaskState.EXPIRED, error=late), now)
            freed[task.spec.model] = None
        while self._ended and self._forget_at(next(iter(self._ended))) <= now:
            self._forget()
        return tuple(freed)

    def add_model(self, name: ModelName) -> None:
        """A model is known: tasks may wait for it."""
        if name not in self._lines:
            limits = self._limits
            self._lines[name] = Line(shared=FairQueue(limits.policy), headroom=Headroom(limits.headroom))

    def submit(self, spec: TaskSpec, now: float) -> None:
        """Accept a task; what its lease and its model say has been checked.

        Raises:
            QueueFullError: Too many tasks wait, at all, of the tenant or for the model.
            TaskExpiredError: Its deadline has passed.
        """
        line = self._lines[spec.model]
        self._check_bounds(spec)
        line.headroom.see(spec.tenant, now)
        if spec.deadline is not None and spec.deadline <= now:
            raise TaskExpiredError("the deadline had passed before the task arrived")
        self._accepted += 1
        task = self.known[spec.task_id] = Task(spec=spec, number=self._accepted, created=now)
        outputs = line.times.output_tokens(spec.tenant, spec.sampling.max_tokens)
        task.expected_tokens = admission.prompt_tokens(spec.input) + outputs * spec.sampling.n
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.task_id
        if spec.deadline is not None:
            self._expiries.set(spec.task_id, spec.deadline)
        if spec.lease_id:
            self._leases.known[spec.lease_id].tasks[spec.task_id] = None
        self.census.count(task, queued=1)
        self._push(task, now)
        self.dispatch(spec.model, now)
        if task.state is TaskState.QUEUED:
            self._tell_queued(task)

    def _check_bounds(self, spec: TaskSpec) -> None:
        limits, census = self._limits, self.census
        admission.check_queue(census.queued, limits.queued_tasks)
        for name, queued, limit, what in (
            ("scheduler.tenant_queued", census.of_tenant(spec.tenant), limits.tenant_queued, f"tenant {spec.tenant!r}"),
            ("scheduler.model_queued", census.of_model(spec.model), limits.model_queued, f"model {spec.model!r}"),
        ):
            admission.check_bound(name, queued, limit, what)

    def end_attempt(self, task_id: TaskId, attempt: int, outcome: Outcome, now: float) -> Task | None:
        """A worker has ended an attempt; the task, unless that was over before."""
        task = self.known.get(task_id)
        if task is None or terminal(TASK_TABLE, task.state) or task.attempt != attempt or task.instance_id is None:
            return None  # cancelled or expired while the worker's last word was under way
        if outcome.state is TaskState.SUCCEEDED and task.started is not None:
            times = self._lines[task.spec.model].times
            times.observe(task.spec.tenant, run_s=now - task.started, output_tokens=outcome.usage.output_tokens)
        self.finish(task, outcome, now, dropped=False)
        self.dispatch(task.spec.model, now)
        return task

    def suspend(self, task: Task, now: float) -> None:
        """Stop a task for its client; one that is suspended stays as it is.

        Raises:
            TaskStateError: It has ended.
        """
        self._check_living(task)
        if task.state is TaskState.SUSPENDED:
            return
        if task.state is TaskState.RUNNING:
            self._pause(task, TaskChange.SUSPEND)
        else:
            self._withdraw(task)
            task.state = advance(TASK_TABLE, task.state, TaskChange.SUSPEND)
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
        self._push(task, now)
        self.dispatch(task.spec.model, now)
        if task.state is TaskState.QUEUED:
            self._tell_queued(task)

    def finish(self, task: Task, outcome: Outcome, now: float, *, dropped: bool = True) -> None:
        """End a task; `dropped` when its instance, if it has one, still holds it."""
        task_id, spec = task.spec.task_id, task.spec
        if task.state is TaskState.RUNNING:
            self.census.count(task, running=-1)
        else:
            self.census.count(task, queued=-1)
        instance = self._home(task)
        told = float(outcome.usage.prompt_tokens + outcome.usage.output_tokens)
        self._withdraw(task, used=told or task.charged_tokens + task.expected_tokens)
        if instance is not None:
            instance.paused.pop(task_id, None)
            self._out += [commands.DropTask(instance.instance_id, task_id)] if dropped else []
            self._rested(instance, now)
        if spec.lease_id and (lease := self._leases.known.get(spec.lease_id)) is not None:
            lease.tasks.pop(task_id, None)
        task.state = advance(TASK_TABLE, task.state, CHANGE_OF[outcome.state])
        task.outcome, task.finished = outcome, now
        self._expiries.cancel(task_id)
        self._ended[task_id] = None
        self._out.append(commands.TellFinished(task, outcome))
        if len(self._ended) > self._limits.retained_tasks:
            self._forget()

    def finish_all(self, task_ids: Iterable[TaskId], outcome: Outcome, now: float, *, dropped: bool = True) -> None:
        """End several tasks in the same way."""
        for task_id in tuple(task_ids):
            self.finish(self.known[task_id], outcome, now, dropped=dropped)

    # Dispatch.

    def dispatch(self, name: ModelName, now: float) -> None:
        """Hand waiting tasks to the instances of a model, as far as there are places."""
        line, model = self._lines[name], self._fleet.models[name]
        for lease_id in tuple(line.leased):
            self._dispatch_leased(line, model, lease_id, now)
        while self._dispatch_one(line, model, now):
            pass
        if model.spec.max_instances > 1:
            places = any(instance.free_places > 0 for instance in model.shared)
            self._elastic.press(model, pressed=bool(line.shared) and not places, now=now)

    def _dispatch_one(self, line: Line, model: Model, now: float) -> bool:
        """Hand one task to an instance; False when there is none, or no place."""
        if self.census.running_of(model.spec.name) >= self._limits.model_running:
            return False
        shared = model.shared
        for instance in shared:  # tasks whose turn came while their instance was full
            if instance.waiting and instance.free_places > 0:
                self._run(self.known[next(iter(instance.waiting))], instance, now)
                return True
        priority = line.shared.priority(now)
        if priority is None:
            return False
        free = sum(max(0, instance.free_places) for instance in shared)
        if not free:
            return priority is Priority.HIGH and self._preempt(shared, priority, now)
        if priority is not Priority.HIGH and not self._leaves_room(line, free, now):
            return False
        highest = line.shared.priority(now, aging=False)
        task = self._take(line.shared, now)
        task.protected = highest is not None and priority < highest
        home = self._home(task)
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

    def _leaves_room(self, line: Line, free: int, now: float) -> bool:
        """Whether the next task may take a place, or its tenant has to leave the last ones to others."""
        next_id = line.shared.peek(now)
        assert next_id is not None  # noqa: S101 - there is a class that may go
        spec = self.known[next_id].spec
        running = line.shared.running_of(spec.tenant)
        return line.headroom.allows(free=free, places=self._places(spec), running=running)

    def _dispatch_leased(self, line: Line, model: Model, lease_id: LeaseId, now: float) -> None:
        queue = line.leased[lease_id]
        while (task_id := queue.peek(now)) is not None:
            task = self.known[task_id]
            home = self._home(task)
            instance = home if home is not None else self._leased_instance(model, lease_id)
            if instance is None or not self._may_run_leased(line, instance, lease_id, now):
                return
            self._take(queue, now)
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

    def _preempt(self, instances: list[Instance], below: int, now: float, *, for_lease: bool = False) -> bool:
        """Stop the youngest running task of the lowest class, if there is a lower one; whether a place is free now."""
        if not (self._limits.preempt or for_lease):
            return False
        victim = choose_victim(instances, below, protected=for_lease)
        if victim is None:
            return False
        task = self.known[victim]
        self._pause(task, TaskChange.PREEMPT)
        self._push(task, now, front=True)
        return True

    def _run(self, task: Task, instance: Instance, now: float) -> None:
        """Hand a task, taken from its queue, to an instance, or let it go on there."""
        task_id = task.spec.task_id
        task.state = advance(TASK_TABLE, task.state, TaskChange.DISPATCH)
        self.census.count(task, queued=-1, running=1)
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

    def _places(self, spec: TaskSpec) -> int:
        """Places of a task's model that are not those of a lease's own instances."""
        shared = self._fleet.models[spec.model].shared
        return sum(instance.facts.max_tasks for instance in shared if instance.facts is not None)

    def _pause(self, task: Task, change: TaskChange) -> None:
        """Stop a running task; it stays on its instance."""
        instance, task_id = self._home(task), task.spec.task_id
        assert instance is not None  # noqa: S101 - it runs there
        self._withdraw(task, used=task.charged_tokens + task.expected_tokens)
        task.charged_tokens += task.expected_tokens
        task.expected_tokens = 0.0
        task.state = advance(TASK_TABLE, task.state, change)
        instance.paused[task_id] = None
        self.census.count(task, queued=1, running=-1)
        by_client = change is TaskChange.SUSPEND
        self._out.append(commands.PauseTask(instance.instance_id, task_id, by_client=by_client))

    # Queues.

    def _queue_of(self, spec: TaskSpec) -> FairQueue:
        line = self._lines[spec.model]
        if not spec.lease_id:
            return line.shared
        return line.leased.setdefault(spec.lease_id, FairQueue(self._limits.policy))

    def _push(self, task: Task, now: float, *, front: bool = False) -> None:
        spec = task.spec
        self._queue_of(spec).push(
            spec.task_id, tenant=spec.tenant, priority=spec.priority, tokens=task.expected_tokens, now=now, front=front
        )

    def _take(self, queue: FairQueue, now: float) -> Task:
        task = self.known[queue.pop(now)]
        task.taken = True
        return task

    def _withdraw(self, task: Task, *, used: float | None = None) -> None:
        """Take a task out of wherever it waits or runs; it cost `used` tokens in all, or what it was charged with."""
        spec, task_id = task.spec, task.spec.task_id
        queue, instance = self._queue_of(spec), self._home(task)
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

    def _home(self, task: Task) -> Instance | None:
        """The instance that holds a task, running or stopped."""
        return None if task.instance_id is None else self._fleet.instances.get(task.instance_id)

    def _rested(self, instance: Instance, now: float) -> None:
        instance.used = now
        if instance.idle:
            self._fleet.refresh(self._fleet.models[instance.model])
            self._elastic.rest(instance, now)

    def _tell_queued(self, task: Task) -> None:
        queue = self._queue_of(task.spec)
        position = 0 if task.taken else queue.position(task.spec.task_id)
        eta_s = self._lines[task.spec.model].times.eta_s(position, self._places(task.spec))
        self._out.append(commands.TellQueued(task.spec.task_id, position, eta_s))

    def _check_living(self, task: Task) -> None:
        if terminal(TASK_TABLE, task.state):
            state = task.state.name
            raise TaskStateError(f"task {task.spec.task_id} has ended: it is {state}", metadata={"state": state})

    # Retention.

    def _forget_at(self, task_id: TaskId) -> float:
        return (self.known[task_id].finished or 0.0) + self._limits.retention_s

    def _forget(self) -> None:
        task_id, _ = self._ended.popitem(last=False)
        spec = self.known.pop(task_id).spec
        self._requests.pop((spec.tenant, spec.request_id), None)
        self._out.append(commands.ForgetTask(task_id))
