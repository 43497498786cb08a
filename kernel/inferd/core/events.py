"""What the core is told: the closed set of arguments to `KernelMachine.handle`."""

from collections.abc import Mapping
from dataclasses import dataclass

from inferd.core.canary import NO_PACE, Canary, Pace
from inferd.core.host import LOCAL_HOST, NO_FACTS, HostFacts
from inferd.core.host_events import AdoptWorkers, AwaitHosts, CordonHost, HostHolds, OrderHosts
from inferd.core.ids import DEFAULT_TENANT, NO_LEASE, DeviceId, HostId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.past_events import PastEvent
from inferd.core.probe import Probe
from inferd.core.quota import Quota
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.restored import RestoredLease, RestoredShare, RestoredTask, RestoredUse, RestoredVersion
from inferd.core.rollout_events import RolloutEvent
from inferd.core.task import Outcome, SuspendReason, TaskSpec
from inferd.core.traits import SetTraits
from inferd.errors import InferdError


@dataclass(frozen=True, slots=True)
class CreateModel:
    """A client makes a model known.

    Attributes:
        kept: A kernel before this one knew it: bounds are for new ones.
        lacks: Why one that was kept cannot be loaded now, for people; "" where it can.
        versions: Those that such a kernel knew, the one that served among them, which `spec` is of; none for one.
        waits: It may be made known though no host is there that it could use: one may join.
    """

    spec: ModelSpec
    kept: bool = False
    lacks: str = ""
    versions: tuple[RestoredVersion, ...] = ()
    waits: bool = False


@dataclass(frozen=True, slots=True)
class UpdateModel:
    """A client wants another version of a model to take its tasks: a new one, or one that is kept.

    Attributes:
        spec: What the new one is.
        number: The one that is kept; None for a new one.
        by: Who asks, for people.
        probe: What the new one has to answer before it takes a task; None for nothing.
        canary: By which steps it comes to serve; None for at once.
        rests: Whether a new one serves at once where nothing of the model is loaded, and is loaded on demand.
    """

    name: ModelName
    spec: ModelSpec
    number: int | None = None
    by: str = ""
    probe: Probe | None = None
    canary: Canary | None = None
    rests: bool = False


@dataclass(frozen=True, slots=True)
class LoadModel:
    """A client wants a model loaded now, whatever its backoff; under a lease, one instance more that ends with it."""

    name: ModelName
    tenant: Tenant = DEFAULT_TENANT
    lease_id: LeaseId = NO_LEASE


@dataclass(frozen=True, slots=True)
class AskModel:
    """A client asks a model something that is no task: it is loaded for that as for a task, after its backoff."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class UnloadModel:
    """A client wants a model's memory back, or that of one instance, whose tasks go on elsewhere.

    Attributes:
        force: Cancel the model's tasks.
        instance_id: The instance; None for all.
    """

    name: ModelName
    force: bool
    instance_id: InstanceId | None = None


@dataclass(frozen=True, slots=True)
class DeleteModel:
    """A client wants a model forgotten: at once if nothing is left of it, or else as soon as that is so.

    Attributes:
        drain: It takes nothing new, and what it has comes to its end first.
        force: Likewise, but its tasks are cancelled.
        leased: With force: what is loaded with the memory of a lease goes, too, and the lease has that again.
    """

    name: ModelName
    drain: bool = False
    force: bool = False
    leased: bool = False


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
class WithdrawTask:
    """A task cannot be kept as it was to be: it ends, and is known no longer. One detached later is so no more.

    With an `error` it ends by that and is forgotten, whichever it is.
    """

    task_id: TaskId
    tenant: Tenant
    error: InferdError | None = None


@dataclass(frozen=True, slots=True)
class RestoreTasks:
    """A kernel before this one had these tasks, and served tenants so much; told once, before any other task."""

    tasks: tuple[RestoredTask, ...]
    shares: tuple[RestoredShare, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoreUses:
    """Tenants had used so much of what quotas limit when a kernel before this one ended; told once."""

    uses: tuple[RestoredUse, ...]


@dataclass(frozen=True, slots=True)
class SetQuotas:
    """These are all quotas from now on."""

    quotas: tuple[Quota, ...]


@dataclass(frozen=True, slots=True)
class RestoreLeases:
    """A kernel before this one had granted these leases; told once, after the models, before any task or lease.

    Attributes:
        leases: Those that were held.
        granted: The highest fencing token that any kernel has given.
    """

    leases: tuple[RestoredLease, ...]
    granted: int = 0


Heritage = RestoreTasks | RestoreLeases | RestoreUses | PastEvent


@dataclass(frozen=True, slots=True)
class SuspendTask:
    """A client stops its task and gives its place back; or the kernel does, which says why."""

    task_id: TaskId
    tenant: Tenant
    reason: SuspendReason = SuspendReason.CLIENT


@dataclass(frozen=True, slots=True)
class ResumeTask:
    """A client lets its suspended task go on."""

    task_id: TaskId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class DetachTask:
    """A client lets its task outlive its call."""

    task_id: TaskId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class CreateLease:
    """A client claims capacity."""

    spec: LeaseSpec


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A holder keeps its lease alive, with a new TTL unless it is None."""

    lease_id: LeaseId
    tenant: Tenant
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """A holder gives its lease back."""

    lease_id: LeaseId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class WithdrawLease:
    """A lease was granted and cannot be kept: nobody was told of the grant, and it ends with this error."""

    lease_id: LeaseId
    tenant: Tenant
    error: InferdError


@dataclass(frozen=True, slots=True)
class HostFound:
    """A host begins to join, or one that was lost is heard of again."""

    host_id: HostId


@dataclass(frozen=True, slots=True)
class HostJoined:
    """A host has these devices, named as it calls them; it takes instances from now on, unless it drains.

    Told again it has more devices, or other amounts of them, and of itself it says what it says now.
    """

    devices: tuple[DeviceCapacity, ...]
    host_id: HostId = LOCAL_HOST
    facts: HostFacts = NO_FACTS


@dataclass(frozen=True, slots=True)
class DrainHost:
    """An operator empties a host: it gets no new instance but under leases; those that it has end what they have."""

    host_id: HostId


@dataclass(frozen=True, slots=True)
class ResumeHost:
    """An operator lets a host that drains or is cordoned take instances again."""

    host_id: HostId


@dataclass(frozen=True, slots=True)
class HostLost:
    """Nothing is heard of a host any more: its workers are as good as dead."""

    host_id: HostId
    why: str


@dataclass(frozen=True, slots=True)
class HostLeft:
    """A host is gone for good, drained or not."""

    host_id: HostId


HostTold = HostFound | HostJoined | HostLost | HostLeft | HostHolds | AdoptWorkers
HostOrder = CordonHost | DrainHost | ResumeHost | OrderHosts | AwaitHosts
HostEvent = HostTold | HostOrder


@dataclass(frozen=True, slots=True)
class ForeignMeasured:
    """So much of a device's memory is held by programs that the kernel does not know."""

    device_id: DeviceId
    foreign_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryMeasured:
    """The resident memory of a worker, on its device."""

    instance_id: InstanceId
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ModelMeasured:
    """What a model needs on devices was measured, without loading it."""

    name: ModelName
    needs: Mapping[DeviceId, MemoryNeed]


@dataclass(frozen=True, slots=True)
class InstanceNeeds:
    """A worker knows what its model needs, and waits until that is reserved."""

    instance_id: InstanceId
    need: MemoryNeed


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
    """A worker has ended an attempt of a task, which came so fast."""

    task_id: TaskId
    attempt: int
    outcome: Outcome
    pace: Pace = NO_PACE


@dataclass(frozen=True, slots=True)
class TaskAlone:
    """A worker lets a task that it was sent for that run alone in its batch, from now on."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskPassed:
    """A task that ran alone in its batch has told something new: it is past where its workers died."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskUsed:
    """A task that ended without its worker's word had told so many tokens."""

    task_id: TaskId
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that `KernelMachine.next_alarm` named has come."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The kernel will end: nothing new is accepted, no waiting task begins, what runs goes on.

    Attributes:
        until: When `Shutdown` comes at the latest.
        keeps: Whether detached tasks are kept for the next kernel; those that wait stay then.
    """

    until: float
    keeps: bool


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The kernel ends: every task is cancelled, every worker stopped, nothing more is accepted.

    Attributes:
        keeps_leases: Leases that are held are not ended: the next kernel has them.
    """

    keeps_leases: bool = False


Event = (
    CreateModel
    | LoadModel
    | AskModel
    | UnloadModel
    | UpdateModel
    | SetTraits
    | DeleteModel
    | SubmitTask
    | CancelTask
    | WithdrawTask
    | Heritage
    | SetQuotas
    | SuspendTask
    | ResumeTask
    | DetachTask
    | CreateLease
    | KeepAlive
    | ReleaseLease
    | WithdrawLease
    | HostEvent
    | ForeignMeasured
    | MemoryMeasured
    | ModelMeasured
    | InstanceNeeds
    | InstanceLoaded
    | InstanceRefused
    | WorkerExited
    | TaskEnded
    | RolloutEvent
    | TaskAlone
    | TaskPassed
    | TaskUsed
    | Tick
    | Drain
    | Shutdown
)
