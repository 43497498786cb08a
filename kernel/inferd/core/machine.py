"""The kernel machine: every policy, no I/O. `handle(event, now)` returns the commands that the event calls for."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import assert_never

from inferd.core import admission, commands, events
from inferd.core.alarms import Alarms
from inferd.core.fleet import Backoff, Fleet
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.lifecycle import advance, terminal
from inferd.core.model import Model, ModelState
from inferd.core.queue import TaskQueue
from inferd.core.scheduler import choose_instance
from inferd.core.task import TASK_TABLE, Outcome, Task, TaskChange, TaskSpec, TaskState
from inferd.errors import (
    InferdError,
    ModelBusyError,
    RequestConflictError,
    ShuttingDownError,
    TaskCancelledError,
    TaskExpiredError,
    TaskNotFoundError,
)

CHANGE_OF = {
    TaskState.SUCCEEDED: TaskChange.SUCCEED,
    TaskState.FAILED: TaskChange.FAIL,
    TaskState.CANCELLED: TaskChange.CANCEL,
    TaskState.EXPIRED: TaskChange.EXPIRE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLimits:
    """Bounds of the core; see `inferd.config` for what each means."""

    queued_tasks: int = 1000
    retained_tasks: int = 1000
    retention_s: float = 600.0
    models: int = 1000
    backoff: Backoff = field(default_factory=Backoff)


class KernelMachine:
    """All state of the kernel. One writer: whoever calls `handle`, one event at a time.

    Attributes:
        tasks: Waiting, running and retained tasks, in the order of their creation.
        fleet: Models and their instances.
    """

    def __init__(self, limits: CoreLimits) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self.fleet = Fleet(limits.backoff, limits.models)
        self._limits = limits
        self._queues: dict[ModelName, TaskQueue] = {}
        self._accepted = 0
        self._queued = 0
        self._running = 0
        self._ended: OrderedDict[TaskId, None] = OrderedDict()
        self._requests: dict[tuple[Tenant, str], TaskId] = {}
        self._expiries: Alarms[TaskId] = Alarms()
        self._closed = False
        self._commands: list[commands.Command] = []
        self._now = 0.0

    @property
    def closed(self) -> bool:
        """Whether the kernel is shutting down."""
        return self._closed

    @property
    def queued_tasks(self) -> int:
        """Tasks that wait."""
        return self._queued

    @property
    def running_tasks(self) -> int:
        """Tasks that run."""
        return self._running

    def task(self, task_id: TaskId, tenant: Tenant) -> Task:
        """The tenant's task of this id.

        Raises:
            TaskNotFoundError: There is none, or it is another tenant's.
        """
        task = self.tasks.get(task_id)
        if task is None or task.spec.tenant != tenant:
            raise TaskNotFoundError(f"no task {task_id!r}; it never was, or its retention ended", field="task_id")
        return task

    def model(self, name: ModelName) -> Model:
        """The model of this name.

        Raises:
            ModelNotFoundError: There is none; the nearest known name is suggested.
        """
        return admission.find_model(self.fleet.models, name)

    def waiting(self, name: ModelName) -> tuple[TaskId, ...]:
        """The waiting tasks of a model, first to last."""
        return self._queues[name].tasks()

    def known_request(self, spec: TaskSpec) -> Task | None:
        """The task that an earlier call with the same `request_id` made, or None.

        Raises:
            RequestConflictError: That call had other contents.
        """
        task_id = self._requests.get((spec.tenant, spec.request_id))
        if not spec.request_id or task_id is None:
            return None
        task = self.tasks[task_id]
        if task.spec.fingerprint != spec.fingerprint:
            raise RequestConflictError(
                f"request_id {spec.request_id!r} made task {task_id} from other contents; use a new request_id",
                field="request_id",
            )
        return task

    def check_open(self) -> None:
        """Refuse what comes after `Shutdown`.

        Raises:
            ShuttingDownError: The kernel is shutting down.
        """
        if self._closed:
            raise ShuttingDownError("the kernel is shutting down")

    def next_alarm(self) -> float | None:
        """When `Tick` is due, on the clock of `handle`; None when nothing is waited for."""
        oldest = next(iter(self._ended), None)
        retention = self._forget_at(oldest) if oldest is not None else None
        times = [t for t in (self._expiries.next(), self.fleet.retries.next(), retention) if t is not None]
        return min(times, default=None)

    def handle(self, event: events.Event, now: float) -> tuple[commands.Command, ...]:
        """Take an event at the time `now` (seconds, never falling) and return what is to be done, in order.

        Raises:
            InferdError: The event is a client's and is refused; nothing but what `now` made due has changed, and the
                commands for that are returned by the next call.
        """
        self._now = max(self._now, now)
        self._ring()
        self._take(event)
        done, self._commands = tuple(self._commands), []
        return done

    def _take(self, event: events.Event) -> None:  # noqa: C901, PLR0912 - a table: one row for each event
        match event:
            case events.SubmitTask():
                self._submit(event.spec)
            case events.TaskEnded():
                self._end_attempt(event)
            case events.CancelTask():
                self._cancel(event)
            case events.CreateModel():
                self.check_open()
                self.fleet.create(event.spec, self._now)
                self._queues.setdefault(event.spec.name, TaskQueue())
            case events.LoadModel():
                self.check_open()
                self._commands += self.fleet.load(self.model(event.name), self._now)
            case events.UnloadModel():
                self._unload(event)
            case events.WorkerReady():
                self._commands += self.fleet.worker_ready(event.instance_id)
            case events.InstanceLoaded():
                self._commands += self.fleet.instance_loaded(event.instance_id, event.facts, self._now)
                self._dispatch(self.fleet.instances[event.instance_id].model)
            case events.InstanceRefused():
                self._commands += self.fleet.instance_refused(event.instance_id, event.error, self._now)
                self._give_up(self.fleet.models[self.fleet.instances[event.instance_id].model])
            case events.WorkerExited():
                self._worker_exited(event)
            case events.Shutdown():
                self._shutdown()
            case events.Tick():
                pass  # whatever is due rang before
            case _:
                assert_never(event)

    def _ring(self) -> None:
        freed: dict[ModelName, None] = {}
        while (task_id := self._expiries.pop_due(self._now)) is not None:
            task = self.tasks[task_id]
            late = TaskExpiredError(f"the deadline passed while the task was {task.state.name}")
            self._finish(task, Outcome(state=TaskState.EXPIRED, error=late))
            freed[task.spec.model] = None
        for name in freed:  # only now, so that nothing is dispatched that has expired as well
            self._dispatch(name)
        while (rested := self.fleet.retries.pop_due(self._now)) is not None:
            self._settle(self.fleet.models[rested])
        while self._ended and self._forget_at(next(iter(self._ended))) <= self._now:
            self._forget()

    # Tasks.

    def _submit(self, spec: TaskSpec) -> None:
        self.check_open()
        model = self.model(spec.model)
        admission.check_queue(self._queued, self._limits.queued_tasks)
        admission.check_backoff(model, self._now)
        if spec.deadline is not None and spec.deadline <= self._now:
            raise TaskExpiredError("the deadline had passed before the task arrived")
        self._accepted += 1
        self.tasks[spec.task_id] = Task(spec=spec, number=self._accepted, created=self._now)
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.task_id
        if spec.deadline is not None:
            self._expiries.set(spec.task_id, spec.deadline)
        position = self._queues[spec.model].push(spec.task_id)
        self._queued += 1
        if model.state is ModelState.READY:
            self._dispatch(spec.model)
        if self.tasks[spec.task_id].state is TaskState.QUEUED:
            self._commands.append(commands.TellQueued(spec.task_id, position))
            self._settle(model)

    def _dispatch(self, name: ModelName) -> None:
        queue = self._queues[name]
        instances = self.fleet.models[name].instances
        while queue and (instance := choose_instance(instances.values())) is not None:
            task = self.tasks[queue.pop()]
            self._queued -= 1
            self._running += 1
            task.state = advance(TASK_TABLE, task.state, TaskChange.DISPATCH)
            task.attempt += 1
            task.started = self._now
            task.instance_id = instance.instance_id
            instance.running[task.spec.task_id] = None
            self._commands.append(commands.SendTask(instance.instance_id, task.spec, task.attempt))

    def _end_attempt(self, event: events.TaskEnded) -> None:
        task = self.tasks.get(event.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.attempt != event.attempt:
            return  # cancelled or expired while the worker's last word was under way
        if event.outcome.state is TaskState.SUCCEEDED:
            self.fleet.models[task.spec.model].failures = 0
        self._finish(task, event.outcome, dropped=False)
        self._dispatch(task.spec.model)

    def _cancel(self, event: events.CancelTask) -> None:
        task = self.task(event.task_id, event.tenant)
        if not terminal(TASK_TABLE, task.state):
            self._finish(task, self._cancelled("the client cancelled the task"))
            self._dispatch(task.spec.model)

    def _cancelled(self, why: str) -> Outcome:
        return Outcome(state=TaskState.CANCELLED, error=TaskCancelledError(why))

    def _finish(self, task: Task, outcome: Outcome, *, dropped: bool = True) -> None:
        """End a task; `dropped` when its instance, if it has one, still computes it."""
        task_id = task.spec.task_id
        if task.state is TaskState.QUEUED:
            self._queues[task.spec.model].remove(task_id)
            self._queued -= 1
        else:
            self._running -= 1
            instance = self.fleet.instances[task.instance_id] if task.instance_id else None
            if instance is not None:
                del instance.running[task_id]
                self._commands += [commands.DropTask(instance.instance_id, task_id)] if dropped else []
        task.state = advance(TASK_TABLE, task.state, CHANGE_OF[outcome.state])
        task.outcome, task.finished = outcome, self._now
        self._expiries.cancel(task_id)
        self._ended[task_id] = None
        self._commands.append(commands.TellFinished(task, outcome))
        if len(self._ended) > self._limits.retained_tasks:
            self._forget()

    def _forget_at(self, task_id: TaskId) -> float:
        return (self.tasks[task_id].finished or 0.0) + self._limits.retention_s

    def _forget(self) -> None:
        task_id, _ = self._ended.popitem(last=False)
        spec = self.tasks.pop(task_id).spec
        self._requests.pop((spec.tenant, spec.request_id), None)
        self._commands.append(commands.ForgetTask(task_id))

    # Models.

    def _settle(self, model: Model) -> None:
        """Have a worker brought up when tasks wait for one."""
        if self._queues[model.spec.name] and not self._closed:
            self._commands += self.fleet.start_on_demand(model, self._now)

    def _give_up(self, model: Model) -> None:
        """End the waiting tasks of a model that could not be loaded; later ones find a new try or its backoff."""
        if model.state is ModelState.FAILED:
            tasks = self._queues[model.spec.name].tasks()
            self._finish_all(tasks, Outcome(state=TaskState.FAILED, error=model.error))

    def _unload(self, event: events.UnloadModel) -> None:
        model = self.model(event.name)
        running = [task_id for i in model.instances.values() for task_id in i.running]
        tasks = (*self._queues[event.name].tasks(), *running)
        if tasks and not event.force:
            raise ModelBusyError(
                f"model {event.name!r} has {len(running)} running and {len(tasks) - len(running)} waiting tasks; "
                "wait for them, or unload with force to cancel them",
                metadata={"running": str(len(running)), "queued": str(len(tasks) - len(running))},
            )
        self._finish_all(tasks, self._cancelled(f"model {event.name!r} was unloaded with force"))
        self._commands += self.fleet.unload(model)

    def _worker_exited(self, event: events.WorkerExited) -> None:
        instance = self.fleet.instances[event.instance_id]
        outcome = Outcome(state=TaskState.FAILED, error=event.error)
        for task_id in tuple(instance.running):
            self._finish(self.tasks[task_id], outcome, dropped=False)
        self._commands += self.fleet.worker_exited(instance, event.error, self._now)
        model = self.fleet.models[instance.model]
        self._give_up(model)
        self._settle(model)

    def _shutdown(self) -> None:
        self._closed = True
        error: InferdError = ShuttingDownError("the kernel is shutting down")
        living = tuple(t for t, task in self.tasks.items() if not terminal(TASK_TABLE, task.state))
        self._finish_all(living, Outcome(state=TaskState.CANCELLED, error=error))
        for model in self.fleet.models.values():
            self._commands += self.fleet.unload(model)

    def _finish_all(self, task_ids: tuple[TaskId, ...], outcome: Outcome) -> None:
        for task_id in task_ids:
            self._finish(self.tasks[task_id], outcome)
