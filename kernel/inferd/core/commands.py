"""What the core asks for: the closed set of results of `KernelMachine.handle`, to be carried out in their order."""

from dataclasses import dataclass

from inferd.core.ids import InstanceId, ModelName, TaskId
from inferd.core.model import ModelSpec
from inferd.core.task import Outcome, Task, TaskSpec


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process and have it load the model."""

    instance_id: InstanceId
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End a worker process: in order, or by force when that takes too long."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class SendTask:
    """Hand a task to an instance."""

    instance_id: InstanceId
    spec: TaskSpec
    attempt: int


@dataclass(frozen=True, slots=True)
class DropTask:
    """Have an instance forget a task; its place counts as free from now on."""

    instance_id: InstanceId
    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TellQueued:
    """Tell the watchers of a task that it waits behind `position` others."""

    task_id: TaskId
    position: int


@dataclass(frozen=True, slots=True)
class TellFinished:
    """Tell the watchers of a task how it ended; the last that they hear. The core may have forgotten it already."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ForgetTask:
    """Drop all that is held of an ended task."""

    task_id: TaskId


@dataclass(frozen=True, slots=True)
class TellModel:
    """Tell the watchers of a model that it has changed."""

    name: ModelName


Command = StartWorker | StopWorker | SendTask | DropTask | TellQueued | TellFinished | ForgetTask | TellModel
