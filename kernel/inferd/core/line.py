"""What waits for one model, and the bounds of waiting."""

from collections import OrderedDict
from dataclasses import dataclass, field

from inferd.core.estimate import ServiceTimes
from inferd.core.headroom import Headroom
from inferd.core.ids import LeaseId, TaskId
from inferd.core.queue import FairQueue, QueuePolicy
from inferd.core.scheduler import Affinity


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimits:
    """Bounds of tasks; see `inferd.config` for what each means."""

    tasks: int = 20_000
    queued_tasks: int = 1000
    queued_high: int = 100
    suspended_tasks: int = 1000
    detached_tasks: int = 1000
    detached_s: float = 86_400.0
    input_bytes: int = 256 << 20
    retained_tasks: int = 1000
    retention_s: float = 600.0
    kept_tasks: int = 1000  # of detached ones, in place of the two above
    kept_s: float = 600.0
    tenant_queued: int = 1000
    tenant_share: float = 4.0
    model_queued: int = 1000
    model_running: int = 10_000
    preempt: bool = True
    low_yields_s: float = 2.0
    headroom: float = 1 / 16
    suspect_deaths: int = 2
    poison_s: float = 600.0
    tells_shares: bool = False  # changes tell what tenants were served; where that is kept
    policy: QueuePolicy = field(default_factory=lambda: QueuePolicy(aging_s=10.0, weights={}, tenant_running=1000))


@dataclass(slots=True)
class Line:
    """What waits for one model.

    Attributes:
        shared: Tasks without a lease.
        leased: Tasks under leases, by lease.
        suspects: Tasks that wait to run alone in their batch, first to last.
        times: How long tasks take.
        affinity: Where prompts were computed.
        headroom: Who may take the last places.
    """

    shared: FairQueue
    headroom: Headroom
    leased: dict[LeaseId, FairQueue] = field(default_factory=dict)
    suspects: OrderedDict[TaskId, None] = field(default_factory=OrderedDict)
    times: ServiceTimes = field(default_factory=ServiceTimes)
    affinity: Affinity = field(default_factory=Affinity)
    held: str = ""
