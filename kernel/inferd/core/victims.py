"""Who gives way: the running tasks of an instance, by class and age."""

from inferd.core.ids import TaskId
from inferd.core.priority import Priority

CLASSES = tuple(Priority)  # which is quicker to go through than the class


class Victims:
    """Running tasks whose places may be taken, each class in the order of dispatch. One writer: `Tasks`."""

    def __init__(self) -> None:
        self._open: dict[Priority, dict[TaskId, int]] = {priority: {} for priority in Priority}
        self._protected: dict[Priority, dict[TaskId, int]] = {priority: {} for priority in Priority}
        self._count = 0

    def add(self, task_id: TaskId, priority: Priority, *, protected: bool) -> None:
        """A task runs; `protected` when its place is taken for a lease only."""
        self._count += 1
        (self._protected if protected else self._open)[priority][task_id] = self._count

    def drop(self, task_id: TaskId, priority: Priority) -> None:
        """A task runs no longer, if it is known."""
        self._open[priority].pop(task_id, None)
        self._protected[priority].pop(task_id, None)

    def find(self, below: int, *, protected: bool) -> tuple[Priority, TaskId] | None:
        """The youngest of the lowest class below `below`, and its class; `protected` ones count where asked for."""
        for priority in CLASSES:  # from the lowest
            if priority >= below:
                break
            known = (self._open[priority], self._protected[priority]) if protected else (self._open[priority],)
            youngest = [next(reversed(tasks.items())) for tasks in known if tasks]
            if youngest:
                return priority, max(youngest, key=lambda item: item[1])[0]
        return None
