"""Ended tasks of kernels before this one: what of them is always known, and the few whose records are held.

Who keeps tasks reads a record when somebody asks for it, and has it known with `recall`; `release` gives it up again.
"""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Self

from inferd.core.changes import PastForgotten
from inferd.core.commands import Reply
from inferd.core.ids import ModelName, TaskId, Tenant
from inferd.core.index import Index
from inferd.core.restored import RestoredTask
from inferd.core.retention import Retention
from inferd.core.task import Task, TaskState
from inferd.errors import StoreUnavailableError


@dataclass(slots=True, eq=False, kw_only=True)
class PastTask:
    """What is known of an ended task whose record is held by nobody; as in `Task`. It never changes.

    Attributes:
        retained: From when on it counts for how long it is known; kernel clock.
        request_id: The `request_id` that made it; "" for none.
    """

    task_id: TaskId
    tenant: Tenant
    model: ModelName
    number: int
    state: TaskState
    retained: float
    request_id: str

    @property
    def spec(self) -> Self:
        """What says whose it is, as the spec of a record does."""
        return self


def away(task_id: TaskId) -> StoreUnavailableError:
    """What to say of one whose record is needed and was not asked for."""
    return StoreUnavailableError(f"task {task_id!r} is in the store and was not read; try again", retry_after_s=1.0)


Listed = Task | PastTask
"""What stands in lists of tasks."""


class PastTasks:
    """One writer: the register of tasks, whose books it shares.

    Args:
        known: The records that are held.
        requests: Which request made which task.
        index: Of both, by tenant and state.
        retention: Of detached ones, which these are.
        out: Where changes are told.

    Attributes:
        entries: Those whose record is not held, by id; to be read.
        newest: The highest number that one of them has had.
    """

    def __init__(
        self,
        known: MutableMapping[TaskId, Task],
        requests: MutableMapping[tuple[Tenant, str], TaskId],
        *,
        index: Index[Listed],
        retention: Retention[TaskId],
        out: list[Reply],
    ) -> None:
        self._known, self._requests = known, requests
        self._index, self._retention = index, retention
        self._out = out
        self.entries: dict[TaskId, PastTask] = {}
        self.newest = 0

    def made_by(self, tenant: Tenant, request_id: str) -> PastTask | None:
        """The one that a request has made, where its record is not held; else None."""
        task_id = self._requests.get((tenant, request_id)) if request_id else None
        return None if task_id is None else self.entries.get(task_id)

    def restore(self, entries: Iterable[PastTask]) -> None:
        """A kernel before this one saw the end of these; told in any order."""
        for entry in sorted(entries, key=lambda each: each.retained):
            self.newest = max(self.newest, entry.number)
            self.entries[entry.task_id] = entry
            if entry.request_id:
                self._requests[entry.tenant, entry.request_id] = entry.task_id
            self._retention.add(entry.task_id, entry.tenant, entry.retained)
        for entry in sorted(self.entries.values(), key=lambda each: each.number):  # each an append
            self._index.add(entry)

    def recall(self, kept: RestoredTask) -> bool:
        """The record of one is held again, if it is one of these; whether it is."""
        if (entry := self.entries.pop(kept.spec.task_id, None)) is None:
            return False
        task = kept.task()
        task.number, task.retained = entry.number, entry.retained
        self._index.remove(entry)
        self._index.add(task)
        self._known[entry.task_id] = task
        return True

    def release(self, task: Task) -> None:
        """The record of one that was recalled is not held any more."""
        spec = task.spec
        entry = PastTask(
            task_id=spec.task_id,
            tenant=spec.tenant,
            model=spec.model,
            number=task.number,
            state=task.state,
            retained=task.retained or 0.0,
            request_id=spec.request_id,
        )
        del self._known[spec.task_id]
        self._index.remove(task)
        self._index.add(entry)
        self.entries[spec.task_id] = entry

    def forget(self, task_id: TaskId) -> None:
        """One is known no longer, nor kept."""
        self._out.append(PastForgotten(task_id, self.lose(task_id).tenant))

    def lose(self, task_id: TaskId) -> PastTask:
        """One is known no longer, as it cannot be read; what there is of it stays."""
        entry = self.entries.pop(task_id)
        self._retention.drop(task_id)
        self._index.remove(entry)
        request = entry.tenant, entry.request_id
        if self._requests.get(request) == task_id:  # else it is another one's: two may have been kept
            del self._requests[request]
        return entry
