"""The driver: the one who calls the core, and carries out what it asks for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from inferd.core import commands, events
from inferd.core.changes import Change
from inferd.core.host import LOCAL_HOST
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import Lease, LeaseSpec
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import Instance, Model, ModelSpec
from inferd.core.plan import LoadPlan
from inferd.core.rollout_events import TaskBegan
from inferd.core.task import Outcome, SuspendReason, TaskSpec
from inferd.errors import InferdError, InvalidFieldError, LeaseNotFoundError, ModelBusyError, WorkerDiedError
from inferd.runtime.adapters import Adapters
from inferd.runtime.alarm import Alarm
from inferd.runtime.archive import Archive
from inferd.runtime.asks import Asks
from inferd.runtime.attendance import Attendance
from inferd.runtime.clock import Clock
from inferd.runtime.closing import Closing
from inferd.runtime.driver_limits import DriverLimits
from inferd.runtime.frames import read_facts, read_failure, read_needs, read_outcome
from inferd.runtime.inspection import Inspections, measured_first
from inferd.runtime.instances import answering
from inferd.runtime.keeper import Keeper
from inferd.runtime.link import Arrived
from inferd.runtime.load_progress import LoadProgress
from inferd.runtime.loading import Loading
from inferd.runtime.local_launcher import LocalLauncher
from inferd.runtime.metrics import Metrics
from inferd.runtime.moderation import Moderation
from inferd.runtime.orders import Orders
from inferd.runtime.placement import advise
from inferd.runtime.prefixes import Prefixes
from inferd.runtime.probes import ProbeStream
from inferd.runtime.queries import Queries
from inferd.runtime.questions import Questions
from inferd.runtime.relay import Dispatched, Relay
from inferd.runtime.sandboxing import group_bounds
from inferd.runtime.stream import TaskStream
from inferd.runtime.streams import Streams
from inferd.runtime.supervisor import Supervisor
from inferd.runtime.trail import Trail  # noqa: TC001 - as all of this file
from inferd.runtime.watchers import Watchers
from inferd.store.store import Store
from inferd_api.worker.v1 import step_pb2
from inferd_api.worker.v1 import worker_pb2 as wire


class Driver:
    """Owns the machine, the streams and the supervisor; everything happens on one event loop.

    Attributes:
        machine: The core; changed through the driver only.
        views: What may be read of the core.
        streams: The events of tasks.
        supervisor: The workers.
        clock: The time that the core is told.
        watchers: Of models and leases.
        attendance: The calls that run tasks.
        metrics: What it counts of itself.
        closing: Ends what would wait for longer than the kernel lives.
        keeper: Keeps what outlives the kernel; None where nothing does.
        trail: Tells who did what; None until it is opened.
        archive: Reads ended tasks of kernels before this one when somebody asks for them.
        loading: Has models loaded, unloaded and given other versions.
        prefixes: Prefix caches of models that were unloaded.
        questions: Asks loaded models what is no task.
        moderation, adapters, asks: Rules for workers; what tasks are computed with; what calls ask of models.
        engine_limits: Bounds of all engines.
    """

    def __init__(
        self,
        *,
        core: CoreLimits,
        limits: DriverLimits,
        log_dir: Path,
        store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = Clock() if clock is None else clock
        self.machine = KernelMachine(core)
        self.views, self.metrics = self.machine.views, Metrics(self.machine, names=limits.metrics_names)
        self.streams = Streams(
            stream_bytes=limits.stream_bytes, retained_bytes=limits.retained_bytes, events_bytes=limits.events_bytes
        )
        self.streams.lagged = self.metrics.lagged
        local = LocalLauncher(log_dir, frame_limit_bytes=limits.frame_bytes, bounds=group_bounds(limits.engine.sandbox))
        self.supervisor = Supervisor(times=limits.times, launchers={LOCAL_HOST: local}, listener=self)
        self.watchers = Watchers(self.views, self.streams, self.supervisor, [self.metrics.count_end])
        self.attendance = Attendance(cancel=self.cancel, detach=self.detach)
        self._relay = Relay(self.clock, output_bytes=limits.output_bytes)
        self.moderation = Moderation(self.views, self.supervisor, self._relay)
        self.adapters, self.asks = Adapters(self.views, self.supervisor), Asks(self.supervisor, self._relay)
        self.prefixes = Prefixes(self.views, self.supervisor, limits.prefixes)
        self._orders = Orders(
            self.supervisor, self._relay, self.streams, limits.engine, clock=self.clock, stop=self.prefixes.stop
        )
        self._inspections = Inspections(self.supervisor)
        self._queries = Queries(limit=limits.queries, share=core.tasks.tenant_share, timeout_s=limits.query_timeout_s)
        self.questions = Questions(self._queries, self.supervisor, self._asked)
        self.engine_limits = limits.engine
        self.loading = Loading(self._apply, self.views, self.watchers.models, self.supervisor, limits=core.rollouts)
        self._loads = LoadProgress(self.views, self.streams, self.watchers.models)
        self.closing, self._drained = Closing(), asyncio.Event()
        self._alarm = Alarm(lambda: self._apply(events.Tick()))
        self.keeper = None if store is None else Keeper(store, limits.keeper, self)
        self.archive = Archive(self, limits.keeper.held_tasks)
        self.trail: Trail | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends; then every task is ended and every worker gone."""
        async with asyncio.TaskGroup() as group:
            self._orders.group = group
            try:
                yield
            finally:
                self.close()
        self._alarm.set(None)
        await self.prefixes.written()

    def drain(self, drain_s: float) -> None:
        """Take nothing new and begin no waiting task; what runs goes on, for so long at most; then comes `close`."""
        self._apply(events.Drain(self.clock.now() + drain_s, keeps=self.keeper is not None))
        self.watchers.models.notify_all()  # who watches the kernel's health is among them

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new."""
        return self.machine.ending.draining

    async def drained(self) -> None:
        """Wait until no task runs, once it drains."""
        await self._drained.wait()

    def close(self) -> None:
        """End every task, stop every worker and accept nothing more; again changes nothing."""
        if self.keeper is not None:
            self.keeper.stop()
        self.prefixes.close()
        self._apply(events.Shutdown(keeps_leases=self.keeper is not None))
        self.watchers.close()
        self.closing.close()

    # For the services.

    @property
    def closed(self) -> bool:
        """Whether the kernel is shutting down."""
        return self.machine.closed

    def check_open(self) -> None:
        """Refuse what comes after `close`.

        Raises:
            ShuttingDownError: The kernel is shutting down.
        """
        self.machine.ending.check_open()

    def submit(self, spec: TaskSpec) -> TaskStream:
        """Accept a task, or find the one that the same `request_id` made; its events.

        Raises:
            InferdError: It is refused.
        """
        self.streams.open(spec.task_id)
        try:
            self._apply(events.SubmitTask(spec))
        except InferdError:
            self.streams.forget(spec.task_id)
            raise
        made = self.views.submitted(spec).spec.task_id
        if made != spec.task_id:
            self.streams.forget(spec.task_id)
        return self.streams.get(made)

    def watch(self, task_id: TaskId, tenant: Tenant, *, after: int) -> TaskStream:
        """The events of a task, to be read from behind number `after`.

        Raises:
            TaskNotFoundError: The tenant has no such task.
            InvalidFieldError: There is no such event yet.
        """
        stream = self.streams.get(self.views.task(task_id, tenant).spec.task_id)
        if after > stream.last_sequence:
            message = f"after_sequence is {after}; the newest event is {stream.last_sequence}"
            raise InvalidFieldError(message, field="after_sequence")
        return stream

    def cancel(self, task_id: TaskId, tenant: Tenant) -> None:
        """End a task; one that has ended stays as it is.

        Raises:
            TaskNotFoundError: The tenant has no such task.
        """
        self._apply(events.CancelTask(task_id, tenant))

    def withdraw(self, task_id: TaskId, tenant: Tenant, error: InferdError | None = None) -> None:
        """End a task that cannot be kept as it was to be, or by an error, and forget it."""
        self._apply(events.WithdrawTask(task_id, tenant, error))

    def withdraw_lease(self, lease_id: LeaseId, tenant: Tenant, error: InferdError) -> None:
        """End a lease that was granted and cannot be kept."""
        with suppress(LeaseNotFoundError):
            self._apply(events.WithdrawLease(lease_id, tenant, error))

    def restore(self, before: events.Heritage | events.SetQuotas) -> None:
        """Go on with tasks, whose streams are open, or others of a kernel before this one; or by other quotas."""
        self._apply(before)

    def suspend(self, task_id: TaskId, tenant: Tenant, reason: SuspendReason = SuspendReason.CLIENT) -> None:
        """Stop a task and give its place and KV back; one that is suspended stays as it is.

        Raises:
            TaskNotFoundError: The tenant has no such task.
            TaskStateError: It has ended.
        """
        self._apply(events.SuspendTask(task_id, tenant, reason))

    def resume(self, task_id: TaskId, tenant: Tenant) -> None:
        """Let a suspended task go on; one that waits or runs stays as it is.

        Raises:
            TaskNotFoundError: The tenant has no such task.
            TaskStateError: It has ended.
        """
        self._apply(events.ResumeTask(task_id, tenant))

    def detach(self, task_id: TaskId, tenant: Tenant) -> None:
        """Let a task outlive the calls that watch it; it then expires, if only by default.

        Raises:
            TaskNotFoundError: The tenant has no such task.
            LimitExceededError: Too many are detached.
        """
        self._apply(events.DetachTask(task_id, tenant))

    def create_lease(self, spec: LeaseSpec) -> Lease:
        """Claim capacity, or find the lease that the same `request_id` made.

        Raises:
            InferdError: It is refused.
        """
        self._apply(events.CreateLease(spec))
        return self.views.claimed(spec)

    def keep_alive(self, lease_id: LeaseId, tenant: Tenant, ttl_s: float | None = None) -> Lease:
        """Let a lease hold for its TTL, or a new one, from now on.

        Raises:
            LeaseNotFoundError, LeaseEndedError: There is none, or it has ended.
            InvalidFieldError: The TTL is outside its bounds.
        """
        self._apply(events.KeepAlive(lease_id, tenant, ttl_s))
        return self.views.lease(lease_id, tenant)

    def release_lease(self, lease_id: LeaseId, tenant: Tenant) -> Lease:
        """Give a lease back; one that has ended stays as it is.

        Raises:
            LeaseNotFoundError: The tenant has no such lease.
        """
        self._apply(events.ReleaseLease(lease_id, tenant))
        return self.views.lease(lease_id, tenant)

    def tell_host(self, event: events.HostEvent) -> None:
        """Something happens to a host, the kernel's own too.

        Raises:
            InvalidFieldError: There is no such host, or it cannot be so.
        """
        self._apply(event)

    def measure_foreign(self, device_id: DeviceId, foreign_bytes: int) -> None:
        """Programs that the kernel does not know hold so much of a device."""
        self._apply(events.ForeignMeasured(device_id, foreign_bytes))

    async def plan_load(self, spec: ModelSpec, **how: Any) -> LoadPlan:
        """What loading one more instance would take; workers measure, and load nothing; `how` as for `inspect_all`.

        Raises:
            InferdError: The backend cannot say what the model needs, or its devices are gone for good.
        """
        self.views.check_stranded(spec.name)
        capacities = measured_first(self.views.sites(spec))
        needs = await self._inspections.inspect_all(spec, limits=self.engine_limits, capacities=capacities, **how)
        if self.views.model(spec.name).spec is spec:
            self._apply(events.ModelMeasured(spec.name, needs))  # so that a load decides as the plan does
        return self.views.plan(spec, needs)

    def tokens_per_s(self) -> float:
        """Output tokens a second over the last seconds."""
        return self._relay.rate.tokens_per_s(self.clock.now())

    def create_model(self, spec: ModelSpec, **how: Any) -> Model:
        """Make a model known; `how` as for `events.CreateModel`.

        Raises:
            InferdError: It is refused.
        """
        self._apply(events.CreateModel(spec, **how))
        return self.views.model(spec.name)

    def delete_model(self, name: ModelName, *, drain: bool = False, force: bool = False, leased: bool = False) -> None:
        """Forget a model, at once or once nothing is left of it; the words are those of `DeleteModel`.

        Raises:
            ModelNotFoundError: There is none.
            ModelBusyError: Something is left of it.
        """
        self._apply(events.DeleteModel(name, drain, force, leased))

    async def _asked(self, name: ModelName, lease_id: LeaseId) -> Instance:
        """An instance that answers questions about a model, which is loaded for that if need be."""
        model = self.views.model(name)
        while (instance := answering(model, lease_id)) is None:
            self._apply(events.AskModel(name))
            with self.watchers.models.watch(name) as changed:
                while model.asked:
                    await changed.wait(changed.version)
            self.check_open()
            if not model.shared:
                raise model.error or ModelBusyError(f"model {name!r} was unloaded while it was being loaded")
        return instance

    # For the supervisor.

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame, memories: Arrived = ()) -> None:  # noqa: C901 - a table: one row for each kind
        """A worker has sent a frame, with so many memories."""
        match frame.WhichOneof("kind"):
            case "step":
                self._step(instance_id, frame.step, memories)
            case "answer":
                answer = frame.answer
                why = read_failure(answer.failure, self._log_of(instance_id)) if answer.HasField("failure") else None
                self._queries.answer(instance_id, answer, why)
            case "needs":
                self._apply(events.InstanceNeeds(instance_id, read_needs(frame.needs)))
            case "load_progress":
                self._loads.tell(instance_id, frame.load_progress.fraction)
            case "kept":
                self.prefixes.keep(instance_id, frame.kept, memories)
            case "adapter_told":
                self.adapters.told(instance_id, frame.adapter_told)
            case "adopted":
                self.prefixes.adopted(instance_id, frame.adopted)
            case "loaded":
                self.moderation.give(instance_id)
                self.adapters.give(instance_id)
                self.prefixes.give(instance_id)  # before the first task that may look for it
                self._apply(events.InstanceLoaded(instance_id, read_facts(frame.loaded)))
            case "load_failed":
                error = read_failure(frame.load_failed.failure, self._log_of(instance_id))
                if (instance := self.views.find_instance(instance_id)) is not None:
                    error = advise(error, self.views.model(instance.model).versions[instance.version].spec)
                self._apply(events.InstanceRefused(instance_id, error))

    def worker_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        """The resident memory of a worker has changed."""
        self._apply(events.MemoryMeasured(instance_id, memory_bytes))

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: str) -> None:
        """A worker is gone."""
        error = WorkerDiedError(
            f"worker of instance {instance_id!r} died: {why}", metadata={"cause": why, "log": log_path}
        )
        instance = self.views.find_instance(instance_id)
        if instance is not None and instance.living:  # else it was told to stop, or said itself that it cannot load
            self.metrics.count_death(instance.model)
        self._queries.fail(instance_id, error)
        self.adapters.gone(instance_id)
        self._apply(events.WorkerExited(instance_id, error))
        self._loads.forget(instance_id)
        self._relay.close(instance_id)  # last: what fell due meanwhile may still have dropped tasks of it

    def _log_of(self, instance_id: InstanceId) -> dict[str, str]:
        worker = self.supervisor.workers.get(instance_id)  # none where it could not be started
        return {} if worker is None else {"log": worker.log_path}

    def _step(self, instance_id: InstanceId, step: step_pb2.StepOutput, memories: Arrived) -> None:
        if (instance := self.views.find_instance(instance_id)) is not None:
            self.metrics.count_step(instance, step)
        if step.alone and (suspect := self._relay.find(instance_id, step.alone)) is not None:
            self._apply(events.TaskAlone(suspect.task_id, suspect.attempt))
        for task in self._relay.tell(instance_id, step, memories):
            self._apply(events.TaskPassed(task.task_id, task.attempt))
        self.moderation.told(instance_id, step)
        self.asks.told(instance_id, step)
        for task_id in self._relay.take_begun():
            self._apply(TaskBegan(instance_id, task_id))
        for broken, outcome in self._relay.take_refused(instance_id, self._log_of(instance_id)):
            self._apply(events.TaskEnded(broken.task_id, broken.attempt, outcome))
            self._orders.give_up(instance_id, broken)
        for ended in step.ended:
            if (done := self._relay.find(instance_id, ended.handle)) is not None:
                outcome = read_outcome(ended, self._log_of(instance_id))
                self._ended(instance_id, done, outcome)
                if self._relay.find(instance_id, ended.handle) is not None:  # else its deadline came first
                    self._relay.drop(instance_id, done.task_id)

    def _ended(self, instance_id: InstanceId, done: Dispatched, outcome: Outcome) -> None:
        now = self.clock.now()
        if isinstance(done.stream, ProbeStream):
            self._apply(done.stream.answered(instance_id, done.task_id, outcome, now))
        else:
            pace = done.pace(outcome.usage.output_tokens, now)
            self._apply(events.TaskEnded(done.task_id, done.attempt, outcome, pace))

    # The core.

    def _apply(self, event: events.Event) -> None:
        """Tell the core, keep what has changed, carry out what it asks for, and wake those who watch what has changed.

        Raises:
            InferdError: The event is a client's and is refused.
        """
        now = self.clock.now()
        try:
            said = self.machine.handle(event, now)
        except InferdError:
            self._apply(events.Tick())  # what the passing of time called for must not wait for the next event
            raise
        changed = [each for each in said if isinstance(each, Change)]
        if self.keeper is not None:
            self.keeper.commit(changed)
        for command in said:
            if not isinstance(command, Change):
                self.metrics.count(command, now)
                if not isinstance(command, commands.News):
                    self._orders.obey(command)
        self.prefixes.settle(changed)
        for each in said:
            self.watchers.see(each)
        for change in changed:
            self.metrics.count_change(change)
        while self.watchers.used:
            self._apply(self.watchers.used.pop())
        self._alarm.set(self.machine.next_alarm())
        if self.draining and not self.views.running:
            self._drained.set()
