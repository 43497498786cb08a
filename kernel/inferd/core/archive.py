"""Ended tasks that can still be read, and the request ids of all tasks that are known."""

from collections import OrderedDict

from inferd.core.commands import Command, ForgetTask
from inferd.core.ids import TaskId, Tenant
from inferd.core.task import Task, TaskSpec
from inferd.errors import RequestConflictError


class Archive:
    """Forgets tasks some time after their end, the one that ended first before the others. One writer: `Tasks`.

    Args:
        known: All tasks by id; it takes out what it forgets.
        retained_tasks: Most ended tasks.
        retention_s: For how long, in seconds.
        out: Where commands go.
    """

    def __init__(
        self, known: dict[TaskId, Task], *, retained_tasks: int, retention_s: float, out: list[Command]
    ) -> None:
        self._known = known
        self._retained_tasks = retained_tasks
        self._retention_s = retention_s
        self._out = out
        self._ended: OrderedDict[TaskId, None] = OrderedDict()
        self._requests: dict[tuple[Tenant, str], TaskId] = {}

    def find(self, spec: TaskSpec) -> Task | None:
        """The task that an earlier call with the same `request_id` made, or None.

        Raises:
            RequestConflictError: That call had other contents.
        """
        task_id = self._requests.get((spec.tenant, spec.request_id))
        if not spec.request_id or task_id is None:
            return None
        task = self._known[task_id]
        if task.spec.fingerprint != spec.fingerprint:
            raise RequestConflictError(
                f"request_id {spec.request_id!r} made task {task_id} from other contents; use a new request_id",
                field="request_id",
            )
        return task

    def begin(self, spec: TaskSpec) -> None:
        """A task is accepted."""
        if spec.request_id:
            self._requests[spec.tenant, spec.request_id] = spec.task_id

    def end(self, task_id: TaskId) -> None:
        """A task has ended."""
        self._ended[task_id] = None
        if len(self._ended) > self._retained_tasks:
            self._forget()

    def next_alarm(self) -> float | None:
        """When the next one is to be forgotten."""
        oldest = next(iter(self._ended), None)
        return None if oldest is None else (self._known[oldest].finished or 0.0) + self._retention_s

    def forget(self, now: float) -> None:
        """Forget what was retained for long enough."""
        while (alarm := self.next_alarm()) is not None and alarm <= now:
            self._forget()

    def _forget(self) -> None:
        task_id, _ = self._ended.popitem(last=False)
        spec = self._known.pop(task_id).spec
        self._requests.pop((spec.tenant, spec.request_id), None)
        self._out.append(ForgetTask(task_id))
