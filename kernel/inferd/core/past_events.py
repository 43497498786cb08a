"""What the core is told of ended tasks of kernels before this one."""

from dataclasses import dataclass

from inferd.core.ids import TaskId
from inferd.core.past_tasks import PastTask
from inferd.core.restored import RestoredTask


class PastEvent:
    """One of these events."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RestorePast(PastEvent):
    """A kernel before this one saw the end of these tasks; told once, before any other task."""

    tasks: tuple[PastTask, ...]


@dataclass(frozen=True, slots=True)
class RecallTasks(PastEvent):
    """The records of these, which had ended, were read; what is known of them by now stays."""

    tasks: tuple[RestoredTask, ...]


@dataclass(frozen=True, slots=True)
class ReleaseTasks(PastEvent):
    """The records of these, which were recalled, are needed no more."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class LosePast(PastEvent):
    """An ended task of a kernel before this one cannot be read: it is known no more, and what there is of it stays."""

    task_id: TaskId
