"""Ended tasks of kernels before this one that nobody asked for: what they take of the store, and how they leave it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import structlog

from inferd.runtime.kept import hold_outputs, let_go_outputs
from inferd.runtime.kept_sent import deletes, drops

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from inferd.core.ids import TaskId, Tenant
    from inferd.core.room import Room
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.ended import Ended
    from inferd.store.store import Put, Write

log = structlog.get_logger()


class KeptPast:
    """One writer: the keeper's tasks.

    Args:
        room: What is stored of which task.
        blobs: Where outputs are; None for nowhere.
        changed: Called when something is to be written.
    """

    def __init__(self, room: Room, blobs: Callable[[], Blobs | None], changed: Callable[[], None]) -> None:
        self._room, self._blobs, self._changed = room, blobs, changed
        self._outputs: dict[TaskId, dict[str, int]] = {}  # the blobs that are held for their outputs
        self._deleted: set[TaskId] = set()  # those whose outputs were
        self._due: dict[TaskId, list[Write]] = {}
        self._sent: dict[TaskId, list[Write]] = {}
        self._gone: dict[TaskId, Tenant] = {}  # whose blobs are let go of when that is written

    def __bool__(self) -> bool:
        """Whether something is to be written."""
        return bool(self._due)

    def expect(self, ended: Collection[Ended], puts: Sequence[Put]) -> None:
        """These are known; what is to be said of some of them anew."""
        for each in sorted(ended, key=lambda one: one.entry.retained):
            task_id, tenant = each.entry.task_id, each.entry.tenant
            if outputs := hold_outputs(self._blobs(), tenant, task_id, each.outputs):
                self._outputs[task_id] = outputs
            if each.deleted:
                self._deleted.add(task_id)
            else:
                self._room.end(task_id, tenant, each.size_bytes + sum(outputs.values()))
        for put in puts:
            self._due[put.key] = [put]  # type: ignore[index] # the key of a task is its id
        if puts:
            self._changed()

    def forget(self, task_id: TaskId, tenant: Tenant) -> None:
        """One is known no longer: what there is of it goes."""
        self._due[task_id] = drops(tenant, task_id, tuple(self._outputs.get(task_id, ())))
        self._gone[task_id] = tenant
        self.lose(task_id, tenant)
        self._changed()

    def lose(self, task_id: TaskId, tenant: Tenant) -> None:
        """One is known no longer, as it cannot be read: what there is of it stays, and counts nowhere."""
        self._deleted.discard(task_id)
        self._room.drop(task_id, tenant)

    def delete(self, task_id: TaskId, tenant: Tenant) -> None:
        """What one has told goes, but its end."""
        log_deleted(task_id, tenant, self._room.drop(task_id, tenant), self._room.limit_bytes)
        outputs = self._outputs.get(task_id, {})
        self._due.setdefault(task_id, []).extend(deletes(tenant, task_id, tuple(outputs)))
        self._gone[task_id] = tenant
        self._deleted.add(task_id)
        self._changed()

    def recall(self, task_id: TaskId) -> tuple[dict[str, int], bool]:
        """Somebody asks for one: the blobs that are held for its outputs, and whether what it has told was deleted."""
        outputs = {} if task_id in self._gone else self._outputs.pop(task_id, {})
        deleted = task_id in self._deleted
        self._deleted.discard(task_id)
        return outputs, deleted

    def release(self, task_id: TaskId, outputs: dict[str, int], *, deleted: bool) -> None:
        """Nobody asks for one any more; as `recall` gave it."""
        if outputs:
            self._outputs[task_id] = outputs
        if deleted:
            self._deleted.add(task_id)

    def take(self, most: int) -> list[Write]:
        """What is to be written now, of so many of them."""
        self._sent = {task_id: self._due.pop(task_id) for task_id in list(islice(self._due, most))}
        return [write for writes in self._sent.values() for write in writes]

    def settle(self, *, done: bool) -> None:
        """That is written; or nobody knows, and it is due again before what came since."""
        sent, self._sent = self._sent, {}
        for task_id, writes in sent.items() if not done else ():
            self._due[task_id] = [*writes, *self._due.get(task_id, ())]
        for task_id in sent if done else ():
            if task_id in self._gone and task_id not in self._due:
                tenant = self._gone.pop(task_id)
                let_go_outputs(self._blobs(), tenant, task_id, self._outputs.pop(task_id, ()))


def log_deleted(task_id: TaskId, tenant: Tenant, size_bytes: int, limit_bytes: int) -> None:
    """Say in the log that what an ended task has told goes."""
    log.warning(
        "outputs of a task are deleted, as more is stored than may be",
        task=task_id,
        tenant=tenant,
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )
