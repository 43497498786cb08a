"""The waiting tasks of one model: classes with aging, and inside a class a fair share between tenants.

The share is a virtual token counter (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024,
arXiv:2401.00588), with two differences: a task is charged what it is expected to cost when it is taken and what it
did cost when it ended; and a counter that rises to that of the others, when its tenant comes back from idle, looks at
their ended tasks only, so that a tenant that fills all places is not taken for one that has been served.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from math import ceil

from inferd.core.ids import TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.ranking import Ranking

DESCENDING = tuple(sorted(Priority, reverse=True))
IDLE_TENANTS = 1000  # so many with nothing here are remembered; then those that used the least are forgotten
POSITION_TENANTS = 16  # so many are looked at for an estimate of a position; the others are taken to be like them


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """Whose task goes next; see `inferd.config.Scheduler`.

    Attributes:
        aging_s: A class that was passed over for the highest one gets a turn after so long, for each class above it
            that waits.
        weights: Shares of tenants; 1 for those that are not named.
        tenant_running: Most running tasks of a tenant; one that has so many is passed over.
    """

    aging_s: float
    weights: Mapping[Tenant, float]
    tenant_running: int


@dataclass(slots=True)
class _Share:
    """What a tenant has had. Tokens are divided by its weight."""

    weight: float
    used: float  # by ended tasks, or lifted when it came back from idle
    expected: float = 0.0  # of running tasks, in tokens
    running: int = 0
    waiting: int = 0

    @property
    def counter(self) -> float:
        return self.used + self.expected / self.weight


@dataclass(slots=True)
class _Line:
    """The waiting tasks of a tenant in a class, first to last, each with its number; the tokens of all."""

    share: _Share
    tasks: OrderedDict[TaskId, int] = field(default_factory=OrderedDict)  # a dict's front costs O(n) after many pops
    tokens: float = 0.0
    last: int = 0

    def number(self, *, front: bool) -> int:
        """A number for a new task before or after all others."""
        if front and self.tasks:
            return self.tasks[next(iter(self.tasks))] - 1
        self.last += 1
        return self.last

    def before(self, counter: float) -> int:
        """How many of them start while the tenant's counter is below this one."""
        ahead = counter - self.share.counter
        if ahead <= 0:
            return 0
        size, each = len(self.tasks), self.tokens / self.share.weight
        return size if ahead >= each else ceil(ahead * size / each)


@dataclass(slots=True)
class _Class:
    """The waiting tasks of a class.

    Attributes:
        open: The tenants that may have another task running, by their counters.
        returning: Tasks that had a place when the kernel before this one ended; they go before the others of the class.
        passed: When the highest class was first served in its place, since it was last served; None if that never was.
    """

    lines: dict[Tenant, _Line] = field(default_factory=dict)
    open: Ranking[Tenant] = field(default_factory=Ranking)
    returning: OrderedDict[TaskId, None] = field(default_factory=OrderedDict)
    passed: float | None = None
    size: int = 0


@dataclass(slots=True)
class _Waiting:
    tenant: Tenant
    priority: Priority
    tokens: float


class FairQueue:
    """The waiting tasks of one model. One writer: the kernel machine. Each operation is O(log n).

    A class is *open* when it has a task of a tenant that is not at `tenant_running`. The highest open class is served,
    unless a lower one is *due*: it was passed over for the highest one `aging_s` ago for each open class above it. Of
    several that are due the one that was due first is served; it then has to be passed over again to be due again. So

    - an open class is served by the second `pop` that comes `2 * aging_s` or more after it was first passed over for
      the highest one;
    - of the first two `pop` that pass over a class below the highest, at least one is for the highest one;
    - at most two `pop` in a row pass over the highest class.

    A turn of a class that is due lets no other age: else, where turns take longer than the aging, a third one in a row
    could pass over the highest class.

    Inside a class goes the tenant with the smallest counter among those that are not at `tenant_running`, first in
    first out within the tenant. Counters are shared by the classes, in tokens divided by the tenant's weight. Two
    tenants that wait all the time get tokens in proportion to their weights, up to what their running tasks cost. They
    start anew when nothing waits or runs.
    """

    def __init__(self, policy: QueuePolicy, note: Callable[[Tenant], None] | None = None) -> None:
        self._policy = policy
        self._note = note  # told of each tenant whose share has changed
        self._classes = {priority: _Class() for priority in DESCENDING}
        self._tasks: dict[TaskId, _Waiting] = {}
        self._shares: dict[Tenant, _Share] = {}
        self._active: Ranking[Tenant] = Ranking()  # tenants that wait, by what they used
        self._idle: Ranking[Tenant] = Ranking()  # tenants with nothing here, by what they used
        self._level = 0.0  # smallest use of a tenant that waits, or of the last one that did
        self._running = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def push(
        self, task_id: TaskId, *, tenant: Tenant, priority: Priority, tokens: float, now: float, front: bool = False
    ) -> None:
        """Let a task wait that is expected to cost `tokens`, prompt and output.

        It goes behind its tenant's others of its class, or in `front` of them.
        """
        del now  # a class ages from when it is passed over
        share = self._join(tenant)
        group = self._classes[priority]
        line = group.lines.get(tenant)
        if line is None:
            line = group.lines[tenant] = _Line(share)
        line.tasks[task_id] = line.number(front=front)
        if front:
            line.tasks.move_to_end(task_id, last=False)
        line.tokens += tokens
        group.size += 1
        self._tasks[task_id] = _Waiting(tenant, priority, tokens)
        if len(line.tasks) == 1 and share.running < self._policy.tenant_running:
            group.open.put(tenant, share.counter)

    def priority(self, now: float, *, aging: bool = True) -> Priority | None:
        """The class of the task that `pop` would take; None when no task may go."""
        highest: Priority | None = None
        chosen: Priority | None = None
        above, since = 0, now  # open classes above; when the chosen one was due
        for priority, group in self._classes.items():
            if not group.open.heap:
                continue
            if highest is None:
                highest = chosen = priority
            elif aging and group.passed is not None and group.passed + above * self._policy.aging_s <= since:
                chosen, since = priority, group.passed + above * self._policy.aging_s
            above += 1
        return chosen

    def peek(self, now: float, *, aging: bool = True) -> TaskId | None:
        """The task that `pop` would take; None when no task may go."""
        priority = self.priority(now, aging=aging)
        if priority is None:
            return None
        group = self._classes[priority]
        if group.returning:
            return next(iter(group.returning))
        first = group.open.first()
        return None if first is None else next(iter(group.lines[first[1]].tasks))

    def pop(self, now: float, *, aging: bool = True) -> TaskId:
        """Take the next task; it counts as running, with the tokens that it is expected to cost, until `settle`.

        Args:
            now: Seconds, never falling.
            aging: Whether a class that is due goes before a higher one.

        Raises:
            IndexError: No task may go.
        """
        task_id = self.peek(now, aging=aging)
        if task_id is None:
            raise IndexError("no task may go")
        task = self._tasks[task_id]
        if task.priority is self.priority(now, aging=False):
            for group in self._classes.values():
                if group.open and group.passed is None:
                    group.passed = now
        self._classes[task.priority].passed = None
        self.take(task_id)
        return task_id

    def take(self, task_id: TaskId) -> None:
        """Take a waiting task, whose turn need not have come; it counts as running until `settle`."""
        task = self._tasks[task_id]
        share = self._shares[task.tenant]
        share.running += 1
        share.expected += task.tokens
        self._running += 1
        self.remove(task_id)
        self._rank(task.tenant, share)

    def remove(self, task_id: TaskId) -> None:
        """Take a waiting task out."""
        task = self._tasks.pop(task_id)
        group = self._classes[task.priority]
        line = group.lines[task.tenant]
        del line.tasks[task_id]
        group.returning.pop(task_id, None)
        line.tokens -= task.tokens
        group.size -= 1
        if not line.tasks:
            del group.lines[task.tenant]
            group.open.drop(task.tenant)
        if not group.open:
            group.passed = None
        self._leave(task.tenant)

    def settle(self, tenant: Tenant, *, expected: float, used: float) -> None:
        """A task that was taken has ended: it cost `used` tokens, not the `expected` ones that it was pushed with."""
        share = self._shares[tenant]
        share.running -= 1
        share.expected = share.expected - expected if share.running else 0.0  # no rest of rounding
        share.used += used / share.weight
        self._running -= 1
        self._rank(tenant, share)
        self._rest(tenant, share)

    def position(self, task_id: TaskId) -> int:
        """How many waiting tasks go before it as things stand: an estimate, exact for one tenant without removals."""
        task = self._tasks[task_id]
        group = self._classes[task.priority]
        line = group.lines[task.tenant]
        share = self._shares[task.tenant]
        before = line.tasks[task_id] - line.tasks[next(iter(line.tasks))]
        before = min(before, len(line.tasks) - 1)  # numbers have gaps where tasks were removed
        start = share.counter + before * line.tokens / len(line.tasks) / share.weight
        first = islice(group.lines.values(), POSITION_TENANTS + 1)
        looked = [other for other in first if other is not line][:POSITION_TENANTS]
        others = sum([other.before(start) for other in looked])
        if looked:
            others = round(others * (len(group.lines) - 1) / len(looked))
        above = sum(self._classes[priority].size for priority in DESCENDING if priority > task.priority)
        return min(above + before + others, len(self._tasks) - 1)

    def tasks(self) -> tuple[TaskId, ...]:
        """All waiting tasks, first to go first as things stand, aging and `tenant_running` apart."""
        return tuple(
            task_id
            for group in self._classes.values()
            for _, _, task_id in merge(*(self._starts(n, *item) for n, item in enumerate(group.lines.items())))
        )

    def queued(self) -> Mapping[tuple[Priority, Tenant], int]:
        """How many tasks wait, by class and tenant."""
        return {
            (priority, tenant): len(line.tasks)
            for priority, group in self._classes.items()
            for tenant, line in group.lines.items()
        }

    def queued_of(self, tenant: Tenant) -> int:
        """How many tasks of a tenant wait."""
        return self._shares[tenant].waiting if tenant in self._shares else 0

    def running_of(self, tenant: Tenant) -> int:
        """How many tasks of a tenant were taken and have not ended."""
        return self._shares[tenant].running if tenant in self._shares else 0

    def return_first(self, task_id: TaskId) -> None:
        """A waiting task gets its place back before others of its class have theirs; the first of several first."""
        self._classes[self._tasks[task_id].priority].returning[task_id] = None

    @property
    def level(self) -> float:
        """Where a tenant begins that is not known."""
        return self._level

    def share(self, tenant: Tenant) -> float | None:
        """The counter of a tenant; None for one that is not known."""
        share = self._shares.get(tenant)
        return None if share is None else share.counter

    def tenants(self) -> tuple[Tenant, ...]:
        """Those that are known."""
        return tuple(self._shares)

    def restore(self, tenant: Tenant, counter: float, level: float, *, expected: float = 0.0) -> None:
        """A tenant has its counter from before, whether something of it waits or not; nothing runs yet.

        What its tasks that ran then are `expected` to cost is in that counter, and comes to it again with them.
        """
        self._level = max(self._level, level)
        weight = self._policy.weights.get(tenant, 1.0)
        share = self._shares.get(tenant)
        if share is None:
            self._shares[tenant] = _Share(weight, counter)
            self._idle.put(tenant, counter)
        else:
            share.used = counter - expected / weight
            self._rank(tenant, share)

    def restore_ages(self, oldest: Mapping[Priority, float]) -> None:
        """Classes age from when their oldest waiting task came, `oldest`, as long as a higher class waits, too."""
        above = False
        for priority, group in self._classes.items():
            if above and group.size and priority in oldest and group.passed is None:
                group.passed = oldest[priority]
            above = above or group.size > 0

    def _tell(self, tenant: Tenant) -> None:
        if self._note is not None:
            self._note(tenant)

    def _join(self, tenant: Tenant) -> _Share:
        """Count one more waiting task; a tenant that had none gets no credit for that time."""
        self._idle.drop(tenant)
        self._rise()
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = _Share(self._policy.weights.get(tenant, 1.0), self._level)
        if not share.waiting:
            share.used = max(share.used, self._level)
            self._active.put(tenant, share.used)
            self._tell(tenant)
        share.waiting += 1
        return share

    def _leave(self, tenant: Tenant) -> None:
        share = self._shares[tenant]
        share.waiting -= 1
        if not share.waiting:
            self._rise()
            self._active.drop(tenant)
            self._rest(tenant, share)

    def _rise(self) -> None:
        """Follow the tenants that wait, and forget those who would be lifted anyway."""
        if (first := self._active.first()) is not None:
            self._level = max(self._level, first[0])
        while (idle := self._idle.first()) is not None and (idle[0] <= self._level or len(self._idle) > IDLE_TENANTS):
            self._idle.drop(idle[1])
            del self._shares[idle[1]]
            self._tell(idle[1])

    def _rest(self, tenant: Tenant, share: _Share) -> None:
        if not self._tasks and not self._running:
            for known in self._shares:
                self._tell(known)
            self._shares.clear()
            self._idle, self._level = Ranking(), 0.0
        elif not share.waiting and not share.running:
            self._idle.put(tenant, share.used)

    def _rank(self, tenant: Tenant, share: _Share) -> None:
        """Put a tenant where its counter belongs now."""
        self._tell(tenant)
        if share.waiting:
            self._active.put(tenant, share.used)
        for group in self._classes.values():
            if tenant not in group.lines:
                continue
            if share.running < self._policy.tenant_running:
                group.open.put(tenant, share.counter)
            else:
                group.open.drop(tenant)

    def _starts(self, number: int, tenant: Tenant, line: _Line) -> Iterator[tuple[float, int, TaskId]]:
        """The tenant's tasks, each with the counter that it would start at."""
        share = self._shares[tenant]
        at = share.counter
        for task_id in line.tasks:
            yield at, number, task_id
            at += self._tasks[task_id].tokens / share.weight
