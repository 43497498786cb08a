"""What a kernel takes up of the one before it: who held what holds it, and nobody else is given any of it meanwhile."""

from typing import Protocol

from inferd.core.broker import Broker
from inferd.core.events import RestoreLeases, RestoreTasks
from inferd.core.fleet import Fleet
from inferd.core.host import LOCAL_HOST, Host, host_of
from inferd.core.ids import LeaseId, ModelName
from inferd.core.lease import CoresClaim, Lease, LeaseChange, LeaseState, MemoryClaim, ModelClaim
from inferd.core.leases import Leases
from inferd.core.model import InstanceState, Model
from inferd.core.past_events import LosePast, PastEvent, RecallTasks, ReleaseTasks, RestorePast
from inferd.core.restored import RestoredLease
from inferd.core.tasks import Tasks
from inferd.errors import InferdError, LeaseUnavailableError


class Owner(Protocol):
    """Who brings workers up, and ends leases: the kernel machine."""

    def reconcile(self, model: Model) -> None:
        """Have workers brought up where somebody waits for them."""

    def end_lease(self, lease: Lease, change: LeaseChange, error: InferdError | None = None) -> None:
        """End a lease, with all that hangs on it."""


class Restoration:
    """Carries out what is told of a kernel before this one. One writer: the kernel machine."""

    def __init__(self, tasks: Tasks, leases: Leases, *, fleet: Fleet, broker: Broker, owner: Owner) -> None:
        self._tasks = tasks
        self._leases = leases
        self._fleet = fleet
        self._broker = broker
        self._owner = owner
        self._due: dict[ModelName, dict[LeaseId, None]] = {}  # to be loaded again under these

    def take(self, event: RestoreTasks | RestoreLeases | PastEvent, now: float) -> None:
        """Carry it out."""
        match event:
            case RestoreTasks():
                self._take_tasks(event, now)
            case RestoreLeases():
                self._take_leases(event, now)
            case PastEvent():
                self._take_past(event)

    def _take_tasks(self, event: RestoreTasks, now: float) -> None:
        """Tasks wait, and their models are loaded."""
        for name in self._tasks.restore(event.tasks, event.shares, now):
            self._owner.reconcile(self._fleet.models[name])

    def _take_past(self, event: PastEvent) -> None:
        """What is known of tasks that had ended, and which of their records are held; others are left as they are."""
        past = self._tasks.past
        match event:
            case RestorePast(tasks):
                past.restore(tasks)
            case RecallTasks(tasks=kept):
                for each in kept:
                    past.recall(each)
            case ReleaseTasks(task_ids):
                for task_id in task_ids:
                    past.release(self._tasks.known[task_id])
            case LosePast(task_id) if task_id in past.entries:
                past.lose(task_id)

    def _take_leases(self, event: RestoreLeases, now: float) -> None:
        """Leases hold what they held, for as long as they have left, even where there is less to give by now.

        One whose time is over ends, and so does one of whose device or model nothing is known any more. Other hosts are
        to return first: what a lease held of them it holds when they have, see `returned` and `waited`.
        """
        self._leases.granted_before(event.granted)
        for kept in sorted(event.leases, key=lambda each: each.number):
            lease = self._leases.restore(kept, now)
            if kept.expires <= now:
                self._leases.end(lease, LeaseChange.EXPIRE, now)
            elif lost := self._lost(lease):
                self._leases.end(lease, LeaseChange.LOSE, now, LeaseUnavailableError(lost))
            else:
                self._take_up(lease, kept, now)

    def _lost(self, lease: Lease) -> str:
        """What a lease held that is known no longer; "" where all of it is."""
        for claim in lease.spec.claims:
            if isinstance(claim, ModelClaim):
                if claim.model not in self._fleet.models:
                    return f"model {claim.model!r}, of which it held a part, is not known to the kernel started again"
            elif claim.device_id not in self._broker.devices and host_of(claim.device_id) == LOCAL_HOST:
                return f"device {claim.device_id!r}, of which it held a part, is not known to the kernel started again"
        return ""

    def _take_up(self, lease: Lease, kept: RestoredLease, now: float) -> None:
        lease_id = lease.spec.lease_id
        for claim in lease.spec.claims:
            match claim:
                case MemoryClaim():
                    self._broker.take_up(lease_id, claim.device_id, size_bytes=claim.memory_bytes)
                case CoresClaim():
                    self._broker.take_up(lease_id, claim.device_id, cores=claim.cores)
                case ModelClaim():
                    model = self._fleet.models[claim.model]
                    model.leases[lease_id] = None  # its part is held when an instance is there again
                    self._fleet.refresh(model)
                    self._owner.reconcile(model)
        for name in kept.models:
            if (found := self._fleet.models.get(name)) is not None:
                lease.models[name] = self._due.setdefault(name, {})[lease_id] = None
                self.load_again(found, now)

    def returned(self, host: Host) -> None:
        """A host is back and has said which devices it has: leases end that held a part of another one there."""
        for lease_id, device_id in self._broker.awaited():
            if host_of(device_id) == host.host_id:
                self._lose(lease_id, f"device {device_id!r}, of which it held a part, is there no more")

    def waited(self) -> None:
        """Hosts of before have had time enough: leases end that held a part of one that is not back."""
        for lease_id, device_id in self._broker.awaited():
            host_id = host_of(device_id)
            why = f"host {host_id!r}, of which it held a part, is not back in time since the kernel was started again"
            self._lose(lease_id, why)

    def _lose(self, lease_id: LeaseId, why: str) -> None:
        lease = self._leases.known.get(lease_id)
        if lease is not None and lease.state is LeaseState.ACTIVE:  # else it held more of the kind
            self._owner.end_lease(lease, LeaseChange.LOSE, LeaseUnavailableError(why))

    def load_again(self, model: Model, now: float) -> None:
        """Load again what was loaded under leases, where that can be now and no host has kept it.

        Nothing else may use its memory, and its tasks run nowhere else.
        """
        if (name := model.spec.name) not in self._due:
            return
        awaited = {lease_id for lease_id, _ in self._broker.awaited()}
        for lease_id in tuple(self._due[name]):
            lease = self._leases.known.get(lease_id)
            if lease is None or lease.state is not LeaseState.ACTIVE:
                self._loaded(name, lease_id)
            elif name not in lease.models:
                if not _is_adopted(model, lease_id):
                    self._loaded(name, lease_id)
            elif lease_id not in awaited and self._fleet.siting.devices_under(model, lease_id):
                self._loaded(name, lease_id)
                del lease.models[name]
                self.load_under(lease, model, now)

    def _loaded(self, name: ModelName, lease_id: LeaseId) -> None:
        """A model is to be loaded under a lease no longer."""
        del self._due[name][lease_id]
        if not self._due[name]:
            del self._due[name]

    def load_under(self, lease: Lease, model: Model, now: float) -> None:
        """Have one more instance of a model under a lease, which has room for it."""
        instance = self._fleet.start(model, now, lease.spec.lease_id)
        self._leases.begin_instance(lease, instance.instance_id)


def _is_adopted(model: Model, lease_id: LeaseId) -> bool:
    """Whether a worker was adopted under a lease that has not said yet what it has loaded: it may be gone meanwhile."""
    own = (i for i in model.instances.values() if i.lease_id == lease_id)
    return any(i.adopted and i.state is InstanceState.LOADING for i in own)
