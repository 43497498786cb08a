"""Tasks and leases of a kernel before this one, as they were kept."""

from dataclasses import dataclass, replace

from inferd.core.demand import NO_DEMAND
from inferd.core.ids import DeviceId, InstanceId, ModelName, Tenant
from inferd.core.lease import LeaseSpec
from inferd.core.model import ModelSpec
from inferd.core.task import Outcome, Task, TaskSpec, TaskState
from inferd.core.version import VersionState
from inferd.errors import InferdError


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredTask:
    """What was kept of a detached task; as in `Task`, times on the clock of this kernel.

    Attributes:
        outcome: How it ended; None where it had not: then it is QUEUED, RUNNING or SUSPENDED, and goes on.
        retained: From when on its retention counts, at the latest; None for from its end on.
        estimated: Whether its times were told by the wall clock: what was estimated once is kept, not estimated again.
    """

    spec: TaskSpec
    number: int
    state: TaskState
    attempt: int
    deaths: int
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    instance_id: InstanceId | None
    device_id: DeviceId | None
    outcome: Outcome | None
    retained: float | None = None
    estimated: bool = False
    expected_tokens: float = 0.0
    charged_tokens: float = 0.0
    device_s: float = 0.0

    @property
    def retained_from(self) -> float:
        """From when on the retention of one that has ended counts."""
        return self.retained if self.retained is not None else self.finished or 0.0

    def task(self) -> Task:
        """The record of it."""
        return Task(
            spec=self.spec if self.outcome is None else replace(self.spec, work=None, demand=NO_DEMAND),
            number=self.number,
            state=self.state,
            attempt=self.attempt,
            deaths=self.deaths,
            created=self.created,
            started=self.started,
            finished=self.finished,
            retained=None if self.finished is None else self.retained_from,
            expires=self.expires,
            detached=True,
            instance_id=self.instance_id,
            device_id=self.device_id,
            outcome=self.outcome,
            expected_tokens=self.expected_tokens,
            charged_tokens=self.charged_tokens,
            device_s=self.device_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredLease:
    """What was kept of a lease that is held; as in `Lease`, times on the clock of this kernel.

    Attributes:
        models: Those of which instances were loaded under it, one for each.
    """

    spec: LeaseSpec
    number: int
    ttl_s: float
    expires: float
    created: float
    granted: float
    fencing_token: int
    models: tuple[ModelName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredVersion:
    """What was kept of a version of a model; as in `Version`, times on the clock of this kernel."""

    number: int
    spec: ModelSpec
    state: VersionState
    by: str
    created: float
    served: float | None
    error: InferdError | None


@dataclass(frozen=True, slots=True)
class RestoredUse:
    """What a tenant had used of a quota; as in `QuotaUsed`, instants on the clock of this kernel."""

    key: str
    tenant: Tenant
    slots: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class RestoredShare:
    """What a tenant was served of a model; as in `ShareChanged`."""

    model: ModelName
    tenant: Tenant
    counter: float
    level: float
