"""Tasks and the places of instances, reckoned from events and commands alone."""

import heapq
from collections import Counter

from rules import BrokenRuleError, Rule
from tally import Tally, input_bytes
from task_entries import Delay, Entry, Place, Waiting

from inferd.core.commands import DropTask, HoldCapacity, SendTask
from inferd.core.ids import InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.priority import Priority
from inferd.core.task import Outcome, SuspendReason, TaskSpec, TaskState
from inferd.errors import PoisonError, WorkerDiedError


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
        self.retained = {False: 0, True: 0}  # by whether they are detached
        self._requests: dict[tuple[Tenant, str], TaskId] = {}
        self._expiries: list[tuple[float, TaskId]] = []
        self._grew: list[tuple[Tally, Entry, float, int]] = []  # with this event: what, by whom, its bound, how much
        self.touched: dict[ModelName, None] = {}
        self._arrived: Entry | None = None  # it waits since this event, which may have ended others before it came
        self._preempted = Counter[Tenant]()  # with this event
        self._low: dict[ModelName, None] = {}  # models where such ones run
        self._culprit: TaskId | None = None  # of the death that is being told of
        self._loaded = False  # whether that worker took tasks
        self.draining = dict[InstanceId, None]()  # as the machine says; who may be is checked by the mirror
        self._limits = limits
        self._aging_s = limits.policy.aging_s

    def made_before(self, spec: TaskSpec) -> TaskId | None:
        """The known task that an earlier submission with the same request made."""
        return self._requests.get((spec.tenant, spec.request_id)) if spec.request_id else None

    def submitted(self, spec: TaskSpec, now: float) -> None:
        self.accepted += 1
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.task_id
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
        if entry.detached:
            return
        entry.detached = True
        if not entry.living:  # it is known as long as one that was detached before
            self.retained[False] -= 1
            self.retained[True] += 1
            return
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
        place = self.places[command.instance_id]
        if entry.running:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.spec.task_id} was sent while {entry.home} has it")
        if command.attempt <= entry.attempts:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.spec.task_id} was sent again as attempt {command.attempt}")
        entry.attempts = command.attempt
        if command.alone != entry.suspect or (command.alone and place.suspect is not None):
            text = f"{command.spec.task_id} was at {entry.deaths} deaths, sent alone: {command.alone}"
            raise BrokenRuleError(Rule.ALONE, f"{text} to {command.instance_id}, which has {place.suspect}")
        if command.alone:
            place.suspect, place.alone = command.spec.task_id, False
        elif not entry.spec.lease_id:
            self._served(self.models[entry.spec.model], entry.spec.priority, now)
        self._run(entry, command.instance_id)

    def stopped(self, task_id: TaskId, reason: SuspendReason, now: float) -> None:
        entry = self.known[task_id]
        if not entry.living or entry.suspended:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} was stopped and did not go on")
        self._withdraw(entry)
        entry.suspended, entry.since = reason is SuspendReason.CLIENT, now
        self._wait(entry, 1)
        if entry.suspended:
            self._grew.append((self.suspended, entry, self._limits.suspended_tasks, 1))
        else:
            self._preempted[entry.spec.tenant] += 1

    def began_alone(self, task_id: TaskId, attempt: int) -> None:
        """A worker told that a task runs alone from now on."""
        if (place := self._place_of(task_id, attempt)) is not None:
            place.alone = place.suspect == task_id

    def passed(self, task_id: TaskId, attempt: int) -> None:
        """A worker told that a task that ran alone has told something new."""
        if (place := self._place_of(task_id, attempt)) is not None and place.suspect == task_id:
            self.known[task_id].deaths = 0
            place.suspect, place.alone = None, False
            self.touched[place.model] = None

    def _place_of(self, task_id: TaskId, attempt: int) -> Place | None:
        entry = self.known.get(task_id)
        runs = entry is not None and entry.home is not None and entry.attempts == attempt
        return self.places[entry.home] if runs and entry is not None and entry.home is not None else None

    def dies(self, instance_id: InstanceId) -> None:
        """A worker is gone; what becomes of its tasks follows."""
        place = self.places[instance_id]
        place.stopping, self._loaded = True, place.facts is not None
        self._culprit = place.suspect if place.alone or len(place.running) == 1 else None
        for task_id in place.running:
            self.known[task_id].deaths += self._culprit is None

    def lost(self, instance_id: InstanceId) -> None:
        """A worker is gone with its host: no task is to blame."""
        place = self.places[instance_id]
        place.stopping, self._loaded, self._culprit = True, True, None
        self.touched[place.model] = None

    def _check_death(self, task_id: TaskId, outcome: Outcome) -> None:
        """Nothing ends with its worker, but what it died of."""
        poisoned = isinstance(outcome.error, PoisonError)
        if poisoned != (task_id == self._culprit and outcome.state is TaskState.FAILED):
            raise BrokenRuleError(Rule.POISON, f"{task_id} ended as {outcome}, not {self._culprit}")
        if isinstance(outcome.error, WorkerDiedError) and self._loaded:
            raise BrokenRuleError(Rule.POISON, f"{task_id} ended with its worker")
        if poisoned:
            self._culprit = None

    def dropped(self, command: DropTask) -> None:
        entry = self.known[command.task_id]
        if entry.home != command.instance_id:
            raise BrokenRuleError(Rule.ATTEMPT, f"{command.task_id} is dropped at {command.instance_id}")

    def finished(self, task_id: TaskId, outcome: Outcome) -> TaskSpec:
        """A task has ended; what it was."""
        entry = self.known.get(task_id)
        if entry is None or not entry.living:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} ended {'again' if entry else 'and never was'}")
        if (outcome.error is None) != (outcome.state is TaskState.SUCCEEDED):
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} ended as {outcome}")
        self._check_death(task_id, outcome)
        self._withdraw(entry)
        entry.living = False
        spec = entry.spec
        self.living.add(spec.tenant, -1)
        self.input_bytes.add(spec.tenant, -input_bytes(spec))
        if entry.detached:
            self.detached_tasks.add(spec.tenant, -1)
        self.ends[outcome.state] += 1
        self.retained[entry.detached] += 1
        return spec

    def forgotten(self, task_id: TaskId) -> None:
        entry = self.known.pop(task_id, None)
        if entry is None or entry.living:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} was forgotten before its end")
        self.retained[entry.detached] -= 1
        if self.made_before(entry.spec) == task_id:
            del self._requests[entry.spec.tenant, entry.spec.request_id]

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
        if place.running:
            raise BrokenRuleError(Rule.LOSS, f"tasks of {instance_id} outlive it: {[*place.running]}")
        if self._culprit is not None:
            raise BrokenRuleError(Rule.POISON, f"{instance_id} died of {self._culprit}, which goes on")
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
        if self.retained[False] > self._limits.retained_tasks or self.retained[True] > self._limits.kept_tasks:
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
        if limits.policy.tenant_running < 100:
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
        free = [place.instance_id for place in shared if place.suspect is None]
        alone = [task_id for task_id in model.suspects if not self.known[task_id].spec.lease_id]
        if alone and free:
            raise BrokenRuleError(Rule.IDLE, f"{alone[0]} waits to run alone, and {free[0]} has room and no other one")

    def _check_idle_for_lease(self, model: Waiting, lease_id: LeaseId) -> None:
        running = sum(place.running_of[lease_id] for place in model.places.values())
        if running >= self._limits.policy.tenant_running:
            return
        for place in model.places.values():
            kept = place.holds.get(lease_id, (0, 0))[0] > place.running_of[lease_id] and place.room > 0
            if kept or (place.lease_id == lease_id and place.free > 0):
                raise BrokenRuleError(Rule.IDLE, f"a task of {lease_id} waits while {place.instance_id} keeps room")

    def _spare(self, model: Waiting, tenant: Tenant) -> int:
        """How many more tasks a tenant may have running."""
        return self._limits.policy.tenant_running - model.running[tenant]

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
            entry.turn = (
                entry.turn or entry.suspect or any(self._waits(model.loose, p) for p in Priority if p > spec.priority)
            )
            model.low[spec.task_id] = self._low[spec.model] = None
        entry.home = instance_id
        place.running[spec.task_id] = None
        place.running_of[spec.lease_id] += 1
        model = self.models[spec.model]
        model.running_tasks += 1
        if not spec.lease_id:
            model.running[spec.tenant] += 1

    def _withdraw(self, entry: Entry) -> None:
        """A task waits or runs no more where it did."""
        if entry.home is None:
            self._wait(entry, -1)
            return
        spec, place = entry.spec, self.places[entry.home]
        entry.home = None
        if place.suspect == spec.task_id:
            place.suspect, place.alone = None, False
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
        if entry.suspect or spec.task_id in model.suspects:
            if count > 0:
                model.suspects[spec.task_id] = None
            else:
                del model.suspects[spec.task_id]
            return
        if spec.lease_id:
            model.leased[spec.lease_id] += count
            if not model.leased[spec.lease_id]:
                del model.leased[spec.lease_id]
            return
        if spec.priority is Priority.NORMAL:
            if count > 0:
                model.normal[spec.task_id] = None
            else:
                model.normal.pop(spec.task_id, None)
        model.loose[spec.priority, spec.tenant] += count
        if entry is self._arrived and count < 0:
            self._arrived = None
        if not self._waited(model, spec.priority):
            model.delays.pop(spec.priority, None)

    @staticmethod
    def _waits(waiting: Counter[tuple[Priority, Tenant]], priority: Priority) -> bool:
        return any(count > 0 for (which, _), count in waiting.items() if which is priority)

    def _waited(self, model: Waiting, priority: Priority) -> bool:
        """Whether a loose task of a class waits since before this event."""
        loose, new = model.loose.copy(), self._arrived
        if new is not None and new.spec.model == model.spec.name and not new.spec.lease_id and not new.suspect:
            loose[new.spec.priority, new.spec.tenant] -= 1
        return self._waits(loose, priority)

    def _served(self, model: Waiting, served: Priority, now: float) -> None:
        """A class has its turn; those that wait must have theirs in time."""
        if self._limits.policy.tenant_running < 100:
            return  # a class whose tenants have as many running as they may does not wait for its turn
        highest = max(p for p in Priority if self._waits(model.loose, p))
        for priority in (p for p in Priority if self._waited(model, p)):
            if priority is served:
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
