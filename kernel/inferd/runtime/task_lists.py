"""Those who watch the tasks of a tenant, and what each of them has not been told yet."""

from collections.abc import Iterator
from contextlib import contextmanager

from inferd.core.ids import TaskId, Tenant
from inferd.runtime.signal import Signal

MOST_UNTOLD = 1024  # changed tasks that are noted for a watcher; of one that is further behind the list begins anew


class Untold(Signal):
    """The tasks of a tenant that have changed since their watcher last looked. One writer: `TaskLists`.

    It begins as one that is behind: its watcher knows nothing yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed: dict[TaskId, None] = {}
        self._behind = True

    def note(self, task_id: TaskId) -> None:
        """A task has changed."""
        if not self._behind:
            self._changed[task_id] = None
            self._behind = len(self._changed) > MOST_UNTOLD
        self.notify()

    def take(self) -> list[TaskId] | None:
        """The tasks that have changed since the last look, in the order in which they began to; None for too many."""
        taken = None if self._behind else list(self._changed)
        self._changed.clear()
        self._behind = False
        return taken


class TaskLists:
    """Tells watchers which tasks of their tenant have changed. One writer: the driver's watchers."""

    def __init__(self) -> None:
        self._watchers: dict[Tenant, set[Untold]] = {}

    def note(self, tenant: Tenant, task_id: TaskId) -> None:
        """A task of a tenant has changed, or is known no longer."""
        for untold in self._watchers.get(tenant, ()):
            untold.note(task_id)

    def notify_all(self) -> None:
        """Wake everyone: the kernel is shutting down."""
        for untolds in self._watchers.values():
            for untold in untolds:
                untold.notify()

    @contextmanager
    def watch(self, tenant: Tenant) -> Iterator[Untold]:
        """What has changed of a tenant's tasks, from now to the end of the block."""
        untold = Untold()
        self._watchers.setdefault(tenant, set()).add(untold)
        try:
            yield untold
        finally:
            self._watchers[tenant].discard(untold)
            if not self._watchers[tenant]:
                del self._watchers[tenant]
