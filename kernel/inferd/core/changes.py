"""What has changed in the core: the closed set of values that tell it, frozen, in the order in which it happened.

A record changes its state in one place, its register's `move`, which makes the value as well. Whoever keeps records
keeps these; whoever watches one is woken by those that name it.
"""

from dataclasses import dataclass

from inferd.core.host import HostChange, HostState
from inferd.core.ids import DeviceId, HostId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseChange, LeaseState
from inferd.core.model import InstanceChange, InstanceState, ModelState
from inferd.core.quota import QuotaUse
from inferd.core.task import Outcome, SuspendReason, TaskChange, TaskSpec, TaskState
from inferd.core.version import VersionChange, VersionState


class Change:
    """One of the values below."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class TaskAccepted(Change):
    """A task was made: it is QUEUED. Times are seconds on the kernel's clock, here as below."""

    spec: TaskSpec
    number: int
    created: float


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended, and what is needed to say what it cost.

    Attributes:
        version: Of its model, that it ran on last; 0 where it did not run, or ran with a kernel before this one.
    """

    outcome: Outcome
    device_id: DeviceId | None
    created: float
    started: float | None
    finished: float
    device_s: float = 0.0
    quotas: tuple[QuotaUse, ...] = ()
    version: int = 0


@dataclass(frozen=True, slots=True)
class TaskChanged(Change):
    """A task came to another state.

    Attributes:
        attempt: How often it was sent.
        instance_id: Where it runs, or ran last.
        version: Which version of its model that is of; 0 where it did not run, or ran with a kernel before this one.
        reason: Why it was stopped to go on later; None where it was not.
        end: How it ended; None where it did not.
    """

    task_id: TaskId
    tenant: Tenant
    model: ModelName
    change: TaskChange
    state: TaskState
    attempt: int
    instance_id: InstanceId | None
    reason: SuspendReason | None = None
    end: TaskEnd | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class TaskDetached(Change):
    """A task outlives its client's call, and expires then."""

    task_id: TaskId
    tenant: Tenant
    expires: float


@dataclass(frozen=True, slots=True)
class TaskRestored(Change):
    """A task of a kernel before this one is known again, as it was kept; if it ran, it is stopped next.

    Attributes:
        estimated: As in `RestoredTask`.
    """

    task_id: TaskId
    tenant: Tenant
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class TaskForgotten(Change):
    """An ended task is known no longer."""

    task_id: TaskId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class PastForgotten(Change):
    """An ended task of a kernel before this one, whose record was not held, is known no longer."""

    task_id: TaskId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class ShareChanged(Change):
    """What a tenant was served of a model has changed, or is known no longer; see `core.queue.FairQueue`.

    Attributes:
        counter: Tokens by its weight, those that its running tasks are expected to cost among them; None for none.
        level: Where a tenant begins that is not known.
    """

    model: ModelName
    tenant: Tenant
    counter: float | None
    level: float


@dataclass(frozen=True, slots=True)
class QuotaUsed(Change):
    """A tenant has used device seconds that a quota limits, or its book is kept no longer.

    Attributes:
        key: Of the quota.
        slots: When each slot of the day began, and its device seconds; none for a book that is not kept.
    """

    key: str
    tenant: Tenant
    slots: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LeaseChanged(Change):
    """A lease was made, came to another state, or holds for longer; or what it waits for or has is another thing.

    Attributes:
        change: None where it stays in its state.
        fencing_token: 0 before it is granted.
        expires: When it ends unless it is kept alive.
    """

    lease_id: LeaseId
    tenant: Tenant
    change: LeaseChange | None
    state: LeaseState
    fencing_token: int
    expires: float


@dataclass(frozen=True, slots=True)
class LeaseRestored(Change):
    """A lease of a kernel before this one is known again, ACTIVE as it was kept; it may end next."""

    lease_id: LeaseId
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class LeaseForgotten(Change):
    """An ended lease is known no longer."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class LineChanged(Change):
    """Somebody came into a line, or left it, where others wait."""

    line: str


@dataclass(frozen=True, slots=True)
class ModelChanged(Change):
    """A model was made or came to another state, or what is known of it is another thing."""

    name: ModelName
    state: ModelState


@dataclass(frozen=True, slots=True)
class ModelForgotten(Change):
    """A model is known no longer."""

    name: ModelName


@dataclass(frozen=True, slots=True)
class VersionChanged(Change):
    """A version of a model was made or came to another state, or has other bounds; then `change` is None.

    The first version of a model comes with it, SERVING.
    """

    name: ModelName
    number: int
    change: VersionChange | None
    state: VersionState


@dataclass(frozen=True, slots=True)
class VersionForgotten(Change):
    """A version of a model is known no longer."""

    name: ModelName
    number: int


@dataclass(frozen=True, slots=True)
class InstanceChanged(Change):
    """An instance was made or came to another state, or what is known of it is another thing; then `change` is None."""

    instance_id: InstanceId
    model: ModelName
    device_id: DeviceId
    change: InstanceChange | None
    state: InstanceState


@dataclass(frozen=True, slots=True)
class InstanceForgotten(Change):
    """The worker of an instance is gone, and it is known no longer."""

    instance_id: InstanceId
    model: ModelName


@dataclass(frozen=True, slots=True)
class HostChanged(Change):
    """A host begins to join, then `change` is None, or came to another state."""

    host_id: HostId
    change: HostChange | None
    state: HostState
    devices: tuple[DeviceId, ...] = ()


@dataclass(frozen=True, slots=True)
class HostForgotten(Change):
    """A host that is GONE is known no longer, nor are its devices."""

    host_id: HostId
