"""The kernel machine: every policy, no I/O. `handle(event, now)` returns what is to be done, and what has changed.

It routes. Tasks are in `tasks`, models and instances in `fleet`, leases in `leases`, who gets memory in `capacity`.
"""

from dataclasses import dataclass, field
from typing import assert_never

from inferd.core import admission, commands, events
from inferd.core.backoff import Backoff
from inferd.core.broker import Broker
from inferd.core.capacity import Capacity
from inferd.core.elastic import Elastic, ElasticTimes
from inferd.core.ending import Ending
from inferd.core.fleet import Fleet
from inferd.core.growth import Growth, GrowthLimits
from inferd.core.host_events import AdoptWorkers, AwaitHosts, CordonHost, HostHolds, OrderHosts
from inferd.core.hosting import Hosting
from inferd.core.hosts import Hosts
from inferd.core.ids import InstanceId, ModelName
from inferd.core.lease import LIVING, Lease, LeaseChange, LeaseSpec, ModelClaim
from inferd.core.leases import LeaseLimits, Leases
from inferd.core.line import TaskLimits
from inferd.core.losses import Losses
from inferd.core.model import Instance, InstanceState, Model, ModelState
from inferd.core.naming import Naming
from inferd.core.past_events import PastEvent
from inferd.core.quota import Quota
from inferd.core.quotas import Quotas
from inferd.core.restoration import Restoration
from inferd.core.rollout_events import ProbeAnswered, TaskBegan
from inferd.core.rollouts import RolloutLimits, Rollouts
from inferd.core.task import SuspendReason, TaskSpec, TaskState, cancelled
from inferd.core.tasks import Tasks
from inferd.core.traits import SetTraits
from inferd.core.unloading import Unloading
from inferd.core.views import Views
from inferd.errors import InferdError, LeaseUnavailableError, ModelBusyError


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLimits:
    """Bounds of the core; see `inferd.config` for what each means."""

    tasks: TaskLimits = field(default_factory=TaskLimits)
    leases: LeaseLimits = field(default_factory=LeaseLimits)
    elastic: ElasticTimes = field(default_factory=ElasticTimes)
    growth: GrowthLimits = field(default_factory=GrowthLimits)
    quotas: tuple[Quota, ...] = ()
    quota_books: int = 10_000
    rollouts: RolloutLimits = field(default_factory=RolloutLimits)
    models: int = 1000
    backoff: Backoff = field(default_factory=Backoff)


class KernelMachine:
    """All state of the kernel. One writer: whoever calls `handle`, one event at a time.

    Attributes:
        tasks: Waiting, running, suspended and retained tasks.
        fleet: Models and their instances.
        leases: Leases.
        broker: Devices and who holds them.
        hosts: Hosts.
        quotas: What tenants may use, and what they do.
        ending: Whether it takes anything new.
        views: What may be read of all that.
    """

    def __init__(self, limits: CoreLimits) -> None:
        self._out: list[commands.Reply] = []
        out = self._out
        self.broker = Broker()
        self.hosts = Hosts(self.broker, out)
        self.fleet = Fleet(
            limits.backoff,
            models=limits.models,
            versions=limits.rollouts.versions,
            hosts=self.hosts,
            broker=self.broker,
            out=out,
        )
        self.quotas = Quotas(limits.quotas, books=limits.quota_books, out=out)
        self.leases = Leases(limits.leases, self.quotas, out)
        self._capacity = Capacity(self.broker, self.fleet, self.leases, limits.elastic.drain_s, out)
        self._rollouts = Rollouts(limits.rollouts, self.fleet, self._capacity, broker=self.broker, owner=self, out=out)
        self._growth = Growth(limits.growth, self.broker, self.fleet, out)
        self._elastic = Elastic(limits.elastic, self.fleet)
        self.tasks = Tasks(limits.tasks, self.fleet, self.leases, self._elastic, quotas=self.quotas, out=out)
        self._naming = Naming(self.fleet)
        self._unloading = Unloading(self.fleet, self.tasks, self.leases, self._capacity)
        self._losses = Losses(
            *(self.tasks, self.fleet, self.leases, self._capacity),
            rollouts=self._rollouts,
            deaths=limits.tasks.suspect_deaths,
            owner=self,
        )
        self._restoration = Restoration(self.tasks, self.leases, fleet=self.fleet, broker=self.broker, owner=self)
        self._hosting = Hosting(
            *(self.hosts, self.fleet, self.leases, self._capacity),
            broker=self.broker,
            restoration=self._restoration,
            owner=self,
            out=out,
        )
        self.ending = Ending(self.tasks, self.leases, self.fleet, self)
        self.views = Views(self.tasks, self.fleet, self.leases, self.broker, self.quotas, self.hosts)
        self._freed: dict[ModelName, None] = {}  # models that may have places to give
        self._now = 0.0
        parts = (self.fleet, self.tasks, self.leases, self._elastic, self._capacity, self._rollouts)
        self._alarms = [alarms for part in parts for alarms in part.alarms]
        self._alarm: float | None = None  # asked of them once an event

    @property
    def closed(self) -> bool:
        """Whether the kernel is shutting down."""
        return self.ending.closed

    def next_alarm(self) -> float | None:
        """When `Tick` is due, on the clock of `handle`; None when nothing is waited for."""
        return self._alarm

    def handle(self, event: events.Event, now: float) -> tuple[commands.Reply, ...]:
        """Take an event at the time `now` (seconds, never falling); what is to be done and what has changed, in order.

        Raises:
            InferdError: It is a client's and is refused; what `now` made due all the same the next call tells.
        """
        self._now = max(self._now, now)
        try:
            if self._alarm is not None and self._alarm <= self._now:
                self._ring()
                self._give_what_is_free()
            self._decide(event)
            self._rollouts.settle(self._now)
            self._hosting.settle()
            self._give_what_is_free()
            for name in self._unloading.settle():
                self._elastic.forget(name)
        finally:
            dues = [alarms.heap[0][0] for alarms in self._alarms if alarms.heap]  # without a call for each
            self._alarm = min(dues + [at for due in self.tasks.dues if (at := due()) is not None], default=None)
        self.leases.tell()
        self.tasks.tell_shares()
        self.quotas.tell()
        done = tuple(self._out)
        self._out.clear()
        return done

    def _decide(self, event: events.Event) -> None:  # noqa: C901, PLR0912, PLR0915 - a table: one row for each event
        match event:
            case events.SubmitTask():
                self._submit(event.spec)
            case events.TaskEnded():
                self._task_ended(event)
            case ProbeAnswered() | TaskBegan():
                self._rollouts.take(event, self._now)
            case events.TaskAlone():
                self.tasks.began_alone(event.task_id, event.attempt)
            case events.TaskPassed():
                self.tasks.passed(event.task_id, event.attempt, self._now)
            case events.CancelTask() | events.WithdrawTask():
                self._cancel(event)
            case events.RestoreTasks() | events.RestoreLeases() | PastEvent():
                self._restoration.take(event, self._now)
            case events.RestoreUses() | events.SetQuotas() | events.TaskUsed():
                self.quotas.take(event, self.tasks.known, self.leases.known, self._now)
            case events.SuspendTask():
                self.tasks.suspend(self.tasks.get(event.task_id, event.tenant), event.reason, self._now)
            case events.ResumeTask():
                task = self.tasks.get(event.task_id, event.tenant)
                if task.state is TaskState.SUSPENDED:
                    admission.check_stranded(self.fleet.models[task.spec.model], self.broker.atlas)
                self.tasks.resume(task, self._now)
                self.reconcile(self.fleet.models[task.spec.model])
            case events.DetachTask():
                self.tasks.detach(self.tasks.get(event.task_id, event.tenant), self._now)
            case events.CreateLease():
                self._create_lease(event.spec)
            case events.KeepAlive():
                self.leases.keep_alive(event.lease_id, event.tenant, event.ttl_s, self._now)
            case events.ReleaseLease():
                if (lease := self.leases.get(event.lease_id, event.tenant)).state in LIVING:
                    self.end_lease(lease, LeaseChange.RELEASE)
            case events.WithdrawLease():
                if (lease := self.leases.get(event.lease_id, event.tenant)).state in LIVING:
                    self.end_lease(lease, LeaseChange.LOSE, event.error)
                    self.leases.forget_request(lease)
            case events.CreateModel():
                self._create_model(event)
            case events.LoadModel():
                self._load(event)
            case events.AskModel():
                self._ask(event)
            case events.UnloadModel():
                self._unload(event)
            case events.UpdateModel():
                self.ending.check_taking(self._now)
                admission.check_staying(model := self.views.model(event.name))
                self._rollouts.begin(model, event, self._now)
                self._elastic.bounded(model, self._now)
            case SetTraits():
                self._naming.set(event)
            case events.DeleteModel():
                self._delete(event)
            case events.InstanceNeeds():
                if (instance := self._living(event.instance_id)) is not None:
                    self._instance_needs(instance, event)
            case events.InstanceLoaded():
                self._instance_loaded(event)
            case events.InstanceRefused():
                if (instance := self._living(event.instance_id)) is not None:
                    self.fleet.refused(instance, event.error, self._now)
                    self._losses.give_up(instance, self._now)
            case events.WorkerExited():
                self._worker_exited(event)
            case events.HostFound() | events.HostJoined() | events.HostLost() | events.HostLeft():
                self._hosting.tell(event, self._now)
            case HostHolds() | AdoptWorkers():
                self._hosting.tell(event, self._now)
            case CordonHost() | events.DrainHost() | events.ResumeHost() | OrderHosts() | AwaitHosts():
                self._hosting.order(event, self._now)
            case events.ForeignMeasured():
                self.broker.set_foreign(event.device_id, event.foreign_bytes)
            case events.MemoryMeasured():
                if (instance := self._living(event.instance_id)) is not None:
                    self._growth.measured(instance, event.memory_bytes)
            case events.ModelMeasured():
                model = self.views.model(event.name)
                self.fleet.measured(model, model.serving, event.needs)
            case events.Drain():
                self.ending.drain(event, self._now)
            case events.Shutdown():
                self.ending.shutdown(event, self._now)
            case events.Tick():
                pass  # whatever is due rang before
            case _:
                assert_never(event)

    def _living(self, instance_id: InstanceId) -> Instance | None:
        """An instance that takes tasks or will; None when it is gone or going: a worker's last frames come late."""
        instance = self.fleet.instances.get(instance_id)
        return instance if instance is not None and instance.living else None

    def _give_what_is_free(self) -> None:
        """Hand out places and memory that the event freed, after everything that it ended has ended."""
        while self._freed or self.broker.eased or self._capacity.eased or self.fleet.leavers:
            self.fleet.let_go()
            self._capacity.relieve_eased(self._now)  # first: what is to drain takes no task with this same event
            freed, self._freed = self._freed, {}
            for name in freed:
                self.tasks.dispatch(name, self._now)
            self._capacity.serve_eased(self._now)
            self._freed |= self._capacity.take_eased(self._now)

    def _ring(self) -> None:
        now = self._now
        self._freed |= dict.fromkeys(self.tasks.expire(now))
        while (lease := self.leases.pop_expired(now)) is not None:
            self.end_lease(lease, LeaseChange.EXPIRE)
        while (lease := self.leases.pop_waited(now)) is not None:
            late = LeaseUnavailableError(f"there was no room in {lease.spec.wait_s:g} s: {lease.waits_for}")
            self.end_lease(lease, LeaseChange.REFUSE, late)
        while (rested := self.fleet.retries.pop_due(now)) is not None:
            self.reconcile(self.fleet.models[rested])
        self._elastic.ring(now)
        self._capacity.ring(now)

    def _submit(self, spec: TaskSpec) -> None:
        if spec.request_id and self.tasks.repeats(spec):
            return
        self.ending.check_taking(self._now)
        admission.check_staying(model := self.views.model(spec.model))
        admission.check_stranded(model, self.broker.atlas)
        if spec.lease_id:
            admission.check_covered(spec, model, self.leases)
        elif not model.shared:
            admission.check_backoff(model, self._now)
        self.tasks.submit(spec, self._now)
        self.reconcile(model)

    def _task_ended(self, event: events.TaskEnded) -> None:
        if self._losses.falls_back(event, self._now):
            return
        task = self.tasks.end_attempt(event.task_id, event.attempt, event.outcome, self._now)
        if task is None:
            return
        model = self.fleet.models[task.spec.model]
        self._rollouts.task_ended(model, task, event.pace)
        if task.state is TaskState.SUCCEEDED:
            model.failures = 0
            if model.before is not None and task.version == model.serving.number:
                self._rollouts.end_trial(model)

    def _cancel(self, event: events.CancelTask | events.WithdrawTask) -> None:
        task = self.tasks.get(event.task_id, event.tenant)
        if isinstance(event, events.CancelTask):
            lived = self.tasks.cancel(task, self._now)
        else:
            lived = self.tasks.withdraw(task, self._now, event.error)
        if lived:
            self._freed[task.spec.model] = None

    # Leases.

    def _create_lease(self, spec: LeaseSpec) -> None:
        if spec.request_id and self.leases.repeats(spec):
            return
        self.ending.check_taking(self._now)
        for claim in spec.claims:
            if isinstance(claim, ModelClaim) and (model := self.fleet.models.get(claim.model)) is not None:
                admission.check_staying(model)
        self._capacity.create_lease(spec, self._now)

    def end_lease(self, lease: Lease, change: LeaseChange, error: InferdError | None = None) -> None:
        """End a lease, with all that hangs on it."""
        why = f"lease {lease.spec.lease_id}, which the task ran under, has ended"
        self._freed |= {self.tasks.known[t].spec.model: None for t in lease.tasks}
        self._freed |= {c.model: None for c in lease.spec.claims if isinstance(c, ModelClaim)}
        self.tasks.finish_all(lease.tasks, cancelled(why), self._now)
        self._capacity.end_lease(lease, change, self._now, error)

    # Models.

    def _create_model(self, event: events.CreateModel) -> None:
        self.ending.check_taking(self._now)
        self._naming.check_name(event.spec.name)
        self.fleet.create(event, self._now)
        self.tasks.add_model(event.spec.name)
        self.reconcile(self.fleet.models[event.spec.name])

    def _load(self, event: events.LoadModel) -> None:
        self.ending.check_taking(self._now)
        admission.check_staying(model := self.views.model(event.name))
        if not event.lease_id:
            self.fleet.load(model, self._now)
            return
        lease = self.leases.active(event.lease_id, event.tenant)
        admission.check_room(lease, model, self.fleet.siting)
        if not admission.is_loaded_under(lease, model):
            self._restoration.load_under(lease, model, self._now)

    def _ask(self, event: events.AskModel) -> None:
        self.ending.check_taking(self._now)
        model = self.views.model(event.name)
        if any(instance.state is InstanceState.READY for instance in model.shared):
            return
        admission.check_staying(model)
        admission.check_stranded(model, self.broker.atlas)
        if not model.shared:
            if model.state is ModelState.UNLOADING:
                raise ModelBusyError(f"model {event.name!r} is being unloaded; ask again when it is UNLOADED")
            admission.check_backoff(model, self._now)
        model.asked = True
        self.reconcile(model)

    def reconcile(self, model: Model) -> None:
        """Have workers brought up where somebody waits for them."""
        if self.ending.draining or model.gives_way:
            return
        self._restoration.load_again(model, self._now)
        name, least = model.spec.name, 0 if model.going else model.spec.min_instances
        if not model.shared and (
            self.tasks.wait_for(name) or model.lacks_hold or self._capacity.wanted(name) or model.asked
        ):
            self.fleet.start_on_demand(model, self._now)
        for _ in range(least - len(model.shared) if least else 0):
            self.fleet.start_on_demand(model, self._now)

    def _instance_needs(self, instance: Instance, event: events.InstanceNeeds) -> None:
        model = self.fleet.models[instance.model]
        self.fleet.needs(instance, event.need)
        if self._moves(instance):
            return
        if model.rollout is not None and model.is_rolling(instance):
            self._rollouts.needs(model, model.rollout, instance, event.need, self._now)
            return
        kept = model.leases or self._capacity.wanted(instance.model) or model.spec.min_instances > 0
        may_wait = self.tasks.wait_for(instance.model) or bool(kept)
        self._capacity.instance_needs(instance, event.need, self._now, may_wait=may_wait)
        if not instance.living:
            self._losses.give_up(instance, self._now)

    def _moves(self, instance: Instance) -> bool:
        """Whether an instance that has not begun to load does better elsewhere; then another one is started there."""
        if not self.fleet.siting.is_misplaced(instance):
            return False
        fresh = self.fleet.start_elsewhere(instance, self._now)
        if instance.lease_id:
            self.leases.known[instance.lease_id].instances[fresh.instance_id] = None
        return True

    def outgrow(self, instance: Instance) -> None:
        """An instance waits for more than its device has at all any more: it goes elsewhere, or fails."""
        waits = instance.state is InstanceState.WAITING and instance.need is not None
        if waits and not self._moves(instance):
            self._capacity.refuse_load(instance, self._now)
            self._losses.give_up(instance, self._now)

    def _instance_loaded(self, event: events.InstanceLoaded) -> None:
        if (instance := self._living(event.instance_id)) is None:
            return
        self.fleet.loaded(instance, event.facts, self._now)
        self._rollouts.settle(self._now)  # it may take the tasks from now on
        self.tasks.dispatch(instance.model, self._now)  # before leases that could evict it again
        self._elastic.loaded(instance, self._now)
        self._capacity.instance_ready(instance, self._now)
        self._freed[instance.model] = None  # leases may hold a part of it now

    def fail_waiting(self, name: ModelName, error: InferdError, *, keep_detached: bool = False) -> None:
        """A model cannot be loaded: whatever waits for it ends."""
        self._losses.fail_waiting(name, error, self._now, keep_detached=keep_detached)

    def _unload(self, event: events.UnloadModel) -> None:
        model = self.views.model(event.name)
        if event.instance_id is None:
            self._unloading.unload(model, self._now, force=event.force)
            return
        self._unloading.unload_instance(model, event.instance_id, self._now)
        self._freed[event.name] = None
        self.reconcile(model)

    def _delete(self, event: events.DeleteModel) -> None:
        self.ending.check_open()
        model = self.views.model(event.name)
        if event.drain or event.force:
            self._unloading.remove(model, self._now, force=event.force, leased=event.leased)
            return
        self._unloading.forget(model)
        self._elastic.forget(event.name)

    def _worker_exited(self, event: events.WorkerExited) -> None:
        instance = self.fleet.instances.get(event.instance_id)
        if instance is None:
            return  # it was given up with its host
        self._losses.exited(instance, event.error, self._now)
        self._freed[instance.model] = None
        self.reconcile(self.fleet.models[instance.model])

    def lose(self, instance: Instance, error: InferdError) -> None:
        """An instance is gone with its host."""
        self._losses.lose(instance, error, self._now)

    def move_off(self, instance: Instance) -> None:
        """Have the tasks of an instance go on elsewhere."""
        self.tasks.interrupt(tuple(instance.running), SuspendReason.UNLOADED, self._now)

    def free(self, name: ModelName) -> None:
        """A model may have places to give."""
        self._freed[name] = None
