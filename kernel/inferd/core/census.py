"""How many tasks wait, are suspended and run, and what they hold: in all, by model, by tenant, by class."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from inferd.core.ids import ModelName, Tenant
from inferd.core.priority import Priority
from inferd.core.task import Task, TaskState

QUEUED, RUNNING, SUSPENDED = TaskState.QUEUED.value, TaskState.RUNNING.value, TaskState.SUSPENDED.value


@dataclass(slots=True)
class Tally:
    """Tasks of a kind that have not ended, and what they have.

    Attributes:
        living: How many there are.
        detached: Those that outlive their client's call.
        input_bytes: What their inputs take of memory.
        states: How many are in which state, by its value.
    """

    living: int = 0
    detached: int = 0
    input_bytes: int = 0
    states: list[int] = field(default_factory=lambda: [0] * (1 + len(TaskState)))

    @property
    def queued(self) -> int:
        """Those that wait, stopped ones for others too."""
        return self.states[QUEUED]

    @property
    def running(self) -> int:
        """Those that run."""
        return self.states[RUNNING]

    @property
    def suspended(self) -> int:
        """Those that their client has stopped."""
        return self.states[SUSPENDED]


NOTHING = Tally()


class Census:
    """Counts of living tasks. One writer: the register of tasks.

    Attributes:
        all: All of them; as what the methods give, not to be changed.
    """

    def __init__(self) -> None:
        self.all = Tally()
        self._models = defaultdict[ModelName, Tally](Tally)
        self._tenants = defaultdict[Tenant, Tally](Tally)
        self._classes = defaultdict[tuple[Tenant, Priority], Tally](Tally)

    def of_tenant(self, tenant: Tenant) -> Tally:
        """A tenant's."""
        return self._tenants.get(tenant, NOTHING)

    def of_model(self, name: ModelName) -> Tally:
        """Those that a model is to compute."""
        return self._models.get(name, NOTHING)

    @property
    def loads(self) -> Mapping[tuple[Tenant, Priority], tuple[int, int]]:
        """Waiting and running ones by tenant and class; only those with any. Suspended ones count as waiting."""
        return {who: (tally.living - tally.running, tally.running) for who, tally in self._classes.items()}

    def forget_model(self, name: ModelName) -> None:
        """A model is known no longer; none of its tasks lives."""
        self._models.pop(name, None)

    def add(self, task: Task) -> None:
        """A task was made."""
        state, input_bytes = task.state._value_, task.spec.demand.memory_bytes
        for tally in self._of(task):
            tally.living += 1
            tally.input_bytes += input_bytes
            tally.states[state] += 1

    def detach(self, task: Task) -> None:
        """A task outlives its client's call."""
        for tally in self._of(task):
            tally.detached += 1

    def attach(self, task: Task) -> None:
        """A task does not outlive its client's call after all."""
        for tally in self._of(task):
            tally.detached -= 1

    def move(self, task: Task, before: TaskState) -> None:
        """A task came from another state to the one that it has."""
        old, new = before._value_, task.state._value_
        for tally in self._of(task):
            tally.states[old] -= 1
            tally.states[new] += 1

    def remove(self, task: Task) -> None:
        """A task has ended."""
        spec, state, input_bytes = task.spec, task.state._value_, task.spec.demand.memory_bytes
        for tally in self._of(task):
            tally.living -= 1
            tally.input_bytes -= input_bytes
            tally.detached -= task.detached
            tally.states[state] -= 1
        if not self._tenants[spec.tenant].living:
            del self._tenants[spec.tenant]  # there may be any number of tenants
        if not self._classes[spec.tenant, spec.priority].living:
            del self._classes[spec.tenant, spec.priority]

    def _of(self, task: Task) -> tuple[Tally, Tally, Tally, Tally]:
        """The tallies that a task is counted in."""
        spec, tenant = task.spec, task.spec.tenant
        return self.all, self._models[spec.model], self._tenants[tenant], self._classes[tenant, spec.priority]
