"""How many tasks may wait, be suspended and be detached, and what their inputs may take: in all, and of one tenant.

A tenant's share shrinks as a thing fills (dynamic thresholds: A. K. Choudhury, E. L. Hahne, IEEE/ACM Transactions on
Networking 6(2), 1998): it may have `tenant_share` times what is still free. One tenant alone comes to `tenant_share` of
`1 + tenant_share` parts, so that whoever comes next finds room; the more have much, the less each may add.
"""

from inferd.core.admission import RETRY_WHEN_FULL_S, check_bound, check_queue
from inferd.core.census import Census
from inferd.core.line import TaskLimits
from inferd.core.priority import Priority
from inferd.core.task import TaskSpec
from inferd.errors import LimitExceededError, QueueFullError


class TaskBounds:
    """Refuses what goes beyond the bounds of tasks, before anything changes."""

    def __init__(self, limits: TaskLimits, census: Census) -> None:
        self._limits = limits
        self._census = census

    def check_new(self, spec: TaskSpec, *, queued: int | None = None) -> None:
        """Refuse a task that is one too many.

        Args:
            spec: It.
            queued: Most that wait for its model, by that one's settings; None for the kernel's bound alone.

        Raises:
            QueueFullError: Too many tasks live or wait, at all, of the tenant or for the model, or their inputs are too
                large.
            LimitExceededError: It is detached, and too many are.
        """
        limits, census = self._limits, self._census
        of_tenant, tenant = census.of_tenant(spec.tenant), spec.tenant
        self._check_living(spec)
        most = limits.queued_tasks + (limits.queued_high if spec.priority is Priority.HIGH else 0)
        check_queue(census.all.queued, most)
        check_bound("scheduler.tenant_queued", of_tenant.queued, limits.tenant_queued, f"tenant {tenant!r}")
        own = queued is not None and queued < limits.model_queued
        name = "setting 'queued_tasks'" if own else "scheduler.model_queued"
        bound = queued if queued is not None and own else limits.model_queued
        check_bound(name, census.of_model(spec.model).queued, bound, f"model {spec.model!r}")
        free = most - census.all.queued
        if of_tenant.queued + 1 > limits.tenant_share * free:
            raise QueueFullError(
                f"tenant {tenant!r} has {of_tenant.queued} waiting tasks, and may have {limits.tenant_share:g} times "
                f"the {free} places that are free in the queue (scheduler.tenant_share); try again later",
                metadata={"bound": "scheduler.tenant_share", "queued": str(of_tenant.queued), "free": str(free)},
                retry_after_s=RETRY_WHEN_FULL_S,
            )
        self._check_inputs(spec)
        if spec.detached:
            self.check_detached(spec)

    def exceeded(self) -> list[tuple[str, int, int]]:
        """The bounds that tasks exceed, as they may when kept ones are taken up; each with value and limit."""
        limits, tasks = self._limits, self._census.all
        bounds = (
            ("limits.tasks", tasks.living, limits.tasks),
            ("limits.queued_tasks", tasks.queued, limits.queued_tasks + limits.queued_high),
            ("limits.suspended_tasks", tasks.suspended, limits.suspended_tasks),
            ("limits.detached_tasks", tasks.detached, limits.detached_tasks),
            ("limits.input_bytes", tasks.input_bytes, limits.input_bytes),
        )
        return [bound for bound in bounds if bound[1] > bound[2]]

    def check_suspended(self, spec: TaskSpec) -> None:
        """Refuse to suspend a task when too many are.

        Raises:
            LimitExceededError: They are.
        """
        have, total = self._census.of_tenant(spec.tenant).suspended, self._census.all.suspended
        self._check_count(spec, have, total, what="suspended", limit=self._limits.suspended_tasks)

    def check_detached(self, spec: TaskSpec) -> None:
        """Refuse to detach a task when too many are.

        Raises:
            LimitExceededError: They are.
        """
        have, total = self._census.of_tenant(spec.tenant).detached, self._census.all.detached
        self._check_count(spec, have, total, what="detached", limit=self._limits.detached_tasks)

    def _check_living(self, spec: TaskSpec) -> None:
        """Each task takes memory of the kernel, also one that runs; the waiting ones have tighter bounds."""
        limits, census = self._limits, self._census
        total, have = census.all.living, census.of_tenant(spec.tenant).living
        free = limits.tasks - total
        if free < 1:
            raise QueueFullError(
                f"{total} tasks have not ended and limits.tasks is {limits.tasks}; try again later",
                metadata={"bound": "limits.tasks", "value": str(total), "limit": str(limits.tasks)},
                retry_after_s=RETRY_WHEN_FULL_S,
            )
        if have + 1 > limits.tenant_share * free:
            raise QueueFullError(
                f"tenant {spec.tenant!r} has {have} tasks that have not ended, and may have {limits.tenant_share:g} "
                f"times the {free} that are left of {limits.tasks} (scheduler.tenant_share, limits.tasks); try again "
                "later",
                metadata={"bound": "scheduler.tenant_share", "value": str(have), "free": str(free)},
                retry_after_s=RETRY_WHEN_FULL_S,
            )

    def _check_inputs(self, spec: TaskSpec) -> None:
        input_bytes = spec.demand.memory_bytes
        limits, total = self._limits, self._census.all.input_bytes
        have, free = self._census.of_tenant(spec.tenant).input_bytes, limits.input_bytes - total
        if input_bytes > free:
            raise QueueFullError(
                f"the input takes {input_bytes} bytes, those of tasks that have not ended {total}, and "
                f"limits.input_bytes is {limits.input_bytes}; try again later",
                metadata={
                    "bound": "limits.input_bytes",
                    "value": str(input_bytes),
                    "held": str(total),
                    "limit": str(limits.input_bytes),
                },
                retry_after_s=RETRY_WHEN_FULL_S,
            )
        if have + input_bytes > limits.tenant_share * free:
            raise QueueFullError(
                f"the input takes {input_bytes} bytes, those of tenant {spec.tenant!r} that have not ended {have}, and "
                f"it may have {limits.tenant_share:g} times the {free} bytes that are free (scheduler.tenant_share, "
                "limits.input_bytes); try again later",
                metadata={
                    "bound": "scheduler.tenant_share",
                    "value": str(input_bytes),
                    "held": str(have),
                    "free": str(free),
                },
                retry_after_s=RETRY_WHEN_FULL_S,
            )

    def _check_count(self, spec: TaskSpec, have: int, total: int, *, what: str, limit: int) -> None:
        free, name = limit - total, f"limits.{what}_tasks"
        if free < 1:
            raise LimitExceededError(
                f"{total} tasks are {what} and {name} is {limit}; try again later",
                metadata={"bound": name, "value": str(total), "limit": str(limit)},
                retry_after_s=RETRY_WHEN_FULL_S,
            )
        if have + 1 > self._limits.tenant_share * free:
            raise LimitExceededError(
                f"tenant {spec.tenant!r} has {have} {what} tasks, and may have {self._limits.tenant_share:g} times the "
                f"{free} that are left of {limit} (scheduler.tenant_share, {name}); try again later",
                metadata={"bound": "scheduler.tenant_share", "value": str(have), "free": str(free)},
                retry_after_s=RETRY_WHEN_FULL_S,
            )
