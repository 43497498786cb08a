"""Calls that run tasks: a task ends with the last of them, unless it is detached."""

import asyncio
from functools import partial
from typing import Protocol

from inferd.core.ids import TaskId, Tenant
from inferd.runtime.stream import TaskStream


class _Change(Protocol):
    def __call__(self, task_id: TaskId, tenant: Tenant) -> None: ...


class Attendance:
    """Counts the calls that run a task.

    Args:
        cancel: Cancels a task.
        detach: Lets a task outlive its calls.
    """

    def __init__(self, *, cancel: _Change, detach: _Change) -> None:
        self._cancel = cancel
        self._detach = detach

    def attend(self, stream: TaskStream, tenant: Tenant, *, detached: bool, linger_s: float = 0.0) -> None:
        """A call runs a task: its life hangs on it and its like, unless one of them says that it is detached.

        The last to come says for how long the task goes on without any: a client that comes back on a new call may do
        so before the end of the broken one is seen.

        Raises:
            LimitExceededError: Too many are detached.
        """
        if detached and not stream.detached:
            self._detach(stream.task_id, tenant)
            stream.detached = True
        stream.runners += 1
        stream.comings += 1
        stream.linger_s = linger_s

    def leave(self, stream: TaskStream, tenant: Tenant, *, lingers: bool = True) -> None:
        """A call that ran a task has ended; the last one ends the task with it, at once or after a while."""
        stream.runners -= 1
        end = partial(self._end_deserted, stream, tenant, stream.comings)
        if lingers and stream.linger_s and stream.finished is None and not stream.runners and not stream.detached:
            asyncio.get_running_loop().call_later(stream.linger_s, end)
        else:
            end()

    def attach(self, stream: TaskStream, tenant: Tenant) -> None:
        """A task cannot be detached after all: its life hangs on its calls again, and ends if there are none."""
        stream.detached = False
        self._end_deserted(stream, tenant, stream.comings)

    def _end_deserted(self, stream: TaskStream, tenant: Tenant, comings: int) -> None:
        """End a task that no call runs, unless one has come, and perhaps gone, since."""
        if stream.finished is None and not stream.runners and not stream.detached and stream.comings == comings:
            self._cancel(stream.task_id, tenant)
