"""Tasks: what becomes of them, from submission to end. The part of the machine that knows no worker's life."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from inferd.core import commands, device_time
from inferd.core.alarms import Alarms
from inferd.core.bounds import TaskBounds
from inferd.core.dispatch import Dispatcher
from inferd.core.elastic import Elastic
from inferd.core.expiry import expired
from inferd.core.fleet import Fleet
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.index import Page
from inferd.core.lease import LeaseState
from inferd.core.leases import Leases
from inferd.core.lifecycle import terminal
from inferd.core.line import TaskLimits
from inferd.core.model import Instance
from inferd.core.past_tasks import Listed
from inferd.core.poison import Poisons
from inferd.core.queues import Queues
from inferd.core.quotas import Quotas
from inferd.core.restored import RestoredShare, RestoredTask
from inferd.core.retention import Retention
from inferd.core.task import TASK_TABLE, Outcome, SuspendReason, Task, TaskChange, TaskSpec, TaskState, cancelled
from inferd.core.task_register import TaskRegister
from inferd.errors import (
    InferdError,
    ModelNotFoundError,
    PoisonError,
    StoreUnavailableError,
    TaskExpiredError,
    TaskStateError,
)


class Tasks:
    """Waiting, running, suspended and retained tasks. One writer: the kernel machine.

    Attributes:
        known: All of them by id, but for `past`; to be read.
        past: Ended ones of kernels before this one whose records are not held.
        census: How many wait and run; to be read.
        bounds: How many may.
        alarms: Of what is due at some time.
        dues: Each says when a task is to be forgotten.
    """

    def __init__(
        self,
        limits: TaskLimits,
        fleet: Fleet,
        leases: Leases,
        elastic: Elastic,
        *,
        quotas: Quotas,
        out: list[commands.Reply],
    ) -> None:
        self._register = TaskRegister(
            retention=Retention(limits.retained_tasks, limits.retention_s),
            detached=Retention(limits.kept_tasks, limits.kept_s),
            quotas=quotas,
            out=out,
        )
        self.known: Mapping[TaskId, Task] = self._register.known
        self.past = self._register.past
        self.census = self._register.census
        self._limits, self._quotas = limits, quotas
        self.bounds = TaskBounds(limits, self.census)
        self._fleet, self._leases, self._elastic = fleet, leases, elastic
        self._out = out
        self._queues = Queues(limits, fleet, self.known, out)
        self._dispatcher = Dispatcher(
            limits, self.known, queues=self._queues, fleet=fleet, elastic=elastic, census=self.census, owner=self
        )
        self._held = False
        self._expiries: Alarms[TaskId] = Alarms()
        self._poisons = Poisons(limits.poison_s)
        self.alarms, self.dues = (self._expiries, self._dispatcher.yields), self._register.dues

    def get(self, task_id: TaskId, tenant: Tenant) -> Task:
        """The tenant's task of this id.

        Raises:
            TaskNotFoundError: There is none, or it is another tenant's.
        """
        return self._register.get(task_id, tenant)

    def page(self, tenant: Tenant, states: Collection[TaskState], *, after: int | None, size: int) -> Page[Listed]:
        """The tenant's tasks in one of these states, none for all, newest first, behind the one of number `after`."""
        return self._register.page(tenant, states, after=after, size=size)

    def made_by(self, spec: TaskSpec) -> Task | None:
        """The task that a submission made, or an earlier one of the tenant with the same `request_id`; else None."""
        return self._register.made_by(spec)

    def requested(self, tenant: Tenant, request_id: str) -> Listed | None:
        """The known task that a submission of the tenant with this `request_id` has made; None for none."""
        return self._register.requested(tenant, request_id)

    def repeats(self, spec: TaskSpec) -> bool:
        """Whether an earlier submission with the same `request_id` has made this task.

        Raises:
            RequestConflictError: That one had other contents.
        """
        return self._register.repeats(spec)

    def waiting(self, name: ModelName) -> Iterator[TaskId]:
        """The tasks that wait for a model."""
        return self._queues.waiting(name)

    def wait_for(self, name: ModelName) -> bool:
        """Whether tasks without a lease wait for a model."""
        line = self._queues[name]
        return len(line.shared) > 0 or any(not self.known[task_id].spec.lease_id for task_id in line.suspects)

    def expire(self, now: float) -> tuple[ModelName, ...]:
        """End what has expired, forget what was retained for long enough; the models where places may be given now.

        Nothing is dispatched: the next in turn may have expired as well, or its lease.
        """
        freed: dict[ModelName, None] = {}
        while (task_id := self._expiries.pop_due(now)) is not None:
            task = self.known[task_id]
            self.finish(task, expired(task, self._fleet.models[task.spec.model].error), now)
            freed[task.spec.model] = None
        while (name := self._dispatcher.pop_due(now)) is not None:
            freed[name] = None
        self._register.forget(now)
        return tuple(freed)

    def add_model(self, name: ModelName) -> None:
        """A model is known: tasks may wait for it."""
        self._queues.add_model(name)

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer; none of its tasks lives."""
        self._queues.forget_model(name)
        self._dispatcher.forget_model(name)
        self._poisons.forget(name)
        self.census.forget_model(name)

    def submit(self, spec: TaskSpec, now: float) -> None:
        """Accept a task; what its lease and its model say has been checked.

        Raises:
            QuotaExceededError: A quota of its tenant does not allow it now.
            QueueFullError: Too many tasks wait, at all, of the tenant or for the model, or their inputs are too large.
            LimitExceededError: It is detached, and too many are.
            TaskExpiredError: Its deadline has passed.
            PoisonError: Workers died of one like it.
        """
        line, tokens = self._queues[spec.model], self.expected(spec)
        self._quotas.check_task(spec, tokens, now)
        self.bounds.check_new(spec, queued=self._fleet.models[spec.model].spec.queued_tasks)
        self._poisons.check(spec, now)
        line.headroom.see(spec.tenant, now)
        if spec.deadline is not None and spec.deadline <= now:
            raise TaskExpiredError("the deadline had passed before the task arrived")
        task = self._register.add(spec, now, tokens=tokens)
        if spec.deadline is not None:
            self._expiries.set(spec.task_id, spec.deadline)
        if spec.detached:
            self._detach(task, now)
        if spec.lease_id:
            self._leases.known[spec.lease_id].tasks[spec.task_id] = None
        self._wait(task, now)

    def expected(self, spec: TaskSpec) -> float:
        """What a task will cost, in tokens."""
        outputs = self._queues[spec.model].times.output_tokens(spec.tenant, spec.demand.most_output)
        return spec.demand.prompt_tokens + outputs * spec.demand.samples

    def restore(
        self, kept: Iterable[RestoredTask], shares: Iterable[RestoredShare], now: float
    ) -> tuple[ModelName, ...]:
        """Go on with tasks of a kernel before this one that had not ended; the models that they wait for.

        Those that ran wait before those that did not, each in the order in which they came. They have been told that
        they wait, or are told that they were stopped. What a task needs and is not there any more, its model or its
        lease, ends it.
        """
        living = sorted(kept, key=lambda each: each.number)
        tasks = [task for each in living if self._is_left_alone(task := self._register.restore(each, now), now)]
        for task in tasks:
            if not task.expected_tokens and not task.attempt:
                task.expected_tokens = self.expected(task.spec)
            if task.expires is not None:
                self._expiries.set(task.spec.task_id, task.expires)
            if task.spec.lease_id:
                self._leases.known[task.spec.lease_id].tasks[task.spec.task_id] = None
        waiting = sorted((task for task in tasks if task.state is TaskState.QUEUED), key=lambda task: not task.attempt)
        for task in waiting:
            self._queues.push(task, now)
        self._queues.restore(living, shares)
        return tuple(dict.fromkeys(task.spec.model for task in waiting))

    def _is_left_alone(self, task: Task, now: float) -> bool:
        """Whether there still is what a task of a kernel before this one needs; without it the task ends."""
        spec = task.spec
        lease, outcome = self._leases.known.get(spec.lease_id), None
        if spec.model not in self._fleet.models:
            gone = f"model {spec.model!r}, which the task waited for, is not known to the kernel that was started again"
            outcome = Outcome(state=TaskState.FAILED, error=ModelNotFoundError(gone, field="model"))
        elif spec.lease_id and (lease is None or lease.state is not LeaseState.ACTIVE):
            outcome = cancelled(f"lease {spec.lease_id}, which the task ran under, has ended")
        if outcome is not None:
            self._register.end(task, outcome, now)
        return outcome is None

    def _wait(self, task: Task, now: float) -> None:
        """Let a task wait, and tell where, unless it can run at once."""
        self._queues.push(task, now)
        self.dispatch(task.spec.model, now)
        if task.state is TaskState.QUEUED:
            self._queues.tell(task)

    def detach(self, task: Task, now: float) -> None:
        """Let a task outlive its client's call; one that does stays as it is.

        One that has ended is known from now on for as long as others that were detached are from their end on.

        Raises:
            LimitExceededError: Too many do.
        """
        if task.detached:
            return
        if task.finished is not None:
            self._register.detach(task, now + self._limits.detached_s, now)
            return
        self.bounds.check_detached(task.spec)
        self._detach(task, now)

    def _detach(self, task: Task, now: float) -> None:
        """Nobody may ever ask for a detached task again: it expires, if only by default."""
        never = task.expires is None
        self._register.detach(task, now + self._limits.detached_s, now)
        if never:
            self._expiries.set(task.spec.task_id, now + self._limits.detached_s)

    def dispatch(self, name: ModelName, now: float) -> None:
        """Hand waiting tasks to the instances of a model, as far as there are places."""
        if not self._held:
            self._dispatcher.dispatch(name, now)

    def tell_shares(self) -> None:
        """Tell what has changed with this event of what tenants were served, where that is told."""
        self._queues.tell_held()
        self._queues.tell_shares()

    def hold(self) -> None:
        """No waiting task begins any more."""
        self._held = True

    def run(self, task: Task, instance: Instance, now: float) -> None:
        """Hand a task, taken from its queue, to an instance."""
        task_id, spec = task.spec.task_id, task.spec
        task.attempt += 1
        task.started = now if task.started is None else task.started
        task.instance_id, task.device_id, task.version = instance.instance_id, instance.device_id, instance.version
        self._register.move(task, TaskChange.DISPATCH)
        device_time.begin(task, instance, now)
        instance.running[task_id] = None
        if not spec.lease_id:
            instance.victims.add(task_id, spec.priority, protected=task.protected)
        if spec.lease_id in instance.holds:
            instance.holds[spec.lease_id].running += 1
        if len(instance.running) == 1:
            self._fleet.refresh(self._fleet.models[instance.model])
        lease = self._leases.known.get(spec.lease_id)
        affinity = self._queues[spec.model].affinity
        last = affinity.find(spec)  # of one that was adopted nobody knows what it has of a sequence
        moved = spec.demand.sticky and (instance.adopted if last is None else last != instance.instance_id)
        if spec.demand.sticky:
            affinity.remember(spec, instance.instance_id)
        self._out.append(
            commands.SendTask(
                instance.instance_id,
                spec,
                task.attempt,
                alone=instance.suspect == task_id,
                fencing_token=0 if lease is None else lease.fencing_token,
                expected_tokens=task.expected_tokens,
                weight=self._limits.policy.weights.get(spec.tenant, 1.0),
                moved=moved,
                awaited=self._fleet.models[instance.model].is_tried(instance),
            )
        )

    # What workers tell.

    def end_attempt(self, task_id: TaskId, attempt: int, outcome: Outcome, now: float) -> Task | None:
        """A worker has ended an attempt; the task, unless that was over before."""
        task = self._running(task_id, attempt)
        if task is None:
            return None
        if outcome.state is TaskState.SUCCEEDED and task.started is not None:
            times = self._queues[task.spec.model].times
            times.observe(task.spec.tenant, run_s=now - task.started, output_tokens=outcome.usage.output_tokens)
        self.finish(task, outcome, now, dropped=False)
        self.dispatch(task.spec.model, now)
        return task

    def began_alone(self, task_id: TaskId, attempt: int) -> None:
        """A worker computes nothing but this task from now on."""
        task = self._running(task_id, attempt)
        if task is not None and (instance := self._queues.home(task)) is not None:
            instance.alone = instance.suspect == task_id

    def passed(self, task_id: TaskId, attempt: int, now: float) -> None:
        """A task that ran alone goes on in company: it is cleared of the deaths that it was present at."""
        task = self._running(task_id, attempt)
        if task is not None and (instance := self._queues.home(task)) is not None and instance.suspect == task_id:
            task.deaths = 0
            instance.suspect, instance.alone = None, False
            self.dispatch(task.spec.model, now)

    def _running(self, task_id: TaskId, attempt: int) -> Task | None:
        """The task whose attempt this is; None when that is over: a worker's words come late."""
        task = self.known.get(task_id)
        runs = task is not None and task.state is TaskState.RUNNING and task.attempt == attempt
        return task if runs else None

    # Stopping and going on.

    def suspend(self, task: Task, reason: SuspendReason, now: float) -> None:
        """Stop a task until it is resumed; one that is suspended stays as it is.

        Raises:
            TaskStateError: It has ended.
            LimitExceededError: Its client asks for that, and too many are suspended.
        """
        self._check_living(task)
        if task.state is TaskState.SUSPENDED:
            return
        if reason is SuspendReason.CLIENT:
            self.bounds.check_suspended(task.spec)
        self.stop(task, TaskChange.SUSPEND, reason, now)
        self.dispatch(task.spec.model, now)

    def resume(self, task: Task, now: float) -> None:
        """Let a suspended task wait for its turn; one that waits or runs stays as it is.

        Raises:
            TaskStateError: It has ended.
        """
        self._check_living(task)
        if task.state is not TaskState.SUSPENDED:
            return
        self._register.move(task, TaskChange.RESUME)
        self._wait(task, now)

    def interrupt(self, task_ids: Iterable[TaskId], reason: SuspendReason, now: float, *, died: bool = False) -> None:
        """Stop running tasks, which wait again before their like, to go on elsewhere.

        Args:
            task_ids: In the order of their dispatch.
            reason: Why.
            now: The time.
            died: Their worker is gone, and any of them may have been the cause: each was present at that death.
        """
        for task_id in reversed(tuple(task_ids)):
            task = self.known[task_id]
            task.deaths += died
            self.stop(task, TaskChange.INTERRUPT, reason, now, dropped=reason is not SuspendReason.WORKER_DIED)

    def stop(self, task: Task, change: TaskChange, reason: SuspendReason, now: float, *, dropped: bool = True) -> None:
        """Stop a task that runs or waits; unless its client wants that, it waits again, before its like.

        Args:
            task: The task.
            change: What happens to it.
            reason: Why, for its watchers.
            now: The time.
            dropped: Whether its instance, if it runs, still holds it.
        """
        self._withdraw(task, now, used=task.charged_tokens + task.expected_tokens, dropped=dropped, again=True)
        if task.state is TaskState.RUNNING:
            task.charged_tokens += task.expected_tokens
            task.expected_tokens = 0.0
        self._register.move(task, change, reason=reason)
        if change is not TaskChange.SUSPEND:
            self._queues.push(task, now, front=True)

    def poison(self, task_id: TaskId, died: InferdError, now: float) -> PoisonError:
        """A worker died while it ran nothing but this task; what that ends with."""
        task = self.known[task_id]
        return self._poisons.add(task.spec, task.deaths + 1, died, now)

    # The end.

    def cancel(self, task: Task, now: float) -> bool:
        """End a task for its client; whether it lived."""
        return self._cut_off(task, cancelled("the client cancelled the task"), now)

    def withdraw(self, task: Task, now: float, error: InferdError | None = None) -> bool:
        """A task cannot be kept: one that was made to be is ended and forgotten; whether it lived and is ended.

        One that was detached later lives with its clients' calls again, but for an `error` by which it ends.
        """
        if not task.spec.detached and error is None:
            self._register.attach(task, now)
            if task.expires is None:
                self._expiries.cancel(task.spec.task_id)
            return False
        why = StoreUnavailableError("the task cannot be kept as it was to be, and is withdrawn; ask for it again")
        lived = self._cut_off(task, Outcome(state=TaskState.FAILED, error=error or why), now)
        self._register.drop(task)
        return lived

    def _cut_off(self, task: Task, outcome: Outcome, now: float) -> bool:
        lives = not terminal(TASK_TABLE, task.state)
        if lives:
            self.finish(task, outcome, now)
        return lives

    def finish(self, task: Task, outcome: Outcome, now: float, *, dropped: bool = True) -> None:
        """End a task; `dropped` when its instance, if it has one, still holds it."""
        task_id, spec = task.spec.task_id, task.spec
        told = float(outcome.usage.prompt_tokens + outcome.usage.output_tokens)
        self._withdraw(task, now, used=told or task.charged_tokens + task.expected_tokens, dropped=dropped)
        if spec.lease_id and (lease := self._leases.known.get(spec.lease_id)) is not None:
            lease.tasks.pop(task_id, None)
        self._expiries.cancel(task_id)
        self._register.end(task, outcome, now)

    def finish_all(self, task_ids: Iterable[TaskId], outcome: Outcome, now: float, *, dropped: bool = True) -> None:
        """End several tasks in the same way."""
        for task_id in tuple(task_ids):
            self.finish(self.known[task_id], outcome, now, dropped=dropped)

    def _withdraw(self, task: Task, now: float, *, used: float, dropped: bool, again: bool = False) -> None:
        """Take a task out of wherever it waits or runs, to run `again` or not; it cost `used` tokens, if it runs."""
        instance = self._queues.home(task)
        if instance is not None:
            self._quotas.use_device(task.spec, device_time.end(task, instance, now), now)
        self._queues.withdraw(task, used=used)
        if instance is not None:
            if dropped:
                self._out.append(commands.DropTask(instance.instance_id, task.spec.task_id, again))
            instance.used = now
            if instance.idle:
                self._fleet.refresh(self._fleet.models[instance.model])
                self._elastic.rest(instance, now)

    def _check_living(self, task: Task) -> None:
        if terminal(TASK_TABLE, task.state):
            state = task.state.name
            raise TaskStateError(f"task {task.spec.task_id} has ended: it is {state}", metadata={"state": state})
