"""What the core asks for: a closed set, to be carried out in its order. What has changed is told in `core.changes`."""

from dataclasses import dataclass

from inferd.core.changes import Change
from inferd.core.ids import DeviceId, HostId, InstanceId, LeaseId, TaskId
from inferd.core.model import ModelSpec
from inferd.core.task import TaskSpec


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process and have it tell what the model needs of the `capacity_bytes` of a device.

    It computes on so many `cores` of that, those that no lease holds; 0 where they are not counted. One that spans
    devices has as much of each of those `beside`.
    """

    instance_id: InstanceId
    spec: ModelSpec
    device_id: DeviceId
    capacity_bytes: int
    cores: int = 0
    beside: tuple[DeviceId, ...] = ()


@dataclass(frozen=True, slots=True)
class AdoptWorker:
    """Go on with a worker that the host of a device has kept: it has loaded the model already, and tells `Loaded`.

    Attributes:
        held_id: As its host calls it.
    """

    instance_id: InstanceId
    spec: ModelSpec
    device_id: DeviceId
    held_id: int
    beside: tuple[DeviceId, ...] = ()


@dataclass(frozen=True, slots=True)
class RefuseWorker:
    """A worker that a host has kept is no instance any more, and ends there: tell people why.

    Attributes:
        instance_id: The instance that it held.
    """

    host_id: HostId
    instance_id: InstanceId
    why: str


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
class AbandonWorker:
    """The host of a worker is lost, and so is the worker: nothing that it says counts any more."""

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
        moved: The last task of its sequence went to another instance: what is left of that here is old.
        awaited: `TaskBegan` is to tell of its first output.
    """

    instance_id: InstanceId
    spec: TaskSpec
    attempt: int
    alone: bool = False
    fencing_token: int = 0  # of the lease that it runs under
    expected_tokens: float = 0.0  # that it costs, prompt and output
    weight: float = 1.0  # of its tenant
    moved: bool = False
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class AskProbe:
    """Hand a prompt of a probe to an instance that runs no task; what it answers is told by `ProbeAnswered`."""

    instance_id: InstanceId
    spec: TaskSpec


@dataclass(frozen=True, slots=True)
class DropTask:
    """Have an instance forget a task; its place counts as free from now on. It may be sent `again`."""

    instance_id: InstanceId
    task_id: TaskId
    again: bool = False


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
class TellQueued:
    """Tell the watchers of a task that it waits behind `position` others, for about `eta_s` if that is known.

    Attributes:
        why: Why no instance of its model comes up meanwhile; "" where one may.
    """

    task_id: TaskId
    position: int
    eta_s: float | None = None
    why: str = ""


# What workers are to do, and what people are told besides what changes.
Order = (
    StartWorker
    | AdoptWorker
    | RefuseWorker
    | StopWorker
    | EndWorker
    | AbandonWorker
    | ProceedLoad
    | HoldCapacity
    | SendTask
    | DropTask
    | AskProbe
)
News = TellQueued | TellGrowth

Command = Order | News

# What `KernelMachine.handle` returns, in the order in which it came about.
Reply = Command | Change
