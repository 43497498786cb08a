"""Models and their instances: which worker is started, stopped or given up. The part of the machine without tasks."""

from collections.abc import Mapping

from inferd.core import gangs
from inferd.core.admission import check_stranded, places_of, stranded
from inferd.core.alarms import Alarms
from inferd.core.backoff import Backoff
from inferd.core.broker import Broker
from inferd.core.commands import Reply, StartWorker, StopWorker
from inferd.core.events import CreateModel
from inferd.core.fleet_register import FleetRegister
from inferd.core.function import LOADER as FUNCTIONS
from inferd.core.hosts import Hosts
from inferd.core.ids import NO_LEASE, DeviceId, InstanceId, LeaseId, ModelName
from inferd.core.index import Page
from inferd.core.model import Instance, InstanceChange, InstanceFacts, InstanceState, Model, ModelSpec, ModelState
from inferd.core.nowhere import check_place, why_closed
from inferd.core.program import LOADER as PROGRAMS
from inferd.core.resources import MemoryNeed
from inferd.core.siting import Siting
from inferd.core.version import Version
from inferd.errors import InferdError, LimitExceededError, ModelBusyError, ModelExistsError

OWN = (FUNCTIONS, PROGRAMS)


class Fleet:
    """What becomes of models and instances. One writer: the kernel machine.

    Attributes:
        models: Known models by name; to be read.
        instances: Instances by id whose worker may still live; to be read.
        register: Where versions change their states; `Rollouts` has them do so.
        retries: When a model's backoff ends.
        alarms: Of what is due at some time.
        leavers: Instances that leave, and may go now.
        doubtful: Models that somebody waits for, and that lacked something when they were to be loaded.
        siting: Where instances may be started, and are best.
    """

    def __init__(
        self, backoff: Backoff, *, models: int, versions: int, hosts: Hosts, broker: Broker, out: list[Reply]
    ) -> None:
        self.register = self._register = FleetRegister(hosts, out)
        self.models: Mapping[ModelName, Model] = self._register.models
        self.instances: Mapping[InstanceId, Instance] = self._register.instances
        self.retries: Alarms[ModelName] = Alarms()
        self.alarms = (self.retries,)
        self.leavers: dict[InstanceId, None] = {}
        self.doubtful: dict[ModelName, None] = {}
        self._backoff = backoff
        self._models_limit = models
        self._versions_limit = versions
        self._broker = broker
        self.siting = Siting(broker, self.models)
        self._out = out

    def create(self, event: CreateModel, now: float) -> None:
        """Make a model known; the same again changes nothing, unless its file has changed: then it is loaded anew.

        One that was `kept` may lack something, its device, say, and is known all the same: its tasks wait. One that
        `waits` may be made known before any host is there that it could use.

        Raises:
            InvalidFieldError: No host that is known has what it needs.
            ModelExistsError: The name stands for something else.
            ModelBusyError: Its file has changed, and tasks or leases use what was loaded of it.
            LimitExceededError: `limits.models` are known; one that was `kept` may be one more.
        """
        spec, kept, lacks = event.spec, event.kept, event.lacks
        if not (kept or event.waits):
            check_place(spec, self._broker, "model.")
        known = self.models.get(spec.name)
        # A package of functions, and a program, is as its files and the configuration say: no client asked for it.
        same = known is not None and (known.spec.wanted == spec.wanted or known.spec.loader == spec.loader in OWN)
        if known is not None and known.lacks and (kept or not known.spec.devices or same):
            known.serving.spec = spec  # as it can be loaded now, if it can
            self._lack(known, lacks)
            return
        if known is not None and not same:
            raise ModelExistsError(
                f"model {spec.name!r} exists with source {known.spec.source!r}, backend {known.spec.backend!r}, "
                f"settings {dict(known.spec.settings)} and {known.spec.min_instances} to {known.spec.max_instances} "
                "instances; choose another name, or have it changed with UpdateModel (`inferd models set`)",
                field="model.name",
            )
        if known is None and not kept and len(self.models) >= self._models_limit:
            limit = str(self._models_limit)
            raise LimitExceededError(
                f"{limit} models are known and limits.models is {limit}",
                metadata={"bound": "limits.models", "value": limit, "limit": limit},
            )
        if known is None:
            self._register.add_model(spec, now, event.versions)
            if lacks:
                self._lack(self.models[spec.name], lacks)
        elif known.spec.file_version != spec.file_version:
            self._renew(known, spec, now)

    def _lack(self, model: Model, lacks: str) -> None:
        """A model cannot be loaded for this reason; or can again."""
        model.lacks = lacks
        model.error = stranded(model, self._broker.atlas) if lacks else None
        self._register.touch_model(model)

    def _renew(self, model: Model, spec: ModelSpec, now: float) -> None:
        """The file of a model has changed: what was loaded of it goes, if nothing uses it, and a new version serves."""
        if model.rollout is not None:
            raise ModelBusyError(f"the file of model {spec.name!r} has changed while another version is on its way")
        busy = [i for i in model.instances.values() if i.running or i.holds or i.lease_id]
        if busy:
            tasks = sum(len(instance.running) for instance in busy)
            raise ModelBusyError(
                f"the file of model {spec.name!r} has changed ({model.spec.size_bytes} to {spec.size_bytes} bytes) "
                f"while {len(busy)} instances with {tasks} tasks use what was loaded of it; wait for them, or unload "
                "the model with force",
                metadata={"running": str(tasks), "instances": str(len(busy))},
            )
        model.error, model.failures, model.retry_at = None, 0, 0.0
        version = self.add_version(model, spec, now, model.serving.by)
        for instance in model.instances.values():
            instance.version = version.number  # the model is UNLOADING until they are gone
        model.before = None
        self._register.serve(model, version, now)
        self.unload(model)

    def add_version(self, model: Model, spec: ModelSpec, now: float, by: str) -> Version:
        """A version of a model was made; the oldest go for it that neither serve nor have instances.

        Raises:
            LimitExceededError: As many are kept as may be, and none can go.
        """
        limit = self._versions_limit
        used = {model.serving.number, *(instance.version for instance in model.instances.values())}
        idle = [version for number, version in model.versions.items() if number not in used]
        excess = len(model.versions) + 1 - limit
        if excess > len(idle):
            raise LimitExceededError(
                f"{len(used)} versions of model {spec.name!r} serve or end their tasks, and rollouts.versions is"
                f" {limit}; wait for those tasks",
                metadata={"bound": "rollouts.versions", "value": str(len(used)), "limit": str(limit)},
            )
        for version in idle[: max(0, excess)]:
            self._register.forget_version(model, version)
        return self._register.add_version(model, spec, now, by)

    def forget(self, name: ModelName) -> None:
        """Know a model no longer; it has no instances."""
        self._register.forget_model(name)
        self.retries.cancel(name)

    @property
    def openings(self) -> int:
        """Rises whenever hosts begin or cease to take something new."""
        return self._broker.atlas.openings

    def why_held(self, name: ModelName) -> str:
        """Why no host takes an instance of a model that has none; "" where one does."""
        model = self.models[name]
        return "" if model.shared else why_closed(model.spec, self._broker.atlas)

    def page(self, *, after: str | None, size: int) -> Page[Model]:
        """Models by name, behind the name `after`; so many at most."""
        return self._register.page(after=after, size=size)

    def load(self, model: Model, now: float) -> None:
        """Start a worker now, whatever the backoff; nothing to do when one is up or coming.

        Raises:
            ModelBusyError: The model is being unloaded, or no host of it takes instances.
            ModelLoadError: All its hosts are gone for good.
        """
        if model.state is ModelState.UNLOADING:
            raise ModelBusyError(f"model {model.spec.name!r} is being unloaded; try again when it is UNLOADED")
        check_stranded(model, self._broker.atlas)
        if model.rollout is not None and model.gives_way and not model.shared:
            number = model.rollout.version.number
            raise ModelBusyError(
                f"model {model.spec.name!r} is given version {number}, for which the one before had to go; watch it",
                metadata={"version": str(number)},
            )
        if not self.siting.devices_under(model, NO_LEASE):
            raise ModelBusyError(
                f"no host of {places_of(model.spec)} takes instances now, where model {model.spec.name!r} computes"
            )
        if not model.shared:
            model.loaded_on_demand = False
            self.start(model, now)

    def start_on_demand(self, model: Model, now: float) -> None:
        """Start a worker because one is needed, or set the alarm for the end of the backoff; or wait for a host."""
        if model.gives_way:
            return  # the version that is on its way takes its place
        if model.lacks:
            self.doubtful[model.spec.name] = None
        elif now < model.retry_at:
            self.retries.set(model.spec.name, model.retry_at)
        elif self.siting.devices_under(model, NO_LEASE):
            self.start(model, now)

    def start(
        self,
        model: Model,
        now: float,
        lease_id: LeaseId = NO_LEASE,
        *,
        tried: tuple[DeviceId, ...] = (),
        version: Version | None = None,
    ) -> Instance:
        """Start a worker for one more instance, where it is best placed now; not on devices that were tried.

        One of `Siting.devices_under` is left. The `version` is the one that serves, unless it is given.
        """
        version = version or model.serving
        devices = self.siting.devices_under(model, lease_id, version, but=tried)
        placement = self.siting.place(model, version.need_on, devices=devices, lease_id=lease_id, spec=version.spec)
        device_id = placement.device_id
        model.instance_count += 1
        instance_id = InstanceId(f"{model.spec.name}-{model.instance_count}")
        instance = Instance(
            instance_id=instance_id,
            model=model.spec.name,
            version=version.number,
            device_id=device_id,
            beside=placement.beside,
            device_reason=f"it does not fit {' and '.join(tried)} as things stand" if tried else placement.reason,
            tried=tried,
            lease_id=lease_id,
            created=now,
        )
        if not lease_id:
            self._broker.expect(instance_id, instance.device_ids, version.need_on(device_id).total_bytes)
        if not lease_id and version is model.serving:
            model.error = None
            self.retries.cancel(model.spec.name)
        accounts = [self._broker.account(each) for each in instance.device_ids]
        capacity_bytes = min(each.capacity_bytes for each in accounts)
        capacity_bytes = gangs.room_bytes(self._broker, instance) if lease_id else capacity_bytes
        cores = self._broker.cores(device_id, lease_id)
        self._out.append(StartWorker(instance_id, version.spec, device_id, capacity_bytes, cores, instance.beside))
        self._register.add(instance)
        return instance

    def start_elsewhere(self, instance: Instance, now: float) -> Instance:
        """Start another instance on a device that was not tried, in place of one that has not begun to load."""
        self.stop(instance)
        tried, model = (*instance.tried, instance.device_id), self.models[instance.model]
        return self.start(model, now, instance.lease_id, tried=tried, version=model.versions[instance.version])

    def measured(self, model: Model, version: Version, needs: Mapping[DeviceId, MemoryNeed]) -> None:
        """It is known what a version of a model needs on some devices: those that start count with that."""
        version.measured(needs)
        for instance in model.instances.values():
            starts = instance.state is InstanceState.STARTING and not instance.lease_id
            if starts and instance.version == version.number:
                need = version.need_on(instance.device_id)
                self._broker.expect(instance.instance_id, instance.device_ids, need.total_bytes)

    def needs(self, instance: Instance, need: MemoryNeed) -> None:
        """A worker knows what its model needs."""
        instance.need = need
        self._register.move(instance, InstanceChange.NEED)
        model = self.models[instance.model]
        self.measured(model, model.versions[instance.version], {instance.device_id: need})
        self._broker.expect_no_more(instance.instance_id)

    def reserved(self, instance: Instance, now: float) -> None:
        """What an instance needs is reserved."""
        instance.reserved = now
        self._register.move(instance, InstanceChange.RESERVE)

    def grown(self, instance: Instance, grown_bytes: int) -> None:
        """A worker takes so much beyond what was measured, or no longer does."""
        told, instance.grown_bytes = bool(instance.grown_bytes), grown_bytes
        if told is not bool(grown_bytes):
            self._register.touch(instance)

    def loaded(self, instance: Instance, facts: InstanceFacts, now: float) -> None:
        """A worker can take tasks."""
        instance.facts, instance.ready, instance.used = facts, now, now
        instance.peak_bytes = max(instance.peak_bytes, facts.peak_bytes)
        self._register.move(instance, InstanceChange.LOADED)
        model = self.models[instance.model]
        model.versions[instance.version].file_sampling = facts.sampling
        if instance.version == model.serving.number:
            model.loaded_on_demand = True
            model.failed_loads = model.failed_loads if instance.lease_id else 0
            model.asked &= bool(instance.lease_id)  # one under a lease answers its holder only
        self.refresh(model)

    def refused(self, instance: Instance, error: InferdError, now: float) -> None:
        """A worker could not load its model, or may not; the model waits out its backoff."""
        self._fail(instance, InstanceChange.FAIL, error, now)
        self._broker.stopping(instance.instance_id)
        self._out.append(StopWorker(instance.instance_id))  # it may not end by itself

    def stop(self, instance: Instance) -> None:
        """Have a worker end; nothing to do when it is ending."""
        if not instance.living:
            return
        self._register.move(instance, InstanceChange.STOP)
        self._broker.stopping(instance.instance_id)
        self._broker.eased[instance.device_id] = None  # it may have been the first of those who wait for memory
        self._out.append(StopWorker(instance.instance_id))
        self.refresh(self.models[instance.model])

    def unload(self, model: Model) -> None:
        """Stop every instance; nothing to do when there is none."""
        if model.asked:  # who asked waits for that to change
            model.asked = False
            self._register.touch_model(model)
        for instance in tuple(model.instances.values()):
            self.stop(instance)

    def strand(self, model: Model) -> InferdError | None:
        """Why a model can be loaded nowhere any more, which is kept with it; None when that is not so."""
        error = stranded(model, self._broker.atlas)
        if error is not None:
            model.asked, model.error = False, error
            self._register.touch_model(model)
        return error

    def exited(self, instance: Instance, error: InferdError, now: float) -> None:
        """A worker is gone, asked for or not."""
        match instance.state:
            case InstanceState.STOPPING:
                self._register.move(instance, InstanceChange.EXIT)
            case InstanceState.FAILED:
                pass  # it had said why before it went
            case _:
                self._fail(instance, InstanceChange.EXIT, error, now)
        self._register.forget(instance)
        self.refresh(self.models[instance.model])

    def lost(self, instance: Instance, error: InferdError) -> None:
        """The host of an instance is lost, and its worker with it: that is no fault of its model."""
        if instance.state is not InstanceState.FAILED:
            instance.error = error if instance.living else instance.error
            self.blame_rollout(instance, error)
            self._register.move(instance, InstanceChange.EXIT)
        self._register.forget(instance)
        self.refresh(self.models[instance.model])

    def leave(self, instance: Instance) -> None:
        """The host of an instance drains, or another version comes; one under a lease stays until that ends."""
        if not instance.living or instance.lease_id:
            return
        if instance.state is not InstanceState.READY:
            self.stop(instance)
            return
        instance.leaving = True
        self._register.touch(instance)
        self.refresh(self.models[instance.model])

    def let_go(self) -> None:
        """Stop those that leave and have nothing to do."""
        while self.leavers:
            instance_id, _ = self.leavers.popitem()
            instance = self.instances.get(instance_id)
            if instance is None or not instance.leaving or not instance.idle:
                continue
            if not self._stands_by(self.models[instance.model], instance):
                self.stop(instance)

    def _stands_by(self, model: Model, instance: Instance) -> bool:
        """Whether an instance that leaves stays for a while: the version that took its place is on trial."""
        return model.stands_by(instance) and self._broker.devices[instance.device_id].open

    def stay(self, instance: Instance) -> None:
        """What an instance leaves for is over: it stays, unless its host drains or others have come in its place."""
        model = self.models[instance.model]
        serves = instance.version == model.serving.number and self._broker.devices[instance.device_id].open
        if instance.leaving and serves and len(model.shared) < max(1, model.spec.max_instances):
            instance.leaving = False
            self._register.touch(instance)
            self.refresh(model)
            self.refresh_drain(instance)

    def refresh(self, model: Model) -> None:
        """See anew which instances of a model may be evicted: idle ones, as long as its `least` stay.

        Those that leave may go when they are idle, see `let_go`. None goes while another version comes up beside them.
        """
        for instance in model.instances.values():
            if instance.leaving and instance.idle and self._stands_by(model, instance):
                self._broker.rest(instance.instance_id)
            elif instance.leaving:
                self._broker.wake(instance.instance_id)
                if instance.idle:
                    self.leavers[instance.instance_id] = None
        ready = [i for i in model.shared if i.state is InstanceState.READY]
        beside = model.rollout is not None and not model.rollout.drains
        spare = 0 if beside else len(ready) - model.least
        for instance in ready:
            if instance.idle and spare > 0:
                self._broker.rest(instance.instance_id)
                spare -= 1
            else:
                self._broker.wake(instance.instance_id)

    def refresh_drain(self, instance: Instance) -> None:
        """See anew who is to drain where an instance computes: it may have come or ceased to be one of those."""
        self._broker.eased |= dict.fromkeys(instance.device_ids)

    def _fail(self, instance: Instance, change: InstanceChange, error: InferdError, now: float) -> None:
        loading = instance.state is not InstanceState.READY
        instance.error = error
        self._register.move(instance, change, failed=loading)
        model = self.models[instance.model]
        self.blame_rollout(instance, error)
        if instance.version != model.serving.number:
            return  # that is no fault of the one that serves
        if loading and not any(i.living for i in model.instances.values()):
            model.error = error
        if not instance.lease_id:  # nobody but its holder waits for one under a lease
            model.failures += 1
            model.failed_loads += loading
            model.retry_at = now + self._backoff.wait_s(model.failures - (not loading))
            model.loaded_on_demand = True

    def blame_rollout(self, instance: Instance, error: InferdError) -> None:
        """If an instance is of a version on its way, that is why it will have failed."""
        model = self.models[instance.model]
        if model.rollout is not None and model.is_rolling(instance):
            model.rollout.version.error = error
