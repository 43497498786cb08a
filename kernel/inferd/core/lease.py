"""Leases: what they claim, their states, and the core's record of one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lifecycle import Table
from inferd.core.priority import Priority
from inferd.core.resources import HOST_DEVICE
from inferd.core.task import NO_LABELS
from inferd.errors import InferdError


class LeaseState(Enum):
    """Where a lease stands; the values are those of `inferd.v1.LeaseState`."""

    PENDING = 1
    ACTIVE = 2
    RELEASED = 3
    EXPIRED = 4
    REFUSED = 5


class LeaseChange(Enum):
    """What can happen to a lease."""

    GRANT = 1
    RELEASE = 2
    EXPIRE = 3
    REFUSE = 4
    LOSE = 5  # a host is lost, of which it holds a part


LEASE_TABLE: Table[LeaseState, LeaseChange] = {
    LeaseState.PENDING: {
        LeaseChange.GRANT: LeaseState.ACTIVE,
        LeaseChange.RELEASE: LeaseState.RELEASED,
        LeaseChange.EXPIRE: LeaseState.EXPIRED,
        LeaseChange.REFUSE: LeaseState.REFUSED,
    },
    LeaseState.ACTIVE: {
        LeaseChange.RELEASE: LeaseState.RELEASED,
        LeaseChange.EXPIRE: LeaseState.EXPIRED,
        LeaseChange.LOSE: LeaseState.EXPIRED,
    },
    LeaseState.RELEASED: {},
    LeaseState.EXPIRED: {},
    LeaseState.REFUSED: {},
}
LIVING = (LeaseState.PENDING, LeaseState.ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryClaim:
    """Memory of a device, for instances that are loaded under the lease or for a program outside the kernel.

    With a `selector` it is a device that a host with these labels calls `device_id`, or one of that kind; see
    `claim_choice`.
    """

    device_id: DeviceId = HOST_DEVICE
    memory_bytes: int
    selector: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClaim:
    """A model that stays loaded, with places and tokens of the KV pool that are kept for the lease's tasks."""

    model: ModelName
    sequences: int = 0
    kv_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoresClaim:
    """Processor cores, counted, not pinned; with a `selector` as `MemoryClaim`."""

    device_id: DeviceId = HOST_DEVICE
    cores: int
    selector: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)


Claim = MemoryClaim | ModelClaim | CoresClaim


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSpec:
    """What a lease claims and how it is held.

    Attributes:
        lease_id: Given by the driver.
        tenant: Whose it is.
        claims: All or nothing.
        ttl_s: How long it holds unless it is kept alive; None for the kernel's default.
        priority: Its class among waiting leases.
        wait: Wait when there is no room now.
        wait_s: Longest wait; None for as long as it is kept alive.
        request_id: Makes its creation idempotent; "" for not.
        fingerprint: Equal for two calls with the same contents.
    """

    lease_id: LeaseId
    tenant: Tenant
    claims: tuple[Claim, ...]
    ttl_s: float | None = None
    priority: Priority = Priority.NORMAL
    wait: bool = False
    wait_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    request_id: str = ""
    fingerprint: bytes = b""


@dataclass(slots=True, kw_only=True)
class Lease:
    """The core's record of one lease. One writer: the kernel machine.

    Attributes:
        spec: What it claims.
        number: Rises with each lease.
        ttl_s: How long it holds from each time that it is kept alive.
        expires: When it ends unless it is kept alive; kernel clock, as all instants here.
        fencing_token: Rises with each grant; 0 before.
        waits_for: What it waits for, in words; "" when it does not wait.
        instances: Those that were loaded under it and end with it.
        tasks: Those under it that have not ended.
        models: Those that were loaded under it before this kernel, and are not there again yet.
    """

    spec: LeaseSpec
    number: int
    ttl_s: float
    expires: float
    created: float
    state: LeaseState = LeaseState.PENDING
    fencing_token: int = 0
    granted: float | None = None
    ended: float | None = None
    waits_for: str = ""
    error: InferdError | None = None
    instances: dict[InstanceId, None] = field(default_factory=dict)
    tasks: dict[TaskId, None] = field(default_factory=dict)
    models: dict[ModelName, None] = field(default_factory=dict)
