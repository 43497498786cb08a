"""The waiting tasks of one model."""

from collections import OrderedDict

from inferd.core.ids import TaskId


class TaskQueue:
    """First in, first out, with removal from anywhere in O(1). One writer: the kernel machine."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[TaskId, None] = OrderedDict()  # a dict's front costs O(n) after many pops

    def __len__(self) -> int:
        return len(self._tasks)

    def push(self, task_id: TaskId) -> int:
        """Put a task at the end; return how many are before it."""
        self._tasks[task_id] = None
        return len(self._tasks) - 1

    def pop(self) -> TaskId:
        """Take the first task."""
        return self._tasks.popitem(last=False)[0]

    def remove(self, task_id: TaskId) -> None:
        """Take a task out, wherever it is."""
        del self._tasks[task_id]

    def tasks(self) -> tuple[TaskId, ...]:
        """All tasks, first to last."""
        return tuple(self._tasks)
