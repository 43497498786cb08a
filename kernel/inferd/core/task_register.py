"""The register of tasks: their records, and all that is kept of them by state, by tenant and by request."""

from collections.abc import Collection
from dataclasses import replace
from math import ceil

from inferd.core.census import Census
from inferd.core.changes import TaskAccepted, TaskChanged, TaskDetached, TaskEnd, TaskForgotten, TaskRestored
from inferd.core.commands import Reply
from inferd.core.demand import NO_DEMAND
from inferd.core.ids import TaskId, Tenant
from inferd.core.index import Index, Page
from inferd.core.lifecycle import advance
from inferd.core.past_tasks import Listed, PastTasks, away
from inferd.core.quotas import Quotas
from inferd.core.restored import RestoredTask
from inferd.core.retention import Retention
from inferd.core.task import TASK_TABLE, Outcome, SuspendReason, Task, TaskChange, TaskSpec, TaskState
from inferd.errors import RequestConflictError, TaskNotFoundError

CHANGE_OF = {
    TaskState.SUCCEEDED: TaskChange.SUCCEED,
    TaskState.FAILED: TaskChange.FAIL,
    TaskState.CANCELLED: TaskChange.CANCEL,
    TaskState.EXPIRED: TaskChange.EXPIRE,
}


class TaskRegister:
    """The one place where a task is made, changes its state and is forgotten, so that all books agree.

    Ended tasks are forgotten some time after their end, those that are detached later than others.
    One writer: `Tasks`.

    Attributes:
        known: All tasks by id, but for `past`.
        census: How many wait and run.
        dues: Each says when the next one is to be forgotten.
        past: Ended tasks of kernels before this one whose records are not held.

    Args:
        retention: Of ended tasks.
        detached: Of those of them that are detached.
        quotas: Count what each task uses.
        out: Where changes are told.
    """

    def __init__(
        self, *, retention: Retention[TaskId], detached: Retention[TaskId], quotas: Quotas, out: list[Reply]
    ) -> None:
        self.known: dict[TaskId, Task] = {}
        self.census = Census()
        self._retentions = {False: retention, True: detached}
        self.dues = (retention.next_due, detached.next_due)
        self._quotas = quotas
        self._out = out
        self._index: Index[Listed] = Index()
        self._accepted = 0
        self._requests: dict[tuple[Tenant, str], TaskId] = {}
        self.past = PastTasks(self.known, self._requests, index=self._index, retention=detached, out=out)

    def get(self, task_id: TaskId, tenant: Tenant) -> Task:
        """The tenant's task of this id.

        Raises:
            TaskNotFoundError: There is none, or it is another tenant's.
            StoreUnavailableError: Its record is not held, and was not asked for.
        """
        task = self.known.get(task_id)
        if task is None and (past := self.past.entries.get(task_id)) is not None and past.tenant == tenant:
            raise away(task_id)
        if task is None or task.spec.tenant != tenant:
            raise TaskNotFoundError(f"no task {task_id!r}; it never was, or its retention ended", field="task_id")
        return task

    def made_by(self, spec: TaskSpec) -> Task | None:
        """The task that a submission made, or an earlier one of the tenant with the same `request_id`; else None."""
        task_id = self._requests.get((spec.tenant, spec.request_id)) if spec.request_id else spec.task_id
        return None if task_id is None else self.known.get(task_id)

    def requested(self, tenant: Tenant, request_id: str) -> Listed | None:
        """The known task that a submission of the tenant with this `request_id` has made; None for none."""
        task_id = self._requests.get((tenant, request_id)) if request_id else None
        return None if task_id is None else self.known.get(task_id) or self.past.entries.get(task_id)

    def repeats(self, spec: TaskSpec) -> bool:
        """Whether an earlier submission with the same `request_id` has made this task.

        Raises:
            RequestConflictError: That one had other contents.
            StoreUnavailableError: Its record is not held, and was not asked for.
        """
        if (past := self.past.made_by(spec.tenant, spec.request_id)) is not None:
            raise away(past.task_id)
        task = self.made_by(spec) if spec.request_id else None
        if task is None:
            return False
        task_id = task.spec.task_id
        if task.spec.fingerprint != spec.fingerprint:
            raise RequestConflictError(
                f"request_id {spec.request_id!r} made task {task_id} from other contents; use a new request_id",
                field="request_id",
            )
        return True

    def page(self, tenant: Tenant, states: Collection[TaskState], *, after: int | None, size: int) -> Page[Listed]:
        """The tenant's tasks in one of these states, none for all, newest first, behind the one of number `after`."""
        return self._index.page(tenant, states, after=after, size=size, newest_first=True)

    def add(self, spec: TaskSpec, now: float, *, tokens: float) -> Task:
        """A task is accepted: QUEUED; it is expected to read and write so many tokens."""
        self._accepted = max(self._accepted, self.past.newest) + 1
        task = self.known[spec.task_id] = Task(
            spec=spec,
            number=self._accepted,
            created=now,
            expires=spec.deadline,
            expected_tokens=tokens,
            estimated_tokens=ceil(tokens),
            prompt_tokens=spec.demand.prompt_tokens,
        )
        self._quotas.begin_task(task, now)
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.task_id
        self._index.add(task)
        self.census.add(task)
        self._out.append(TaskAccepted(spec, task.number, now))
        return task

    def restore(self, kept: RestoredTask, now: float) -> Task:
        """A task of a kernel before this one, which has not ended, is known again; one that ran waits."""
        spec = kept.spec
        self._accepted = max(self._accepted, kept.number)
        task = self.known[spec.task_id] = kept.task()
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.task_id
        self._index.add(task)
        self.census.add(task)
        self.census.detach(task)
        self._quotas.take_up(task, now)
        self._out.append(TaskRestored(spec.task_id, spec.tenant, kept.estimated))
        if task.state is TaskState.RUNNING:
            self.move(task, TaskChange.INTERRUPT, reason=SuspendReason.WORKER_DIED)
        return task

    def move(
        self, task: Task, change: TaskChange, *, reason: SuspendReason | None = None, end: TaskEnd | None = None
    ) -> None:
        """Bring a task from one state to another; all else that changes with it is known.

        Args:
            task: The task.
            change: What happens to it.
            reason: Why it was stopped to go on later; None where it was not.
            end: How it ended; None where it did not.
        """
        before, state = task.state, advance(TASK_TABLE, task.state, change)
        task.state = state
        self._index.move(task, before)
        self.census.move(task, before)
        spec = task.spec
        self._out.append(
            TaskChanged(
                *(spec.task_id, spec.tenant, spec.model, change, state, task.attempt, task.instance_id, reason, end),
                version=task.version,
            )
        )

    def detach(self, task: Task, default_expires: float, now: float) -> None:
        """A task outlives its client's call; it expires at `default_expires` unless it does anyway."""
        task.detached = True
        if task.expires is None:
            task.expires = default_expires
        self._out.append(TaskDetached(task.spec.task_id, task.spec.tenant, task.expires))
        if task.finished is None:
            self.census.detach(task)
        else:
            self._retentions[False].drop(task.spec.task_id)
            self._retain(task, now)  # and not from its end: those before it would be due behind it

    def attach(self, task: Task, now: float) -> None:
        """A task does not outlive its client's call after all."""
        if task.finished is None:
            self.census.attach(task)
        else:
            self._retentions[True].drop(task.spec.task_id)
        task.detached, task.expires = False, task.spec.deadline
        if task.finished is not None:
            self._retain(task, now)

    def end(self, task: Task, outcome: Outcome, now: float) -> None:
        """Bring a task to its end; it has left wherever it waited or ran."""
        task.outcome, task.finished = outcome, now
        uses = self._quotas.end_task(task, outcome, now)
        times = (task.created, task.started, now)
        end = TaskEnd(outcome, task.device_id, *times, task.device_s, uses, task.version)
        self.move(task, CHANGE_OF[outcome.state], end=end)
        self.census.remove(task)
        task.spec = replace(task.spec, work=None, demand=NO_DEMAND)
        self._retain(task, now)

    def _retain(self, task: Task, now: float) -> None:
        """Know an ended task for a while, in place of the one that is to be forgotten first if there are too many."""
        task.retained, retention = now, self._retentions[task.detached]
        retention.add(task.spec.task_id, task.spec.tenant, now)
        while (first := retention.excess()) is not None:
            self._drop_first(first)

    def forget(self, now: float) -> None:
        """Forget what was retained for long enough."""
        for retention in self._retentions.values():
            while (first := retention.due(now)) is not None:
                self._drop_first(first)

    def _drop_first(self, task_id: TaskId) -> None:
        if task_id in self.past.entries:
            self.past.forget(task_id)
        else:
            self.drop(self.known[task_id])

    def drop(self, task: Task) -> None:
        """Forget an ended task now."""
        task_id = task.spec.task_id
        self._retentions[task.detached].drop(task_id)
        del self.known[task_id]
        self._index.remove(task)
        request = task.spec.tenant, task.spec.request_id
        if self._requests.get(request) == task_id:  # else it is another one's: two may have been kept
            del self._requests[request]
        self._out.append(TaskForgotten(task_id, task.spec.tenant))
