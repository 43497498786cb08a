"""In which order prompts are begun: start-time fair queueing.

After P. Goyal, H. M. Vin, H. Cheng: Start-Time Fair Queueing, SIGCOMM 1996.
"""

from inferd.core.ids import Tenant
from inferd.core.ranking import Ranking

TENANTS = 10_000  # so many are remembered; then those whose last task is expected to end first are forgotten


class VirtualTime:
    """Virtual starts of the tasks of one class in one instance, in tokens over the weight of their tenant.

    A task starts where its tenant's last one is expected to end, and no earlier than any task that has ended started.
    So a tenant with one task does not wait for the prompts of one that fills all places, one that comes back from idle
    gets no credit, and each task that a tenant sends brings its next ones further behind those of others.

    One writer: the engine's `Places`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: Ranking[Tenant] = Ranking()  # of the last task of each tenant, where it lies ahead

    def start(self, tenant: Tenant, tokens: float) -> float:
        """The virtual start of a task that is expected to cost so many tokens, divided by its tenant's weight."""
        begin = max(self._now, self._ends.number(tenant, 0.0))
        self._remember(tenant, begin + tokens)
        return begin

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
