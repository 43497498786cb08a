"""What may be read of the machine. A view looks at the records that it gives, and at no others of their kind."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from inferd.core import admission, gangs
from inferd.core.accounts import Account
from inferd.core.atlas import MOST_SITES
from inferd.core.broker import Broker
from inferd.core.census import Census
from inferd.core.fleet import Fleet
from inferd.core.host import LOCAL_HOST, Host
from inferd.core.hosts import Hosts
from inferd.core.ids import DeviceId, HostId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.index import Page
from inferd.core.lease import Lease, LeaseSpec, LeaseState, ModelClaim
from inferd.core.leases import Leases
from inferd.core.model import Instance, Model, ModelSpec
from inferd.core.naming import check_aliases
from inferd.core.nowhere import check_place
from inferd.core.past_tasks import Listed, PastTask
from inferd.core.plan import LoadPlan
from inferd.core.quota import Quota, QuotaUse
from inferd.core.quotas import Quotas
from inferd.core.resources import MemoryNeed
from inferd.core.rollouts import RolloutWay, find_way, own_instances
from inferd.core.task import Task, TaskSpec, TaskState
from inferd.core.tasks import Tasks
from inferd.core.traits import Aliases, TraitsChange
from inferd.errors import present


class Views:
    """The one door for reading. It changes nothing, and what it gives is not to be changed."""

    def __init__(  # noqa: PLR0917 - what it reads
        self, tasks: Tasks, fleet: Fleet, leases: Leases, broker: Broker, quotas: Quotas, hosts: Hosts
    ) -> None:
        self._hosts = hosts
        self._tasks = tasks
        self._fleet = fleet
        self._leases = leases
        self._quotas = quotas
        self._broker = broker

    # Tasks.

    def task(self, task_id: TaskId, tenant: Tenant) -> Task:
        """The tenant's task of this id.

        Raises:
            TaskNotFoundError: There is none, or it is another tenant's.
            StoreUnavailableError: It is `find_past`, and was not asked for.
        """
        return self._tasks.get(task_id, tenant)

    def find_past(self, task_id: TaskId, tenant: Tenant) -> PastTask | None:
        """The tenant's task of this id, where it is one whose record is not held; else None."""
        past = self._tasks.past.entries.get(task_id)
        return past if past is not None and past.tenant == tenant else None

    def past_of(self, tenant: Tenant, request_id: str) -> PastTask | None:
        """The task that this request made, where its record is not held; else None."""
        return self._tasks.past.made_by(tenant, request_id)

    def find_task(self, task_id: TaskId) -> Task | None:
        """The task of this id whose record is held, or None."""
        return self._tasks.known.get(task_id)

    def tasks(
        self, tenant: Tenant, states: Collection[TaskState] = (), *, after: int | None = None, size: int
    ) -> Page[Listed]:
        """The tenant's tasks in one of these states, none for all, newest first, behind the one of number `after`."""
        return self._tasks.page(tenant, states, after=after, size=size)

    def knows_request(self, tenant: Tenant, request_id: str) -> bool:
        """Whether a submission of the tenant with this `request_id` has made a task that is known."""
        return self._tasks.requested(tenant, request_id) is not None

    def model_requested(self, tenant: Tenant, request_id: str) -> ModelName | None:
        """The model of the known task that a submission of the tenant with this `request_id` made; None for none."""
        task = self._tasks.requested(tenant, request_id)
        return None if task is None else task.spec.model

    def check_quotas(self, spec: TaskSpec, now: float) -> None:
        """Refuse what quotas do not allow, before anything is done for it.

        Raises:
            QuotaExceededError: They do not.
        """
        if spec.model in self._fleet.models:
            self._quotas.check_task(spec, self._tasks.expected(spec), now)

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """All quotas."""
        return self._quotas.all

    def quota_uses(self, now: float) -> list[QuotaUse]:
        """What tenants use of what quotas limit, those that use anything."""
        return self._quotas.uses(now)

    def submitted(self, spec: TaskSpec) -> Task:
        """The task that an accepted submission made, or an earlier one of the tenant with the same `request_id`."""
        return present(self._tasks.made_by(spec))  # asked for with the submission, before anything is forgotten

    def waiting(self, name: ModelName) -> Iterator[TaskId]:
        """The tasks that wait for a model."""
        return self._tasks.waiting(name)

    @property
    def census(self) -> Census:
        """How many tasks there are."""
        return self._tasks.census

    # Leases.

    def lease(self, lease_id: LeaseId, tenant: Tenant) -> Lease:
        """The tenant's lease of this id.

        Raises:
            LeaseNotFoundError: There is none, or it is another tenant's.
        """
        return self._leases.get(lease_id, tenant)

    def claimed(self, spec: LeaseSpec) -> Lease:
        """The lease that an accepted call made, or an earlier one of the tenant with the same `request_id`."""
        return present(self._leases.made_by(spec))  # asked for with the call, before anything is forgotten

    def exceeded(self) -> list[tuple[str, int, int]]:
        """The bounds of tasks beyond which there are some, which were kept; value and limit."""
        return self._tasks.bounds.exceeded()

    @property
    def running(self) -> int:
        """How many tasks run."""
        return self._tasks.census.all.running

    @property
    def fencing_token(self) -> int:
        """The highest one that was given, by any kernel."""
        return self._leases.fencing_token

    def find_lease(self, lease_id: LeaseId, tenant: Tenant) -> Lease | None:
        """The tenant's lease of this id; None when there is none, or it is another tenant's."""
        return self._leases.find(lease_id, tenant)

    def tenant_of(self, lease_id: LeaseId) -> Tenant | None:
        """Whose lease of this id is; None when there is none."""
        lease = self._leases.known.get(lease_id)
        return None if lease is None else lease.spec.tenant

    def models_claimed(self, tenant: Tenant, request_id: str) -> tuple[ModelName | None, ...]:
        """Claim by claim the models of the lease that a call of the tenant with this `request_id` has made."""
        lease = self._leases.requested(tenant, request_id)
        claims = () if lease is None else lease.spec.claims
        return tuple(claim.model if isinstance(claim, ModelClaim) else None for claim in claims)

    def fencing_token_of(self, lease_id: LeaseId) -> int:
        """That of a lease; 0 where none of this id was granted."""
        lease = self._leases.known.get(lease_id)
        return 0 if lease is None else lease.fencing_token

    def active_lease(self, lease_id: LeaseId, tenant: Tenant) -> Lease:
        """The tenant's lease of this id, which holds.

        Raises:
            LeaseNotFoundError: There is none, or it is another tenant's.
            LeaseEndedError: It does not hold yet or any more.
        """
        return self._leases.active(lease_id, tenant)

    def leases(
        self, tenant: Tenant, states: Collection[LeaseState] = (), *, after: int | None = None, size: int
    ) -> Page[Lease]:
        """The tenant's leases in one of these states, none for all, oldest first, behind the one of number `after`."""
        return self._leases.page(tenant, states, after=after, size=size)

    def position(self, lease: Lease) -> int:
        """How many stand before a waiting lease; 0 when it does not wait."""
        return self._leases.position(lease.spec.lease_id)

    def lines(self, lease: Lease) -> tuple[str, ...]:
        """The lines that a waiting lease stands in; none when it does not wait."""
        return self._leases.waiters.lines_of(lease.spec.lease_id)

    def eta_s(self, lease: Lease) -> float | None:
        """When a waiting lease can be granted, by how long others were held; None when that is not known."""
        return self._leases.eta_s(lease.spec.lease_id)

    @property
    def living_leases(self) -> int:
        """Leases that are held or wait."""
        return self._leases.living

    # Models and instances.

    def model(self, name: ModelName) -> Model:
        """The model of this name.

        Raises:
            ModelNotFoundError: There is none; the nearest known name is suggested.
        """
        return admission.find_model(self._fleet.models, name, self.aliases)

    @property
    def aliases(self) -> Aliases:
        """The models by their aliases."""
        return self._fleet.register.aliases

    def check_aliases(self, name: ModelName, change: TraitsChange) -> None:
        """Refuse aliases that a model, known or not, cannot have.

        Raises:
            ModelExistsError: One stands for something else.
            InvalidFieldError: There are too many, or it has none of those that are to go.
        """
        check_aliases(self._fleet, name, change)

    def find_model(self, name: ModelName) -> Model | None:
        """The model of this name, or None."""
        return self._fleet.models.get(name)

    def find_spec(self, name: ModelName, number: int) -> ModelSpec | None:
        """What a version of a model is, or, where that is not kept, the one that serves; None without the model."""
        if (model := self.find_model(name)) is None:
            return None
        return model.versions.get(number, model.serving).spec

    def models(self, *, after: str | None = None, size: int) -> Page[Model]:
        """Models by name, behind the name `after`."""
        return self._fleet.page(after=after, size=size)

    def model_names(self) -> list[ModelName]:
        """The names of all models, sorted."""
        return sorted(self._fleet.models)

    def find_instance(self, instance_id: InstanceId) -> Instance | None:
        """The instance of this id, if its worker may still live; else None."""
        return self._fleet.instances.get(instance_id)

    def instances(self) -> Iterator[tuple[Model, Instance]]:
        """All instances whose worker may still live, with their models."""
        return ((self._fleet.models[i.model], i) for i in self._fleet.instances.values())

    # Devices.

    @property
    def devices(self) -> Mapping[DeviceId, Account]:
        """What each device has, and who holds it."""
        return self._broker.devices

    def check_stranded(self, name: ModelName) -> None:
        """Refuse what would wait for a model for ever; see `admission.check_stranded`."""
        admission.check_stranded(self.model(name), self._broker.atlas)

    def reach(self, spec: ModelSpec, *, most: int) -> tuple[Sequence[DeviceId], int]:
        """The devices that a model may use now, so many at most, and how many there are; none where none is known."""
        atlas = self._broker.atlas
        bits = atlas.may(spec)
        return atlas.listed(bits, spec, most=most), bits.bit_count()

    def told_devices(self, spec: ModelSpec, *, most: int) -> tuple[Sequence[DeviceId], int]:
        """As `reach`; where it can use the kernel's own host alone, or none, those that it names."""
        atlas = self._broker.atlas
        own = not atlas.may(spec) & ~atlas.of_host(LOCAL_HOST)
        return (spec.devices, len(spec.devices)) if own else self.reach(spec, most=most)

    @property
    def generation(self) -> int:
        """Rises whenever models may use other devices than before."""
        return self._broker.atlas.generation

    def sites(self, spec: ModelSpec) -> Mapping[DeviceId, int]:
        """The devices of which a load of a model would go to one, each with what may be given of it at all.

        Raises:
            InvalidFieldError: No host that is known has what it needs.
        """
        need_bytes = spec.size_bytes
        if (model := self.find_model(spec.name)) is not None:
            need_bytes = model.need_on(DeviceId("")).total_bytes
        found = self._broker.candidates(spec, need_bytes) or self.reach(spec, most=MOST_SITES)[0]
        if not found:
            check_place(spec, self._broker)
        return {device_id: self._broker.devices[device_id].capacity_bytes for device_id in found}

    def host(self, host_id: HostId) -> Host:
        """The host of this id.

        Raises:
            InvalidFieldError: There is none; the nearest known name is suggested.
        """
        return self._hosts.get(host_id)

    def hosts(self, *, after: str | None = None, size: int) -> Page[Host]:
        """Hosts by id, behind the id `after`."""
        return self._hosts.page(after=after, size=size)

    def leases_on(self, device_ids: Collection[DeviceId]) -> int:
        """How many leases hold something of one of these devices."""
        return len(self._broker.lessees(device_ids))

    def backends(self) -> Mapping[str, Sequence[str]]:
        """The backends that work on far hosts, each with what its devices are called there."""
        return self._broker.atlas.backends()

    def reserved_bytes(self, instance_id: InstanceId) -> int:
        """What is reserved for an instance."""
        return self._broker.reserved_bytes(instance_id)

    def plan(self, spec: ModelSpec, needs: Mapping[DeviceId, MemoryNeed]) -> LoadPlan:
        """What loading one more instance of a model would take, and where; decided as a load decides it.

        Args:
            spec: A known model as it is, or as it would be otherwise.
            needs: What it needs on each known device that it may use; there is one.

        Raises:
            ModelNotFoundError: There is no model of this name.
        """
        model = self.model(spec.name)
        atlas = self._broker.atlas
        known = atlas.listed(atlas.may(spec) & atlas.bits_of(needs), spec)
        if not known:
            check_place(spec, self._broker)
        gangs.check_span(spec, self._broker)
        ready = [device_id for device_id in known if self._broker.account(device_id).open]
        placement = self._fleet.siting.place(model, needs.__getitem__, devices=ready or known, spec=spec)
        plan = gangs.plan(self._broker, (placement.device_id, *placement.beside), needs[placement.device_id])
        return replace(plan, device_reason=placement.reason)

    def fit(self, name: ModelName, plan: LoadPlan) -> tuple[RolloutWay, LoadPlan]:
        """How a new version of a model finds its place where a plan has it, and that plan while the old one stays."""
        model = self.model(name)
        own = [i.instance_id for i in own_instances(model, plan.device_id)]
        beside = self._broker.plan(plan.device_id, plan.need, keep=own)
        return find_way(self._broker, model, plan.device_id, plan.need), replace(
            beside, device_reason=plan.device_reason
        )
