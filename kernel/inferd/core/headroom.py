"""Places that are left free, so that a tenant which comes back need not wait for the end of another's tasks."""

from collections import OrderedDict

from inferd.core.ids import Tenant

RECENT_S = 60.0
MOST_TENANTS = 1000  # told apart; of more, those count that sent last
LEAST_PLACES = 8  # of fewer, one that is left free is too much to lose


class Headroom:
    """Who has used a model lately. One writer: `Tasks`.

    While several tenants have, one that runs its share of the places or more leaves the last part of them free. A
    tenant alone takes them all. Without this a tenant that sends now and then waits behind whoever fills every place,
    for as long as the shortest of those tasks runs, however fair the queue is.

    Args:
        part: Of the places, that is left free; at least one place where it is above 0 and there are `LEAST_PLACES`.
    """

    def __init__(self, part: float) -> None:
        self._part = part
        self._seen: OrderedDict[Tenant, float] = OrderedDict()

    def see(self, tenant: Tenant, now: float) -> None:
        """A tenant has sent a task."""
        self._seen[tenant] = now
        self._seen.move_to_end(tenant)
        while now - next(iter(self._seen.values())) > RECENT_S or len(self._seen) > MOST_TENANTS:
            self._seen.popitem(last=False)

    def allows(self, *, free: int, places: int, running: int) -> bool:
        """Whether a tenant that runs so many tasks may take one of the `free` among all `places`."""
        alone = len(self._seen) <= 1
        if alone or not self._part or places < LEAST_PLACES or running < places / len(self._seen):
            return True
        return free > max(1, int(places * self._part))
