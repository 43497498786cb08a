"""How a kernel ends: it takes nothing new and lets what runs come to its end, then ends what is left."""

from typing import Protocol

from inferd.core.events import Drain, Shutdown
from inferd.core.fleet import Fleet
from inferd.core.ids import TaskId
from inferd.core.lease import LIVING, Lease, LeaseChange
from inferd.core.leases import Leases
from inferd.core.lifecycle import terminal
from inferd.core.task import TASK_TABLE, Outcome, TaskState
from inferd.core.tasks import Tasks
from inferd.errors import InferdError, ShuttingDownError

RETRY_AFTER_S = 1.0  # when the next kernel may be there


class Owner(Protocol):
    """Who owns leases: the kernel machine."""

    def end_lease(self, lease: Lease, change: LeaseChange, error: InferdError | None = None) -> None:
        """End a lease, with all that hangs on it."""


class Ending:
    """Whether the kernel takes anything new, and its end. One writer: the kernel machine.

    Attributes:
        closed: Whether it is shutting down.
    """

    def __init__(self, tasks: Tasks, leases: Leases, fleet: Fleet, owner: Owner) -> None:
        self.closed = False
        self._until: float | None = None  # when what still runs is ended
        self._tasks = tasks
        self._leases = leases
        self._fleet = fleet
        self._owner = owner

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new."""
        return self.closed or self._until is not None

    def check_open(self) -> None:
        """Refuse what comes after `Shutdown`.

        Raises:
            ShuttingDownError: The kernel is shutting down.
        """
        if self.closed:
            raise ShuttingDownError("the kernel is shutting down", retry_after_s=RETRY_AFTER_S)

    def check_taking(self, now: float) -> None:
        """Refuse new work after `Drain`.

        Raises:
            ShuttingDownError: The kernel is shutting down, or will when what runs has come to its end.
        """
        self.check_open()
        if self._until is not None:
            left_s = max(0.0, self._until - now)
            raise ShuttingDownError(
                f"the kernel is shutting down and takes nothing new; what runs has {left_s:.1f} s left to end",
                retry_after_s=left_s + RETRY_AFTER_S,
            )

    def drain(self, event: Drain, now: float) -> None:
        """Nothing new is taken and no waiting task begins; those that wait and cannot wait for the next kernel end."""
        if self.draining:
            return
        self._until = event.until
        self._tasks.hold()
        waiting = [
            task.spec.task_id
            for task in self._tasks.known.values()
            if task.state in (TaskState.QUEUED, TaskState.SUSPENDED) and not (event.keeps and task.detached)
        ]
        self._end(waiting, "the kernel is shutting down; the task had to wait and was not kept", now)

    def shutdown(self, event: Shutdown, now: float) -> None:
        """End whatever lives."""
        self.closed = True
        living = [t for t, task in self._tasks.known.items() if not terminal(TASK_TABLE, task.state)]
        self._end(living, "the kernel is shutting down", now)
        for state in LIVING[: 1 if event.keeps_leases else None]:  # first those that would be granted otherwise
            for lease in [lease for lease in self._leases.known.values() if lease.state is state]:
                self._owner.end_lease(lease, LeaseChange.RELEASE)
        for model in self._fleet.models.values():
            self._fleet.unload(model)

    def _end(self, task_ids: list[TaskId], why: str, now: float) -> None:
        error = ShuttingDownError(why, retry_after_s=RETRY_AFTER_S)
        self._tasks.finish_all(task_ids, Outcome(state=TaskState.CANCELLED, error=error), now)
