"""What the mirror notes of a task, of a worker and of what waits for a model."""

from collections import Counter
from dataclasses import dataclass, field

from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.priority import Priority
from inferd.core.task import TaskSpec

MOST_DEATHS = 2  # that a task is present at, before it runs alone


@dataclass(slots=True)
class Entry:
    """A task, living or ended and not yet forgotten."""

    spec: TaskSpec
    living: bool = True
    suspended: bool = False
    home: InstanceId | None = None  # where it runs
    attempts: int = 0
    deaths: int = 0  # of workers, since it passed alone
    expires: float | None = None
    detached: bool = False
    since: float = 0.0  # when it began to wait
    turn: bool = False  # it runs, and was sent while a higher class waited; or alone

    @property
    def running(self) -> bool:
        return self.home is not None

    @property
    def suspect(self) -> bool:
        """Whether it is to run alone."""
        return self.deaths >= MOST_DEATHS


@dataclass(slots=True, eq=False)
class Place:
    """A worker and what it holds."""

    instance_id: InstanceId
    model: ModelName
    device_id: DeviceId
    lease_id: LeaseId
    created: float
    version: int = 1
    facts: InstanceFacts | None = None
    ready_at: float | None = None
    stopping: bool = False
    running: dict[TaskId, None] = field(default_factory=dict)
    suspect: TaskId | None = None  # the one of `running` that is to run alone
    alone: bool = False  # it does
    holds: dict[LeaseId, tuple[int, int]] = field(default_factory=dict)
    running_of: Counter[LeaseId] = field(default_factory=Counter)

    @property
    def ready(self) -> bool:
        return self.facts is not None and not self.stopping

    @property
    def room(self) -> int:
        """Places that nobody has."""
        return 0 if self.facts is None or self.stopping else self.facts.max_tasks - len(self.running)

    @property
    def free(self) -> int:
        """Places that nobody has or keeps."""
        kept = sum(max(0, sequences - self.running_of[lease]) for lease, (sequences, _) in self.holds.items())
        return self.room - kept


@dataclass(slots=True)
class Delay:
    """How a class was passed over since it was last served.

    Attributes:
        turns: How often.
        since: When that was for the highest class first, as far as it is seen here: from then it ages.
        late: How often after twice the aging.
    """

    turns: int = 0
    since: float | None = None
    late: int = 0


@dataclass(slots=True)
class Waiting:
    """What waits for one model.

    Attributes:
        loose: Tasks without a lease.
        leased: Tasks under leases.
        suspects: Tasks that are to run alone.
        delays: Of the classes that were passed over.
    """

    spec: ModelSpec
    places: dict[InstanceId, Place] = field(default_factory=dict)
    loose: Counter[tuple[Priority, Tenant]] = field(default_factory=Counter)
    leased: Counter[LeaseId] = field(default_factory=Counter)
    suspects: dict[TaskId, None] = field(default_factory=dict)
    running: Counter[Tenant] = field(default_factory=Counter)
    running_tasks: int = 0
    waiting_tasks: int = 0
    delays: dict[Priority, Delay] = field(default_factory=dict)
    normal: dict[TaskId, None] = field(default_factory=dict)  # of class NORMAL, of `loose`
    low: dict[TaskId, None] = field(default_factory=dict)  # of class LOW, without a lease, that run
