"""Calls that run tasks: a task ends with the last of them, unless it is detached."""

import asyncio
from typing import Protocol

from inferd.core.ids import TaskId, Tenant
from inferd.runtime.streams import TaskStream


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

    def attend(self, stream: TaskStream, tenant: Tenant, *, detached: bool) -> None:
        """A call runs a task: its life hangs on it and its like, unless one of them says that it is detached.

        Raises:
            LimitExceededError: Too many are detached.
        """
        if detached and not stream.detached:
            self._detach(stream.task_id, tenant)
            stream.detached = True
        stream.runners += 1

    def leave(self, stream: TaskStream, tenant: Tenant, *, linger_s: float = 0.0) -> None:
        """A call that ran a task has ended: without another one the task is cancelled, after `linger_s`."""
        stream.runners -= 1
        if linger_s and stream.finished is None and not stream.runners and not stream.detached:
            asyncio.get_running_loop().call_later(linger_s, self._end_deserted, stream, tenant)
        else:
            self._end_deserted(stream, tenant)

    def _end_deserted(self, stream: TaskStream, tenant: Tenant) -> None:
        if stream.finished is None and not stream.runners and not stream.detached:
            self._cancel(stream.task_id, tenant)
