"""What is stored of kept tasks, in bytes: whose outputs go when that is too much, and who may add to it.

Those that have ended give way: of the tenant that has the most of them the one that ended first, so that nobody's go
for the sake of another one who has more (max-min fairness, as in `core.retention`). What tasks that have not ended
take gives no way: new ones are refused, a tenant's beyond its share of what is free (as in `core.bounds`).
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from inferd.core.admission import RETRY_WHEN_FULL_S
from inferd.core.ids import TaskId, Tenant
from inferd.core.ranking import Ranking
from inferd.errors import LimitExceededError


@dataclass(slots=True)
class Taken:
    """What the tasks of a tenant take. One writer: `Room`.

    Attributes:
        living_bytes: Those that have not ended.
        ended: Each of the others that has outputs, the one that ended first before the others.
        ended_bytes: Those together.
    """

    living_bytes: int = 0
    ended: OrderedDict[TaskId, int] = field(default_factory=OrderedDict)
    ended_bytes: int = 0


class Room:
    """What is stored of which task. One writer: the keeper.

    Args:
        limit_bytes: Of all.
        share: A tenant's tasks that have not ended may take so many times what is free.

    Attributes:
        all_bytes: What all take.
        living_bytes: What those take that have not ended.
        limit_bytes: As given.
    """

    def __init__(self, limit_bytes: int, share: float) -> None:
        self.all_bytes = self.living_bytes = 0
        self.limit_bytes = limit_bytes
        self._share = share
        self._of: dict[Tenant, Taken] = {}
        self._living: dict[TaskId, int] = {}
        self._most_first: Ranking[Tenant] = Ranking()

    def live(self, task_id: TaskId, tenant: Tenant, size_bytes: int) -> None:
        """So much is stored of a task that has not ended."""
        more = size_bytes - self._living.get(task_id, 0)
        self._living[task_id] = size_bytes
        self._of.setdefault(tenant, Taken()).living_bytes += more
        self.living_bytes += more
        self.all_bytes += more

    def end(self, task_id: TaskId, tenant: Tenant, size_bytes: int) -> None:
        """So much is stored of a task that has ended, and may give way."""
        self.drop(task_id, tenant)
        taken = self._of.setdefault(tenant, Taken())
        taken.ended[task_id] = size_bytes
        taken.ended_bytes += size_bytes
        self.all_bytes += size_bytes
        self._most_first.put(tenant, -taken.ended_bytes)

    def drop(self, task_id: TaskId, tenant: Tenant) -> int:
        """Nothing is stored of a task any more, or nothing that could give way; what it took. Again changes nothing."""
        if (taken := self._of.get(tenant)) is None:
            return 0
        if (living := self._living.pop(task_id, None)) is not None:
            taken.living_bytes -= living
            self.living_bytes -= living
            self.all_bytes -= living
        if (ended := taken.ended.pop(task_id, None)) is not None:
            taken.ended_bytes -= ended
            self.all_bytes -= ended
        if taken.ended:
            self._most_first.put(tenant, -taken.ended_bytes)
        else:
            self._most_first.drop(tenant)
            if not taken.living_bytes:
                del self._of[tenant]
        return (living or 0) + (ended or 0)

    def excess(self) -> tuple[TaskId, Tenant] | None:
        """The ended task whose outputs are to go as too much is stored; None when it is not, or there is none."""
        if self.all_bytes <= self.limit_bytes or (first := self._most_first.first()) is None:
            return None
        return next(iter(self._of[first[1]].ended)), first[1]

    def check(self, tenant: Tenant, size_bytes: int) -> None:
        """Refuse a task of which so much is to be stored.

        Raises:
            LimitExceededError: There is no room though all that has ended gave way, or not for this tenant.
        """
        free = self.limit_bytes - self.living_bytes
        if size_bytes > free:
            raise LimitExceededError(
                f"the task takes {size_bytes} bytes of the store, those that have not ended {self.living_bytes}, and "
                f"store.bytes is {self.limit_bytes}; try again later, or raise that setting of the kernel",
                metadata={
                    "bound": "store.bytes",
                    "value": str(size_bytes),
                    "held": str(self.living_bytes),
                    "limit": str(self.limit_bytes),
                },
                retry_after_s=RETRY_WHEN_FULL_S,
            )
        have = self._of[tenant].living_bytes if tenant in self._of else 0
        if have + size_bytes > self._share * free:
            raise LimitExceededError(
                f"the task takes {size_bytes} bytes of the store, those of tenant {tenant!r} that have not ended "
                f"{have}, and it may have {self._share:g} times the {free} bytes that are left of {self.limit_bytes} "
                "(scheduler.tenant_share, store.bytes); try again later",
                metadata={
                    "bound": "scheduler.tenant_share",
                    "value": str(size_bytes),
                    "held": str(have),
                    "free": str(free),
                },
                retry_after_s=RETRY_WHEN_FULL_S,
            )
