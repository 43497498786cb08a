"""What the core asks for: the closed set of results of `KernelMachine.handle`, to be carried out in their order."""

from dataclasses import dataclass

from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId
from inferd.core.model import ModelSpec
from inferd.core.task import Outcome, SuspendReason, Task, TaskSpec


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process and have it tell what the model needs of the `capacity_bytes` of a device."""

    instance_id: InstanceId
    spec: ModelSpec
    device_id: DeviceId
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End a worker process: in order, or by force when that takes too long."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class EndWorker:
    """End a worker process by force: it dies of `why`. Again changes nothing."""

    instance_id: InstanceId
    why: str


@dataclass(frozen=True, slots=True)
class TellGrowth:
    """Tell people that a worker takes far more memory than was measured, or does so no longer."""

    instance_id: InstanceId
    memory_bytes: int
    need_bytes: int


@dataclass(frozen=True, slots=True)
class SendTask:
    """Hand a task to an instance; one that was there or elsewhere before goes on behind what it has told.

    Attributes:
        attempt: From 1.
        alone: It is to run alone in its batch until it has told something new.
    """

    instance_id: InstanceId
    spec: TaskSpec
    attempt: int
    alone: bool = False
    fencing_token: int = 0  # of the lease that it runs under
    expected_tokens: float = 0.0  # that it costs, prompt and output
    weight: float = 1.0  # of its tenant


@dataclass(frozen=True, slots=True)
class DropTask:
    """Have an instance forget a task; its place counts as free from now on."""

    instance_id: InstanceId
    task_id: TaskId


@dataclass(frozen=True, slots=True)
class ProceedLoad:
    """Memory is reserved: the worker may load."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class HoldCapacity:
    """Have an instance keep places and tokens of its KV pool for the tasks of a lease; zeros give them back."""

    instance_id: InstanceId
    lease_id: LeaseId
    fencing_token: int
    sequences: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class TellLease:
    """Tell the watchers of a lease that it has changed."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class TellLine:
    """Tell the watchers of those who wait in a line that somebody came into it or left it."""

    line: str


@dataclass(frozen=True, slots=True)
class ForgetLease:
    """Drop all that is held of an ended lease."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class TellQueued:
    """Tell the watchers of a task that it waits behind `position` others, for about `eta_s` if that is known."""

    task_id: TaskId
    position: int
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class TellSuspended:
    """Tell the watchers of a task that it was stopped, to go on later."""

    task_id: TaskId
    reason: SuspendReason


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


# What workers are to do, and what watchers are told.
Order = StartWorker | StopWorker | EndWorker | ProceedLoad | HoldCapacity | SendTask | DropTask
News = (
    TellQueued | TellSuspended | TellFinished | ForgetTask | TellModel | TellLease | TellLine | ForgetLease | TellGrowth
)

Command = Order | News
