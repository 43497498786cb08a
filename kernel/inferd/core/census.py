"""How many tasks wait, are suspended and run, and what they hold: in all, by model, by tenant, by class."""

from collections import Counter
from dataclasses import dataclass

from inferd.core.ids import ModelName, Tenant
from inferd.core.priority import Priority
from inferd.core.task import Task, TaskState


@dataclass(slots=True)
class Holding:
    """What tasks have that have not ended.

    Attributes:
        queued: Those that wait, stopped ones for others too.
        suspended: Those that their client has stopped.
        detached: Those that outlive their client's call.
        input_bytes: What their inputs take of memory.
    """

    queued: int = 0
    suspended: int = 0
    detached: int = 0
    input_bytes: int = 0

    def add(self, other: "Holding", sign: int) -> None:
        """Add what another one has, or take it away."""
        self.queued += sign * other.queued
        self.suspended += sign * other.suspended
        self.detached += sign * other.detached
        self.input_bytes += sign * other.input_bytes


NOTHING = Holding()
HELD = {TaskState.QUEUED: Holding(queued=1), TaskState.SUSPENDED: Holding(suspended=1)}


class Census:
    """Counts of living tasks. One writer: `Tasks`.

    Attributes:
        all: What all of them have.
        running: Tasks that run.
        loads: Waiting and running tasks by tenant and class; only those with any. Suspended ones count as waiting.
    """

    def __init__(self) -> None:
        self.all = Holding()
        self.running = 0
        self.loads = dict[tuple[Tenant, Priority], tuple[int, int]]()
        self._tenants = dict[Tenant, Holding]()
        self._models = Counter[ModelName]()
        self._running = Counter[ModelName]()
        self._suspended = Counter[ModelName]()

    @property
    def queued(self) -> int:
        """Tasks that do not run, suspended ones too."""
        return self.all.queued + self.all.suspended

    def of_tenant(self, tenant: Tenant) -> Holding:
        """What a tenant's tasks have; not to be changed."""
        return self._tenants.get(tenant, NOTHING)

    def of_model(self, name: ModelName) -> int:
        """Waiting tasks of a model."""
        return self._models[name]

    def running_of(self, name: ModelName) -> int:
        """Running tasks of a model."""
        return self._running[name]

    def living_of(self, name: ModelName) -> int:
        """Tasks of a model that have not ended."""
        return self._models[name] + self._running[name] + self._suspended[name]

    def living_of_tenant(self, tenant: Tenant) -> int:
        """Tasks of a tenant that have not ended."""
        return sum(sum(self.loads.get((tenant, priority), (0, 0))) for priority in Priority)

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer; none of its tasks lives."""
        for counts in (self._models, self._running, self._suspended):
            counts.pop(name, None)

    def take(self, task: Task, held: Holding) -> None:
        """A task has so much more from now on."""
        self._change(task, held, +1)

    def leave(self, task: Task, held: Holding) -> None:
        """A task has so much less from now on."""
        self._change(task, held, -1)

    def move(self, task: Task, before: TaskState) -> None:
        """A task came from another state to the one that it has."""
        for state, sign in ((before, -1), (task.state, +1)):
            if state is TaskState.RUNNING:
                self._run(task, sign)
            elif (held := HELD.get(state)) is not None:
                self._change(task, held, sign)

    def _run(self, task: Task, count: int) -> None:
        self.running += count
        self._running[task.spec.model] += count
        self._load(task, running=count)

    def _change(self, task: Task, held: Holding, sign: int) -> None:
        tenant = task.spec.tenant
        self.all.add(held, sign)
        self._models[task.spec.model] += sign * held.queued
        self._suspended[task.spec.model] += sign * held.suspended
        of_tenant = self._tenants.setdefault(tenant, Holding())
        of_tenant.add(held, sign)
        if of_tenant == NOTHING:
            del self._tenants[tenant]  # there may be any number of tenants
        self._load(task, waiting=sign * (held.queued + held.suspended))

    def _load(self, task: Task, *, waiting: int = 0, running: int = 0) -> None:
        key = task.spec.tenant, task.spec.priority
        before = self.loads.get(key, (0, 0))
        after = before[0] + waiting, before[1] + running
        if any(after):
            self.loads[key] = after
        else:
            self.loads.pop(key, None)
