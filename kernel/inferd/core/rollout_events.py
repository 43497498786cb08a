"""What the core is told of versions that are on their way; part of `inferd.core.events`."""

from dataclasses import dataclass

from inferd.core.ids import InstanceId, TaskId
from inferd.core.probe import ProbeAnswer


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """An instance has answered a prompt of a probe, or could not."""

    instance_id: InstanceId
    task_id: TaskId
    answer: ProbeAnswer


@dataclass(frozen=True, slots=True)
class TaskBegan:
    """A task that was sent so that this is told has given its first output."""

    instance_id: InstanceId
    task_id: TaskId


RolloutEvent = ProbeAnswered | TaskBegan
