"""Switches that break one rule each, on purpose: with one of them on, a run must turn red."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard

import pytest
from rules import Rule

from inferd.core import admission, capacity, changes, commands, events, queues
from inferd.core.accounts import Account
from inferd.core.bounds import TaskBounds
from inferd.core.broker import Broker
from inferd.core.capacity import Capacity
from inferd.core.census import Census
from inferd.core.dispatch import Dispatcher
from inferd.core.elastic import Elastic
from inferd.core.fleet import Fleet
from inferd.core.ids import DeviceId, LeaseId, ModelName
from inferd.core.lease import Lease, LeaseChange, LeaseState
from inferd.core.leases import Leases
from inferd.core.lifecycle import terminal
from inferd.core.line import TaskLimits
from inferd.core.losses import Losses
from inferd.core.machine import KernelMachine
from inferd.core.model import Instance, InstanceState, Model, ModelSpec
from inferd.core.placement import Site
from inferd.core.plan import LoadPlan
from inferd.core.priority import Priority
from inferd.core.queue import FairQueue
from inferd.core.quotas import Quotas
from inferd.core.relief import Relief
from inferd.core.resources import MemoryNeed
from inferd.core.siting import Siting
from inferd.core.task import TASK_TABLE, Outcome, Task, TaskChange, TaskState
from inferd.core.task_register import TaskRegister
from inferd.core.tasks import Tasks
from inferd.core.version import Version
from inferd.core.views import Views
from inferd.errors import InferdError

Patch = pytest.MonkeyPatch
Replies = tuple[commands.Reply, ...]


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One switch: which rule it breaks, and how."""

    rule: Rule
    apply: Callable[[Patch], None]


def rewrite(change: Callable[[Replies], Replies]) -> Callable[[Patch], None]:
    """Have the machine ask for something else than it wanted."""

    def apply(patch: Patch) -> None:
        handle = KernelMachine.handle
        patch.setattr(KernelMachine, "handle", lambda self, event, now: change(handle(self, event, now)))

    return apply


def is_end(reply: commands.Reply) -> TypeGuard[changes.TaskChanged]:
    return isinstance(reply, changes.TaskChanged) and reply.end is not None


def lose_ends(done: Replies) -> Replies:
    return tuple(c for c in done if not is_end(c) or int(c.task_id[1:]) % 20)


def double_ends(done: Replies) -> Replies:
    return (*done, *(c for c in done if is_end(c)))


def lose_starts(done: Replies) -> Replies:
    return tuple(c for c in done if not isinstance(c, changes.InstanceChanged) or c.state is not InstanceState.LOADING)


def double_sends(done: Replies) -> Replies:
    return (*done, *(c for c in done if isinstance(c, commands.SendTask)))


def forget_deadlines(patch: Patch) -> None:
    handle = KernelMachine.handle

    def forgetful(self: KernelMachine, event: events.Event, now: float) -> Replies:
        if isinstance(event, events.SubmitTask):
            event = events.SubmitTask(replace(event.spec, deadline=None))
        return handle(self, event, now)

    patch.setattr(KernelMachine, "handle", forgetful)


def keep_cancelled(patch: Patch) -> None:
    handle = KernelMachine.handle

    def deaf(self: KernelMachine, event: events.Event, now: float) -> Replies:
        if not isinstance(event, events.CancelTask):
            return handle(self, event, now)
        task = self.views.task(event.task_id, event.tenant)
        done = handle(self, events.Tick(), now)
        if terminal(TASK_TABLE, task.state):
            return done
        outcome = Outcome(state=TaskState.CANCELLED, error=InferdError("cancelled"))
        end = changes.TaskEnd(outcome, None, task.created, task.started, now)
        told = changes.TaskChanged(
            event.task_id,
            event.tenant,
            task.spec.model,
            TaskChange.CANCEL,
            TaskState.CANCELLED,
            task.attempt,
            task.instance_id,
            end=end,
        )
        return (*done, told)

    patch.setattr(KernelMachine, "handle", deaf)


def resume_at_once(patch: Patch) -> None:
    handle = KernelMachine.handle

    def impatient(self: KernelMachine, event: events.Event, now: float) -> Replies:
        done = handle(self, event, now)
        if isinstance(event, events.SuspendTask):
            done += handle(self, events.ResumeTask(event.task_id, event.tenant), now)
        return done

    patch.setattr(KernelMachine, "handle", impatient)


def one_place_more(patch: Patch) -> None:
    places = vars(Instance)["places"].fget
    patch.setattr(Instance, "places", property(lambda self: places(self) + (self.state is InstanceState.READY)))


def one_place_less(patch: Patch) -> None:
    free = vars(Instance)["free_places"].fget
    patch.setattr(Instance, "free_places", property(lambda self: free(self) - 1))


def skip_lines(patch: Patch) -> None:
    serve = Capacity.serve
    calls = iter(range(10**9))
    patch.setattr(Capacity, "serve", lambda self, *args: serve(self, *args) if next(calls) % 3 else None)


def never_age(patch: Patch) -> None:
    priority = FairQueue.priority
    patch.setattr(FairQueue, "priority", lambda self, now, **_: priority(self, now, aging=False))


def lend_without_end(patch: Patch) -> None:
    room = Broker.room_bytes

    def generous(self: Broker, device_id: DeviceId, lease_id: LeaseId) -> int:
        return 10**9 if lease_id else room(self, device_id, lease_id)

    patch.setattr(Broker, "room_bytes", generous)


def overcommit(patch: Patch) -> None:
    room = Broker.room_bytes

    def generous(self: Broker, device_id: DeviceId, lease_id: LeaseId) -> int:
        return room(self, device_id, lease_id) if lease_id else 10**9

    patch.setattr(Broker, "room_bytes", generous)


def expire(shift: float) -> Callable[[Patch], None]:
    """Have leases end at another time: their TTL times `1 + shift`."""

    def apply(patch: Patch) -> None:
        extend = Leases._extend

        def shifted(self: Leases, lease: Lease, now: float) -> None:
            extend(self, lease, now)
            self._expiries.set(lease.spec.lease_id, now + lease.ttl_s * (1 + shift))

        patch.setattr(Leases, "_extend", shifted)

    return apply


def resurrect(patch: Patch) -> None:
    keep_alive = Leases.keep_alive

    def kind(self: Leases, lease_id: LeaseId, *rest: Any) -> None:
        lease = self.known.get(lease_id)
        if lease is not None and lease.state is LeaseState.EXPIRED:
            lease.state = LeaseState.ACTIVE
        keep_alive(self, lease_id, *rest)

    patch.setattr(Leases, "keep_alive", kind)


def keep_tasks(patch: Patch) -> None:
    end = KernelMachine.end_lease

    def careless(self: KernelMachine, lease: Lease, change: LeaseChange, *rest: Any) -> None:
        lease.tasks.clear()
        end(self, lease, change, *rest)

    patch.setattr(KernelMachine, "end_lease", careless)


def same_token(patch: Patch) -> None:
    grant = Leases.grant

    def constant(self: Leases, lease: Lease, now: float) -> None:
        grant(self, lease, now)
        lease.fencing_token = 1

    patch.setattr(Leases, "grant", constant)


def hide_evictions(patch: Patch) -> None:
    plan = Broker.plan

    def blind(self: Broker, device_id: DeviceId, need: MemoryNeed) -> LoadPlan:
        return replace(plan(self, device_id, need), evicted=())

    patch.setattr(Broker, "plan", blind)


def place_anywhere(patch: Patch) -> None:
    def anywhere(
        self: Siting, _model: Model, lease_id: LeaseId, _version: Version | None = None, **_: object
    ) -> list[DeviceId]:
        return [d for d in self._broker.devices if not lease_id or d in self._broker.leased(lease_id)]

    patch.setattr(Siting, "devices_under", anywhere)


def prefer_full(patch: Patch) -> None:
    rank = vars(Site)["rank"].fget
    patch.setattr(Site, "rank", property(lambda self: (self.too_large, *(-cost for cost in rank(self)[1:]))))


def plan_the_last(patch: Patch) -> None:
    plan = Views.plan

    def wrong(self: Views, spec: ModelSpec, needs: Mapping[DeviceId, MemoryNeed]) -> LoadPlan:
        return replace(plan(self, spec, needs), device_id=spec.devices[-1])

    patch.setattr(Views, "plan", wrong)


def start_anywhere(patch: Patch) -> None:
    def any_host(
        self: Siting, model: Model, lease_id: LeaseId, version: Version | None = None, **_: object
    ) -> list[DeviceId]:
        known = [d for d in (version or model.serving).spec.devices if d in self._broker.devices]
        return [d for d in known if not lease_id or d in self._broker.leased(lease_id)]

    patch.setattr(Siting, "devices_under", any_host)


def stay_behind(patch: Patch) -> None:
    def mark(_: Fleet, instance: Instance) -> None:
        instance.leaving = not instance.lease_id

    patch.setattr(Fleet, "leave", mark)


def blame_the_model(patch: Patch) -> None:
    """Who waits for a model fails with a version that cannot be rolled out."""
    give_up = Losses.give_up

    def wrong(self: Losses, instance: Instance, now: float) -> None:
        model = self._fleet.models[instance.model]
        if instance.version != model.serving.number and instance.error is not None:
            self.fail_waiting(instance.model, instance.error, now)
        give_up(self, instance, now)

    patch.setattr(Losses, "give_up", wrong)


def share_all_versions(patch: Patch) -> None:
    def shared(self: Model) -> list[Instance]:
        return [i for i in self.instances.values() if i.living and not i.lease_id]

    patch.setattr(Model, "shared", property(shared))


class UnknownError(InferdError):
    """A reason that the wire API does not have."""

    reason = "UNKNOWN"


def refuse_oddly(patch: Patch) -> None:
    def odd(_: Mapping[ModelName, Model], name: ModelName, *__: object) -> Model:
        raise UnknownError(name)

    patch.setattr(admission, "find_model", odd)


def never_expire(patch: Patch) -> None:
    def careless(self: Tasks, task: Task, _: float) -> None:
        task.detached = True
        self.census.detach(task)

    patch.setattr(Tasks, "_detach", careless)


def low_stays(patch: Patch) -> None:
    take = Dispatcher._take_place

    def polite(self: Dispatcher, instances: list[Instance], task: Task, below: int, now: float) -> bool:
        return task.spec.priority is Priority.HIGH and take(self, instances, task, below, now)

    patch.setattr(Dispatcher, "_take_place", polite)


def end_with_worker(patch: Patch) -> None:
    def harsh(self: Losses, instance: Instance, error: InferdError, now: float) -> None:
        outcome = Outcome(state=TaskState.FAILED, error=error)
        self._tasks.finish_all(tuple(instance.running), outcome, now, dropped=False)

    patch.setattr(Losses, "_end_running", harsh)


def forgive(patch: Patch) -> None:
    patch.setattr(Tasks, "began_alone", lambda *_: None)


def forget_bounds(**changes: float) -> Callable[[Patch], None]:
    """Have other bounds of tasks than those that were set."""

    def apply(patch: Patch) -> None:
        init = TaskBounds.__init__

        def generous(self: TaskBounds, limits: TaskLimits, census: Census) -> None:
            init(self, replace(limits, **changes), census)

        patch.setattr(TaskBounds, "__init__", generous)

    return apply


def stay_passed(patch: Patch) -> None:
    due = Relief._due

    def patient(self: Relief, instance: Instance, since: float) -> tuple[float, float]:
        when, order = due(self, instance, since)
        return when if when > 0 else float("inf"), order

    patch.setattr(Relief, "_due", patient)


def replace_by(owner: object, name: str, value: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


SABOTAGES = {
    "ends are lost": Sabotage(Rule.ONE_END, rewrite(lose_ends)),
    "ends are doubled": Sabotage(Rule.ONE_END, rewrite(double_ends)),
    "deadlines are forgotten": Sabotage(Rule.EXPIRY, forget_deadlines),
    "instances start on any host": Sabotage(Rule.HOST, start_anywhere),
    "instances stay on hosts that drain": Sabotage(Rule.EMPTY, stay_behind),
    "leases outlive their host": Sabotage(Rule.LOSS, replace_by(Capacity, "lessees", lambda *_: [])),
    "changes are not told": Sabotage(Rule.TOLD, rewrite(lose_starts)),
    "cancelled tasks stay in the queue": Sabotage(Rule.DISPATCH, keep_cancelled),
    "suspended tasks go on": Sabotage(Rule.DISPATCH, resume_at_once),
    "requests are forgotten": Sabotage(Rule.ONCE, replace_by(TaskRegister, "repeats", lambda *_: False)),
    "tasks are sent twice": Sabotage(Rule.ATTEMPT, rewrite(double_sends)),
    "detached tasks never expire": Sabotage(Rule.EXPIRY, never_expire),
    "class LOW does not give way": Sabotage(Rule.YIELD, low_stays),
    "suspects run in company": Sabotage(Rule.ALONE, replace_by(queues.Queues, "_is_suspect", lambda *_: False)),
    "tasks end with their worker": Sabotage(Rule.POISON, end_with_worker),
    "what kills workers goes on": Sabotage(Rule.POISON, forgive),
    "an instance gets a task too many": Sabotage(Rule.PLACES, one_place_more),
    "places are kept without end": Sabotage(Rule.PLACES, replace_by(capacity, "has_room", lambda *_: True)),
    "kept places are given away": Sabotage(
        Rule.KEPT, replace_by(Instance, "free_places", property(lambda self: self.places))
    ),
    "a place is never used": Sabotage(Rule.IDLE, one_place_less),
    "those who wait are not looked at": Sabotage(Rule.IDLE, skip_lines),
    "classes do not age": Sabotage(Rule.STARVATION, never_age),
    "the last in line goes first": Sabotage(
        Rule.ORDER, replace_by(Leases, "rank", lambda _self, _priority, created: -created)
    ),
    "claims pass whatever they take": Sabotage(Rule.ORDER, replace_by(Capacity, "_may_pass", lambda *_, **__: True)),
    "models do not drain": Sabotage(Rule.DRAIN, replace_by(Relief, "relieve", lambda *_: None)),
    "who passed others stays": Sabotage(Rule.DRAIN, stay_passed),
    "loads do not pass": Sabotage(Rule.IDLE, replace_by(Capacity, "_pass_loads", lambda *_: None)),
    "memory is given twice": Sabotage(Rule.MEMORY, overcommit),
    "cores are given twice": Sabotage(Rule.CORES, replace_by(Account, "free_cores", property(lambda self: self.cores))),
    "a lease lends more than it has": Sabotage(Rule.SHARE, lend_without_end),
    "busy instances are evicted": Sabotage(
        Rule.EVICTION,
        replace_by(Instance, "idle", property(lambda self: self.state is InstanceState.READY and not self.lease_id)),
    ),
    "models grow without end": Sabotage(
        Rule.INSTANCES, replace_by(Elastic, "_can_grow", lambda _, model: bool(model.shared))
    ),
    "leases end early": Sabotage(Rule.EARLY, expire(-0.5)),
    "leases end late": Sabotage(Rule.LATE, expire(0.1)),
    "ended leases come back": Sabotage(Rule.ENDED, resurrect),
    "tasks outlive their lease": Sabotage(Rule.ENDED, keep_tasks),
    "fencing tokens are all the same": Sabotage(Rule.FENCING, same_token),
    "what workers take is not booked": Sabotage(Rule.BOOKS, replace_by(Broker, "measured", lambda *_: None)),
    "plans tell of no eviction": Sabotage(Rule.PLAN, hide_evictions),
    "plans tell of another device": Sabotage(Rule.PLAN, plan_the_last),
    "models start on any device": Sabotage(Rule.PLACEMENT, place_anywhere),
    "models start where all is taken": Sabotage(Rule.PLACEMENT, prefer_full),
    "loads wait where they do not fit": Sabotage(Rule.PLACEMENT, replace_by(Siting, "is_misplaced", lambda *_: False)),
    "tasks have no bound": Sabotage(Rule.BOUND, forget_bounds(tasks=10**9)),
    "queues have no bound": Sabotage(Rule.BOUND, forget_bounds(queued_tasks=10**9)),
    "one tenant may fill the queue": Sabotage(Rule.BOUND, forget_bounds(tenant_share=1e9)),
    "inputs are not counted": Sabotage(Rule.BOUND, replace_by(TaskBounds, "_check_inputs", lambda *_: None)),
    "any number may be suspended": Sabotage(Rule.BOUND, replace_by(TaskBounds, "check_suspended", lambda *_: None)),
    "any number may be detached": Sabotage(Rule.BOUND, replace_by(TaskBounds, "check_detached", lambda *_: None)),
    "quotas are not looked at": Sabotage(Rule.QUOTA, replace_by(Quotas, "check_task", lambda *_: None)),
    "leases cost no quota": Sabotage(Rule.QUOTA, replace_by(Quotas, "check_lease", lambda *_: None)),
    "device time is not counted": Sabotage(Rule.QUOTA, replace_by(Quotas, "use_device", lambda *_: None)),
    "refusals have no known reason": Sabotage(Rule.REFUSAL, refuse_oddly),
    "each version takes tasks": Sabotage(Rule.VERSION, share_all_versions),
    "a failed version ends tasks": Sabotage(Rule.ROLLOUT, blame_the_model),
    "workers are left behind": Sabotage(Rule.GIVEN_BACK, replace_by(Fleet, "unload", lambda *_: None)),
}

SEEDS: Final = {
    "each version takes tasks": 2,
    "a failed version ends tasks": 2,
    "class LOW does not give way": 4,
    "models do not drain": 7,
    "loads do not pass": 7,
    "plans tell of no eviction": 7,
    "loads wait where they do not fit": 7,
    "queues have no bound": 5,
    "requests are forgotten": 27,
    "suspects run in company": 4,
    "what kills workers goes on": 4,
    "classes do not age": 4,
    "who passed others stays": 8,
    "plans tell of another device": 5,
    "quotas are not looked at": 2,
    "leases cost no quota": 10,
    "device time is not counted": 26,
}
"""Runs that meet a broken rule, where the first ones do not: they are tried first."""
