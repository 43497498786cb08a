"""In which order tasks and the parts of their prompts go: start-time fair queueing.

After P. Goyal, H. M. Vin, H. Cheng: Start-Time Fair Queueing, SIGCOMM 1996.
"""

from inferd.core.ids import Tenant
from inferd.core.ranking import Ranking

TENANTS = 10_000  # so many are remembered; then those whose last task is expected to end first are forgotten


class VirtualTime:
    """Virtual starts of tasks, or of their parts, of one class in one instance: in tokens over their tenant's weight.

    A task starts where its tenant's last one is expected to end, and no earlier than any task that has ended started.
    So a tenant with one task does not wait for the prompts of one that fills all places, one that comes back from idle
    gets no credit, and each task that a tenant sends brings its next ones further behind those of others.

    One writer: its owner, the engine's `Places` or `Turns`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: Ranking[Tenant] = Ranking()  # of the last task of each tenant, where it lies ahead

    def start(self, tenant: Tenant, tokens: float) -> float:
        """The virtual start of a task that is expected to cost so many tokens, divided by its tenant's weight."""
        begin = self.next_start(tenant)
        self._remember(tenant, begin + tokens)
        return begin

    def next_start(self, tenant: Tenant) -> float:
        """Where the tenant's next task would start."""
        return max(self._now, self._ends.number(tenant, 0.0))

    def end(self, start: float) -> None:
        """A task with this virtual start has ended, and had been begun."""
        self._now = max(self._now, start)
        while (first := self._ends.first()) is not None and first[0] <= self._now:
            self._ends.drop(first[1])

    def settle(self, tenant: Tenant, tokens: float) -> None:
        """A tenant's task has cost so many tokens, divided by its weight, less than was expected."""
        self._remember(tenant, self._ends.number(tenant, self._now) - tokens)

    def _remember(self, tenant: Tenant, end: float) -> None:
        """Where a tenant's last task is expected to end, if that lies ahead."""
        if end <= self._now:
            self._ends.drop(tenant)
            return
        self._ends.put(tenant, end)
        if len(self._ends) > TENANTS and (first := self._ends.first()) is not None:
            self._ends.drop(first[1])
