"""How many tasks wait and run: in all, by model, by tenant, by class."""

from collections import Counter

from inferd.core.ids import ModelName, Tenant
from inferd.core.priority import Priority
from inferd.core.task import Task


class Census:
    """Counts of living tasks. Suspended ones count as waiting. One writer: `Tasks`.

    Attributes:
        queued: Tasks that wait.
        running: Tasks that run.
        loads: Waiting and running tasks by tenant and class; only those with any.
    """

    def __init__(self) -> None:
        self.queued = 0
        self.running = 0
        self.loads = dict[tuple[Tenant, Priority], tuple[int, int]]()
        self._tenants = Counter[Tenant]()
        self._models = Counter[ModelName]()
        self._running = Counter[ModelName]()

    def of_tenant(self, tenant: Tenant) -> int:
        """Waiting tasks of a tenant."""
        return self._tenants[tenant]

    def of_model(self, name: ModelName) -> int:
        """Waiting tasks of a model."""
        return self._models[name]

    def running_of(self, name: ModelName) -> int:
        """Running tasks of a model."""
        return self._running[name]

    def count(self, task: Task, *, queued: int = 0, running: int = 0) -> None:
        """So many more wait and run, or fewer."""
        spec = task.spec
        self.queued += queued
        self.running += running
        self._models[spec.model] += queued
        self._running[spec.model] += running
        self._tenants[spec.tenant] += queued
        if not self._tenants[spec.tenant]:
            del self._tenants[spec.tenant]  # there may be any number of tenants
        before = self.loads.get((spec.tenant, spec.priority), (0, 0))
        after = before[0] + queued, before[1] + running
        if any(after):
            self.loads[spec.tenant, spec.priority] = after
        else:
            self.loads.pop((spec.tenant, spec.priority), None)
