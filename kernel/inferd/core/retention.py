"""For how long, and how many, ended things of a kind are known: tasks, leases.

Where there are too many, the tenant that has most of them gives up its oldest: so nobody's are forgotten for the sake
of another one who has more, and one tenant alone may have all (max-min fairness).
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from inferd.core.ids import Tenant
from inferd.core.ranking import Ranking

K = TypeVar("K", bound=Hashable)


class Retention(Generic[K]):
    """Ended ones by id, the one that is forgotten first before the others. One writer: their register.

    Args:
        most: How many.
        seconds: For how long, from its end.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._ended: OrderedDict[K, tuple[Tenant, float]] = OrderedDict()  # and when they are forgotten
        self._of: dict[Tenant, OrderedDict[K, None]] = {}
        self._most_first: Ranking[Tenant] = Ranking()

    def add(self, key: K, tenant: Tenant, finished: float) -> None:
        """One has ended."""
        self._ended[key] = tenant, finished + self._seconds
        self._of.setdefault(tenant, OrderedDict())[key] = None
        self._rank(tenant)

    def drop(self, key: K) -> None:
        """It is forgotten."""
        tenant, _ = self._ended.pop(key)
        del self._of[tenant][key]
        self._rank(tenant)

    def _rank(self, tenant: Tenant) -> None:
        if count := len(self._of[tenant]):
            self._most_first.put(tenant, -count)
        else:
            del self._of[tenant]
            self._most_first.drop(tenant)

    def first_of(self, tenant: Tenant) -> K | None:
        """The one of a tenant that ended first; None where it has none."""
        return next(iter(self._of.get(tenant, ())), None)

    def excess(self) -> K | None:
        """The one that is to be forgotten as there are too many; None when there are not."""
        if len(self._ended) <= self._most or (first := self._most_first.first()) is None:
            return None
        return self.first_of(first[1])

    def next_due(self) -> float | None:
        """When the next one is to be forgotten."""
        for _, at in self._ended.values():
            return at
        return None

    def due(self, now: float) -> K | None:
        """One that was known for long enough; None when there is none."""
        at = self.next_due()
        return next(iter(self._ended)) if at is not None and at <= now else None
