"""What the core is told: the closed set of arguments to `KernelMachine.handle`."""

from dataclasses import dataclass

from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.task import Outcome, TaskSpec
from inferd.errors import InferdError


@dataclass(frozen=True, slots=True)
class CreateModel:
    """A client makes a model known."""

    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class LoadModel:
    """A client wants a model loaded now, whatever its backoff."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class UnloadModel:
    """A client wants a model's memory back; `force` cancels its tasks."""

    name: ModelName
    force: bool


@dataclass(frozen=True, slots=True)
class SubmitTask:
    """A client wants a task done."""

    spec: TaskSpec


@dataclass(frozen=True, slots=True)
class CancelTask:
    """A client ends its task."""

    task_id: TaskId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker process has spoken and begins to load."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class InstanceLoaded:
    """A worker has loaded its model."""

    instance_id: InstanceId
    facts: InstanceFacts


@dataclass(frozen=True, slots=True)
class InstanceRefused:
    """A worker cannot load its model; its exit follows."""

    instance_id: InstanceId
    error: InferdError


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A worker process is gone; `error` says how, should that not have been asked for."""

    instance_id: InstanceId
    error: InferdError


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A worker has ended an attempt of a task."""

    task_id: TaskId
    attempt: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that `KernelMachine.next_alarm` named has come."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The kernel ends: every task is cancelled, every worker stopped, nothing more is accepted."""


Event = (
    CreateModel
    | LoadModel
    | UnloadModel
    | SubmitTask
    | CancelTask
    | WorkerReady
    | InstanceLoaded
    | InstanceRefused
    | WorkerExited
    | TaskEnded
    | Tick
    | Shutdown
)
