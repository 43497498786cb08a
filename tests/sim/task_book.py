"""Tasks and the places of instances, reckoned from events and commands alone."""

import heapq
from collections import Counter
from dataclasses import dataclass, field

from rules import BrokenRuleError, Rule
from tally import Tally, input_bytes

from inferd.core.commands import ContinueTask, DropTask, HoldCapacity, PauseTask, SendTask, TellFinished
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.priority import Priority
from inferd.core.task import TaskSpec, TaskState


@dataclass(slots=True)
class Entry:
    """A task, living or ended and not yet forgotten."""

    spec: TaskSpec
    living: bool = True
    suspended: bool = False
    home: InstanceId | None = None
    running: bool = False
    attempts: int = 0
    expires: float | None = None
    detached: bool = False
    since: float = 0.0  # when it began to wait
    turn: bool = False  # it runs, and was sent while a higher class waited


@dataclass(slots=True, eq=False)
class Place:
    """A worker and what it holds."""

    instance_id: InstanceId
    model: ModelName
    device_id: DeviceId
    lease_id: LeaseId
    created: float
    facts: InstanceFacts | None = None
    ready_at: float | None = None
    stopping: bool = False
    running: dict[TaskId, None] = field(default_factory=dict)
    paused: dict[TaskId, None] = field(default_factory=dict)
    holds: dict[LeaseId, tuple[int, int]] = field(default_factory=dict)
    running_of: Counter[LeaseId] = field(default_factory=Counter)

    @property
    def ready(self) -> bool:
        return self.facts is not None and not self.stopping

    @property
    def room(self) -> int:
        """Places that nobody has."""
        return 0 if self.facts is None or self.stopping else self.facts.max_tasks - len(self.running)

    @property
    def free(self) -> int:
        """Places that nobody has or keeps."""
        kept = sum(max(0, sequences - self.running_of[lease]) for lease, (sequences, _) in self.holds.items())
        return self.room - kept


@dataclass(slots=True)
class Delay:
    """How a class was passed over since it was last served.

    Attributes:
        turns: How often.
        since: When that was for the highest class first, as far as it is seen here: from then it ages.
        late: How often after twice the aging.
    """

    turns: int = 0
    since: float | None = None
    late: int = 0


@dataclass(slots=True)
class Waiting:
    """What waits for one model.

    Attributes:
        loose: Tasks without a lease that may go to any instance.
        stopped: Those that were stopped on one, and go on there.
        leased: As `loose`, under leases.
        leased_stopped: As `stopped`, under leases.
        delays: Of the classes that were passed over.
    """

    spec: ModelSpec
    places: dict[InstanceId, Place] = field(default_factory=dict)
    loose: Counter[tuple[Priority, Tenant]] = field(default_factory=Counter)
    stopped: Counter[tuple[Priority, Tenant]] = field(default_factory=Counter)
    leased: Counter[LeaseId] = field(default_factory=Counter)
    leased_stopped: Counter[LeaseId] = field(default_factory=Counter)
    running: Counter[Tenant] = field(default_factory=Counter)
    running_tasks: int = 0
    waiting_tasks: int = 0
    delays: dict[Priority, Delay] = field(default_factory=dict)
    normal: dict[TaskId, None] = field(default_factory=dict)  # of class NORMAL, of `loose`
    low: dict[TaskId, None] = field(default_factory=dict)  # of class LOW, without a lease, that run


class TaskBook:
    """Tasks by id, places by instance, and what waits by model. One writer: the mirror."""

    def __init__(self, limits: TaskLimits) -> None:
        self.known: dict[TaskId, Entry] = {}
        self.places: dict[InstanceId, Place] = {}
        self.models: dict[ModelName, Waiting] = {}
        self.accepted = 0
        self.ends: Counter[TaskState] = Counter()
        self.living = Tally("tasks have not ended")
        self.queued = Tally("tasks wait")  # tasks that wait, those that clients have suspended left out
        self.suspended = Tally("tasks are suspended")
        self.detached_tasks = Tally("tasks are detached")
        self.input_bytes = Tally("bytes of inputs are held")
        self.retained = 0
        self._expiries: list[tuple[float, TaskId]] = []
        self._grew: list[tuple[Tally, Entry, float, int]] = []  # with this event: what, by whom, its bound, how much
        self.touched: dict[ModelName, None] = {}
        self._arrived: Entry | None = None  # it waits since this event, which may have ended others before it came
        self._preempted = Counter[Tenant]()  # with this event
        self._low: dict[ModelName, None] = {}  # models where such ones run
        self.draining = dict[InstanceId, None]()  # as the machine says; who may be is checked by the mirror
        self._limits = limits
        self._aging_s = limits.policy.aging_s

    def submitted(self, spec: TaskSpec, now: float) -> None:
        self.accepted += 1
        self.known[spec.task_id] = self._arrived = entry = Entry(spec, expires=spec.deadline, since=now)
        self._wait(entry, 1)
        self.input_bytes.add(spec.tenant, input_bytes(spec))
        limits = self._limits
        most = limits.queued_tasks + (limits.queued_high if spec.priority is Priority.HIGH else 0)
        self.living.add(spec.tenant, 1)
        self._grew.append((self.living, entry, limits.tasks, 1))
        self._grew.append((self.queued, entry, most, 1))
        self._grew.append((self.input_bytes, entry, limits.input_bytes, input_bytes(spec)))
        if spec.deadline is not None:
            heapq.heappush(self._expiries, (spec.deadline, spec.task_id))
        if spec.detached:
            self.detached(spec.task_id, now)

    def detached(self, task_id: TaskId, now: float) -> None:
        entry = self.known[task_id]
        if entry.detached or not entry.living:
            return
        entry.detached = True
        self.detached_tasks.add(entry.spec.tenant, 1)
        self._grew.append((self.detached_tasks, entry, self._limits.detached_tasks, 1))
        if entry.expires is None:
            entry.expires = now + self._limits.detached_s
            heapq.heappush(self._expiries, (entry.expires, task_id))

    def resumed(self, task_id: TaskId, now: float) -> None:
        entry = self.known[task_id]
        if entry.living and entry.suspended:
            self._wait(entry, -1)
            self._arrived = entry
            entry.suspended, entry.since = False, now
            self._wait(entry, 1)

    def sent(self, command: SendTask, now: float) -> None:
        entry = self._dispatched(command.spec.task_id, command.instance_id, now)
        if entry.running or entry.home is not None:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.spec.task_id} was sent while {entry.home} has it")
        if command.attempt <= entry.attempts:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.spec.task_id} was sent again as attempt {command.attempt}")
        entry.attempts = command.attempt
        if not entry.spec.lease_id:
            self._served(self.models[entry.spec.model], entry.spec.priority, now)
        self._run(entry, command.instance_id)

    def continued(self, command: ContinueTask, now: float) -> None:
        entry = self._dispatched(command.task_id, command.instance_id, now)
        if entry.running or entry.home != command.instance_id:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.task_id} goes on at {command.instance_id}, not {entry.home}")
        self._run(entry, command.instance_id)

    def paused(self, command: PauseTask, now: float) -> None:
        entry = self.known[command.task_id]
        if not entry.living or entry.running != (command.instance_id is not None):
            raise BrokenRuleError(Rule.ONE_END, f"{command.task_id} was stopped where it did not run")
        if entry.running:
            self._stop(entry)
        else:
            self._wait(entry, -1)
        entry.suspended, entry.since = command.by_client, now
        self._wait(entry, 1)
        if command.by_client:
            self._grew.append((self.suspended, entry, self._limits.suspended_tasks, 1))
        else:
            self._preempted[entry.spec.tenant] += 1
        if entry.home is not None:
            self.places[entry.home].paused[command.task_id] = None

    def dropped(self, command: DropTask) -> None:
        entry = self.known[command.task_id]
        if entry.home != command.instance_id:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.task_id} is dropped at {command.instance_id}")

    def finished(self, command: TellFinished) -> None:
        task_id = command.task.spec.task_id
        entry = self.known.get(task_id)
        if entry is None or not entry.living:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} ended {'again' if entry else 'and never was'}")
        if (command.outcome.error is None) != (command.outcome.state is TaskState.SUCCEEDED):
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} ended as {command.outcome}")
        if entry.running:
            self._stop(entry)
        else:
            self._wait(entry, -1)
        if entry.home is not None:
            self.places[entry.home].paused.pop(task_id, None)
        entry.living, entry.home = False, None
        spec = entry.spec
        self.living.add(spec.tenant, -1)
        self.input_bytes.add(spec.tenant, -input_bytes(spec))
        if entry.detached:
            self.detached_tasks.add(spec.tenant, -1)
        self.ends[command.outcome.state] += 1
        self.retained += 1

    def forgotten(self, task_id: TaskId) -> None:
        entry = self.known.pop(task_id, None)
        if entry is None or entry.living:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} was forgotten before its end")
        self.retained -= 1

    def held(self, command: HoldCapacity, *, active: bool) -> None:
        """An instance keeps places for a lease, or gives them back."""
        place = self.places[command.instance_id]
        self.touched[place.model] = None
        if not active:
            place.holds.pop(command.lease_id, None)
            return
        place.holds[command.lease_id] = (command.sequences, command.kv_tokens)
        sequences, kv_tokens = (sum(hold[i] for hold in place.holds.values()) for i in (0, 1))
        if place.facts is None or sequences > place.facts.max_tasks or kv_tokens > place.facts.kv_tokens:
            text = f"{place.instance_id} keeps {sequences} places and {kv_tokens} tokens, more than it has"
            raise BrokenRuleError(Rule.PLACES, text)

    def gone(self, instance_id: InstanceId) -> None:
        """A worker is gone."""
        place = self.places.pop(instance_id)
        if place.running or place.paused:
            raise BrokenRuleError(Rule.ONE_END, f"tasks of {instance_id} outlive it: {[*place.running, *place.paused]}")
        del self.models[place.model].places[instance_id]
        self.touched[place.model] = None

    def check(self, now: float) -> None:
        """What must hold after an event, for the models that it concerned."""
        for name in self.touched:
            self._check_idle(self.models[name])
        self.touched.clear()
        for name in self._low:
            self._check_yield(self.models[name], now)
        for each in self._grew:
            self._check_bound(*each)
        self._grew.clear()
        self._preempted.clear()
        self._arrived = None
        if self.retained > self._limits.retained_tasks:
            raise BrokenRuleError(Rule.BOUND, f"{self.retained} ended tasks are retained")
        while self._expiries and self._expiries[0][0] <= now:
            _, task_id = heapq.heappop(self._expiries)
            entry = self.known.get(task_id)
            if entry is not None and entry.living:
                raise BrokenRuleError(Rule.EXPIRY, f"{task_id} had to end at {entry.expires}, and goes on at {now}")

    def _check_bound(self, tally: Tally, entry: Entry, limit: float, added: int) -> None:
        """What an event was allowed to add was within the bound, and within the tenant's share of what was free."""
        if tally is self.queued and (entry.running or not entry.living):
            return  # it did not stay in the queue
        if tally is self.queued:  # nobody is asked about those that were stopped for others
            limit += self._preempted.total()
        stopped = self._preempted[entry.spec.tenant] if tally is self.queued else 0
        tally.check(entry.spec.tenant, limit, self._limits.tenant_share, added, beside=stopped)

    def _check_yield(self, model: Waiting, now: float) -> None:
        """Nobody of class NORMAL has waited too long for a place that one of class LOW has."""
        limits = self._limits
        if not limits.preempt or limits.headroom or model.running_tasks >= limits.model_running:
            return
        if limits.policy.tenant_running < 100 or self._waits(model.stopped, Priority.NORMAL):
            return
        late = [t for t in model.normal if now < self.known[t].since + limits.low_yields_s]
        open_places = [p for p in model.places.values() if p.ready and p.instance_id not in self.draining]
        low = [t for place in open_places for t in place.running if self._gives_way(t)]
        if model.normal and not late and low:
            text = f"{[*model.normal][:3]} wait since {self.known[next(iter(model.normal))].since} while {low[:3]} run"
            raise BrokenRuleError(Rule.YIELD, text)

    def _gives_way(self, task_id: TaskId) -> bool:
        entry = self.known[task_id]
        return entry.spec.priority is Priority.LOW and not entry.spec.lease_id and not entry.turn

    def _check_idle(self, model: Waiting) -> None:
        if model.running_tasks >= self._limits.model_running:
            return
        for lease_id in model.leased:
            self._check_idle_for_lease(model, lease_id)
        shared = [place for place in model.places.values() if not place.lease_id and place.free > 0]
        shared = [place for place in shared if place.instance_id not in self.draining]
        if not shared or self._limits.headroom:  # with headroom the last places are left free
            return
        for (_, tenant), waiting in model.loose.items():
            if waiting > 0 and self._spare(model, tenant) > 0:
                text = f"a task of {tenant} waits while {shared[0].instance_id} has {shared[0].free} free places"
                raise BrokenRuleError(Rule.IDLE, text)
        for place in shared:
            for task_id in place.paused:
                entry = self.known[task_id]
                if not entry.suspended and not entry.spec.lease_id and self._spare(model, entry.spec.tenant) >= 0:
                    raise BrokenRuleError(Rule.IDLE, f"{task_id} waits at {place.instance_id}, which has room for it")

    def _check_idle_for_lease(self, model: Waiting, lease_id: LeaseId) -> None:
        running = sum(place.running_of[lease_id] for place in model.places.values())
        if model.leased_stopped[lease_id] or running >= self._limits.policy.tenant_running:
            return
        for place in model.places.values():
            kept = place.holds.get(lease_id, (0, 0))[0] > place.running_of[lease_id] and place.room > 0
            if kept or (place.lease_id == lease_id and place.free > 0):
                raise BrokenRuleError(Rule.IDLE, f"a task of {lease_id} waits while {place.instance_id} keeps room")

    def _spare(self, model: Waiting, tenant: Tenant) -> int:
        """How many more tasks a tenant may have running, when all that were stopped have their turn."""
        return self._limits.policy.tenant_running - model.running[tenant] - self._stopped_of(model, tenant)

    @staticmethod
    def _stopped_of(model: Waiting, tenant: Tenant) -> int:
        return sum(model.stopped[priority, tenant] for priority in Priority)

    def _dispatched(self, task_id: TaskId, instance_id: InstanceId, now: float) -> Entry:
        entry, place = self.known.get(task_id), self.places.get(instance_id)
        if entry is None or not entry.living or entry.suspended:
            why = "suspended" if entry is not None and entry.living else "at its end"
            raise BrokenRuleError(Rule.DISPATCH, f"{task_id} is dispatched while it is {why}")
        if entry.spec.deadline is not None and entry.spec.deadline <= now:
            raise BrokenRuleError(Rule.DISPATCH, f"{task_id} is dispatched at {now}, after {entry.spec.deadline}")
        if place is None or not place.ready or place.facts is None:
            raise BrokenRuleError(Rule.INSTANCES, f"{task_id} is dispatched to {instance_id}, which is not ready")
        if len(place.running) >= place.facts.max_tasks:
            raise BrokenRuleError(Rule.PLACES, f"{task_id} is the {len(place.running) + 1}th of {instance_id}")
        lease_id = entry.spec.lease_id
        kept = place.holds.get(lease_id, (0, 0))[0] > place.running_of[lease_id] or place.lease_id == lease_id != ""
        if place.free <= 0 and not kept:
            raise BrokenRuleError(Rule.KEPT, f"{task_id} takes a place of {instance_id} that is kept for a lease")
        if place.lease_id not in ("", lease_id):
            raise BrokenRuleError(Rule.KEPT, f"{task_id} is dispatched to {instance_id} of lease {place.lease_id}")
        return entry

    def _run(self, entry: Entry, instance_id: InstanceId) -> None:
        spec, place = entry.spec, self.places[instance_id]
        self._wait(entry, -1)
        if spec.priority is Priority.LOW and not spec.lease_id:
            model = self.models[spec.model]
            waits = (
                self._waits(some, p) for some in (model.loose, model.stopped) for p in Priority if p > spec.priority
            )
            entry.turn = entry.turn or any(waits)
            model.low[spec.task_id] = self._low[spec.model] = None
        entry.running, entry.home = True, instance_id
        place.running[spec.task_id] = None
        place.paused.pop(spec.task_id, None)
        place.running_of[spec.lease_id] += 1
        model = self.models[spec.model]
        model.running_tasks += 1
        if not spec.lease_id:
            model.running[spec.tenant] += 1

    def _stop(self, entry: Entry) -> None:
        assert entry.home is not None
        spec, place = entry.spec, self.places[entry.home]
        entry.running = False
        model = self.models[spec.model]
        model.low.pop(spec.task_id, None)
        if not model.low:
            self._low.pop(spec.model, None)
        del place.running[spec.task_id]
        place.running_of[spec.lease_id] -= 1
        model.running_tasks -= 1
        if not spec.lease_id:
            model.running[spec.tenant] -= 1
        self.touched[spec.model] = None

    def _wait(self, entry: Entry, count: int) -> None:
        spec, model = entry.spec, self.models[entry.spec.model]
        model.waiting_tasks += count
        (self.suspended if entry.suspended else self.queued).add(spec.tenant, count)
        self.touched[spec.model] = None
        if entry.suspended:
            return
        if spec.lease_id:
            leased = model.leased if entry.home is None else model.leased_stopped
            leased[spec.lease_id] += count
            if not leased[spec.lease_id]:
                del leased[spec.lease_id]
            return
        if entry.home is None and spec.priority is Priority.NORMAL:
            if count > 0:
                model.normal[spec.task_id] = None
            else:
                model.normal.pop(spec.task_id, None)
        waiting = model.loose if entry.home is None else model.stopped
        waiting[spec.priority, spec.tenant] += count
        if entry is self._arrived and count < 0:
            self._arrived = None
        if not self._waited(model, spec.priority) or self._waits(model.stopped, spec.priority):
            model.delays.pop(spec.priority, None)

    @staticmethod
    def _waits(waiting: Counter[tuple[Priority, Tenant]], priority: Priority) -> bool:
        return any(count > 0 for (which, _), count in waiting.items() if which is priority)

    def _waited(self, model: Waiting, priority: Priority) -> bool:
        """Whether a loose task of a class waits since before this event."""
        loose, new = model.loose.copy(), self._arrived
        if new is not None and new.spec.model == model.spec.name and new.home is None and not new.spec.lease_id:
            loose[new.spec.priority, new.spec.tenant] -= 1
        return self._waits(loose, priority)

    def _served(self, model: Waiting, served: Priority, now: float) -> None:
        """A class has its turn; those that wait and have no task on an instance must have theirs in time.

        Stopped tasks count for which class is the highest. Some of them have had their turn and wait for room only,
        which is not seen here; but of two turns that pass over a class one is always for the highest.
        """
        if self._limits.policy.tenant_running < 100:
            return  # a class whose tenants have as many running as they may does not wait for its turn
        highest = max(p for p in Priority if self._waits(model.loose, p) or self._waits(model.stopped, p))
        for priority in (p for p in Priority if self._waited(model, p)):
            if priority is served or self._waits(model.stopped, priority):
                model.delays.pop(priority, None)
                continue
            delay = model.delays.setdefault(priority, Delay())
            delay.turns += 1
            if delay.since is None and priority is not highest and (served is highest or delay.turns > 1):
                delay.since = now
            if delay.since is not None and now >= delay.since + 2 * self._aging_s:
                delay.late += 1
                if delay.late > 1:
                    text = f"class {priority.name} of {model.spec.name} ages since {delay.since}"
                    raise BrokenRuleError(Rule.STARVATION, text)
