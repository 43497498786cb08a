"""How many there are of something that is bounded, in all and by tenant."""

from collections import Counter
from dataclasses import dataclass, field

from rules import BrokenRuleError, Rule

from inferd.core.ids import Tenant
from inferd.core.task import TaskSpec


@dataclass(slots=True)
class Tally:
    """A count; `what` says of what."""

    what: str
    total: int = 0
    tenants: Counter[Tenant] = field(default_factory=Counter)

    def add(self, tenant: Tenant, count: int) -> None:
        self.total += count
        self.tenants[tenant] += count

    def check(self, tenant: Tenant, limit: float, share: float, added: int, *, beside: int) -> None:
        """What a tenant was allowed to add was within the bound, and within its share of what was free.

        What it got besides with the same event does not count.
        """
        have, free = self.tenants[tenant] - beside, limit - self.total
        if free < 0 or have > share * (free + added):
            text = f"{self.total} of {limit} {self.what}, {have} of {tenant}, which came to add {added}"
            raise BrokenRuleError(Rule.BOUND, text)


def input_bytes(spec: TaskSpec) -> int:
    """What the input of a task counts for."""
    return spec.demand.memory_bytes
