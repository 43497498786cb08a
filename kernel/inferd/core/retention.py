"""For how long, and how many, ended tasks of a kind are known."""

from collections import OrderedDict

from inferd.core.ids import TaskId


class Retention:
    """Ended tasks, the one that is forgotten first before the others. One writer: the register of tasks.

    Args:
        most: How many.
        seconds: For how long, from its end.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._ended: OrderedDict[TaskId, float] = OrderedDict()  # and when they are forgotten

    def add(self, task_id: TaskId, finished: float) -> None:
        """A task has ended."""
        self._ended[task_id] = finished + self._seconds

    def drop(self, task_id: TaskId) -> None:
        """It is forgotten."""
        del self._ended[task_id]

    def excess(self) -> TaskId | None:
        """The one that is to be forgotten as there are too many; None when there are not."""
        return next(iter(self._ended)) if len(self._ended) > self._most else None

    def next_due(self) -> float | None:
        """When the next one is to be forgotten."""
        return next(iter(self._ended.values()), None)

    def due(self, now: float) -> TaskId | None:
        """One that was known for long enough; None when there is none."""
        at = self.next_due()
        return next(iter(self._ended)) if at is not None and at <= now else None
