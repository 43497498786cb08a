"""Models and instances: their states and what is known of them. What a model's name stands for is in `core.version`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from inferd.core.ids import NO_LEASE, DeviceId, InstanceId, LeaseId, ModelName, TaskId
from inferd.core.placement_rules import ANYWHERE, PlacementRules
from inferd.core.sampling_defaults import NO_DEFAULTS, SamplingDefaults
from inferd.core.traits import NO_TRAITS, Traits
from inferd.core.victims import Victims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.lifecycle import Table
    from inferd.core.resources import MemoryNeed
    from inferd.core.version import Rollout, Version
    from inferd.errors import InferdError
    from inferd.sandbox.state import Access, State

SettingValue = int | float | bool | str


class ModelState(Enum):
    """Where a model stands; the values are those of `inferd.v1.ModelState`."""

    UNLOADED = 1
    LOADING = 2
    READY = 3
    UNLOADING = 4
    FAILED = 5


class ModelChange(Enum):
    """What can happen to a model."""

    LOAD = 1
    LOADED = 2
    LOAD_FAILED = 3
    UNLOAD = 4
    UNLOADED = 5
    WORKER_DIED = 6
    RELOAD = 7  # another instance comes up while the last one goes
    HOST_LOST = 8
    ROLLED = 9  # another version of it is READY, and takes its tasks from now on


MODEL_TABLE: Table[ModelState, ModelChange] = {
    ModelState.UNLOADED: {
        ModelChange.LOAD: ModelState.LOADING,
        ModelChange.ROLLED: ModelState.READY,
    },
    ModelState.LOADING: {
        ModelChange.LOADED: ModelState.READY,
        ModelChange.LOAD_FAILED: ModelState.FAILED,
        ModelChange.WORKER_DIED: ModelState.FAILED,
        ModelChange.UNLOAD: ModelState.UNLOADING,
        ModelChange.HOST_LOST: ModelState.UNLOADED,
    },
    ModelState.READY: {
        ModelChange.UNLOAD: ModelState.UNLOADING,
        ModelChange.WORKER_DIED: ModelState.UNLOADED,
        ModelChange.RELOAD: ModelState.LOADING,
    },
    ModelState.UNLOADING: {
        ModelChange.UNLOADED: ModelState.UNLOADED,
        ModelChange.RELOAD: ModelState.LOADING,
        ModelChange.ROLLED: ModelState.READY,
    },
    ModelState.FAILED: {
        ModelChange.LOAD: ModelState.LOADING,
        ModelChange.ROLLED: ModelState.READY,
    },
}


class InstanceState(Enum):
    """Where an instance stands; the values are those of `inferd.v1.InstanceState`."""

    STARTING = 1
    LOADING = 2
    READY = 3
    STOPPING = 4
    STOPPED = 5
    FAILED = 6
    WAITING = 7


class InstanceChange(Enum):
    """What can happen to an instance."""

    NEED = 1  # the worker tells what the model needs
    RESERVE = 2  # that much is reserved
    LOADED = 3
    STOP = 4
    EXIT = 5
    FAIL = 6


INSTANCE_TABLE: Table[InstanceState, InstanceChange] = {
    InstanceState.STARTING: {
        InstanceChange.NEED: InstanceState.WAITING,
        InstanceChange.STOP: InstanceState.STOPPING,
        InstanceChange.EXIT: InstanceState.FAILED,
        InstanceChange.FAIL: InstanceState.FAILED,
    },
    InstanceState.WAITING: {
        InstanceChange.RESERVE: InstanceState.LOADING,
        InstanceChange.STOP: InstanceState.STOPPING,
        InstanceChange.EXIT: InstanceState.FAILED,
        InstanceChange.FAIL: InstanceState.FAILED,
    },
    InstanceState.LOADING: {
        InstanceChange.LOADED: InstanceState.READY,
        InstanceChange.STOP: InstanceState.STOPPING,
        InstanceChange.EXIT: InstanceState.FAILED,
        InstanceChange.FAIL: InstanceState.FAILED,
    },
    InstanceState.READY: {
        InstanceChange.STOP: InstanceState.STOPPING,
        InstanceChange.EXIT: InstanceState.FAILED,
        InstanceChange.FAIL: InstanceState.FAILED,
    },
    InstanceState.STOPPING: {InstanceChange.EXIT: InstanceState.STOPPED},
    InstanceState.STOPPED: {},
    InstanceState.FAILED: {},
}


BOUNDS = ("queued_tasks", "idle_s", "prefix_keep_bytes")  # settings that hold for a model, whichever version serves
LIVING = (InstanceState.READY, InstanceState.STARTING, InstanceState.WAITING, InstanceState.LOADING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A named artifact with settings, and the backend that was chosen for it.

    Attributes:
        name: Its name.
        source: As the client gave it.
        path: Absolute path of its file.
        format: What kind of file it is, for example "gguf".
        size_bytes: Size of the file.
        backend: Name of the backend that loads it.
        backend_reason: Why that backend.
        alternatives: Other backends that load such files, as they could be chosen when it became known, for people.
        listed: The architectures that each of `alternatives` lists for such files; none where it may be any.
        loader: Dotted path of the backend class, "package.module:Class".
        devices: Devices that it may use, at least one, in the order of its backend: as hosts call them, of any host
            where its backend works, or with the host, of that alone. See `core.atlas`.
        pinned: Whether it may use no others of their kind, as far hosts may have.
        placement: Which hosts it may use, and which of their devices first.
        span: Devices of one host over which each of its instances is spread; all are taken at once, or none.
        settings: Settings of the backend, as the client gave them.
        values: Every setting of the backend, checked and converted; None where the backend derives a default.
        draft_tokens: Most tokens that the engine guesses in a step; None for the kernel's default.
        queued_tasks: Most tasks that wait for it; None for the kernel's bound, which holds in any case.
        idle_s: An instance that had nothing to do for so long goes, in seconds; 0 for never, None for the kernel's.
        prefix_keep_bytes: Bytes of its prefix cache that are kept when it is unloaded; None for the kernel's bound.
        min_instances: Fewest instances that stay loaded.
        max_instances: Most instances.
        sampling: Defaults of its tasks that go before those of its file.
        catalogue_sampling: Those that come behind its file's.
        file_version: Differs when the file has changed.
        digest: What its files must hold, "sha256:…", seen to before each load; "" for anything.
        tenant: Whose blobs its files are; "" where they are files of this host.
        links: What paths in settings really were, links too, if named by who may not name any file; loads see to that.
        access: What its workers reach of the host besides its files and what its settings name; None where that was
            never told, as by kernels before this one.
    """

    name: ModelName
    source: str
    path: str
    format: str
    size_bytes: int
    backend: str
    backend_reason: str
    loader: str
    devices: tuple[DeviceId, ...]
    alternatives: tuple[str, ...] = field(default=(), compare=False)
    listed: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, SettingValue | None] = field(default_factory=dict)
    draft_tokens: int | None = None
    queued_tasks: int | None = None
    idle_s: int | None = None
    prefix_keep_bytes: int | None = None
    min_instances: int = 0
    max_instances: int = 1
    sampling: SamplingDefaults = NO_DEFAULTS
    catalogue_sampling: SamplingDefaults = NO_DEFAULTS
    file_version: str = ""
    digest: str = ""
    tenant: str = field(default="", compare=False)
    links: Mapping[str, str] = field(default_factory=dict, compare=False)
    access: Access | None = field(default=None, compare=False)
    pinned: bool = field(default=False, compare=False)
    placement: PlacementRules = ANYWHERE
    span: int = 1

    @property
    def device(self) -> str:
        """The one device that it may use; "" where there are several."""
        return self.devices[0] if len(self.devices) == 1 else ""

    @property
    def wanted(self) -> tuple[object, ...]:
        """What its client asked for: what the file is, and why its backend was chosen, may change under it."""
        bounds = (self.queued_tasks, self.idle_s, self.prefix_keep_bytes, self.min_instances, self.max_instances)
        return (*self.loaded, *bounds)

    @property
    def loaded(self) -> tuple[object, ...]:
        """That of it which an instance is made of: the rest may change without a new one."""
        how = (self.backend, self.device, self.values, self.draft_tokens, self.sampling, self.digest, self.placement)
        return (self.source, self.path, *how, {k: v for k, v in self.settings.items() if k not in BOUNDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """What a worker reports of a loaded model.

    Attributes:
        max_tasks, context_tokens: Tasks that can run at once; tokens of prompt and output that one of them can have.
        description, parameters: Architecture, size and format, for people; parameters of the model, 0 for unknown.
        memory_bytes, peak_bytes: Resident memory of the worker, and the most that it had so far; 0 for unknown.
        kv_tokens, block_tokens: Tokens that fit into its KV pool, and into a block of it; 0 for unknown.
        sampling: Defaults of its tasks that its file names.
        sandbox: What has become of its worker's sandbox; None where it does not say.
    """

    max_tasks: int
    context_tokens: int
    description: str
    memory_bytes: int
    kv_tokens: int = 0
    block_tokens: int = 0
    peak_bytes: int = 0
    sampling: SamplingDefaults = NO_DEFAULTS
    sandbox: State | None = None
    parameters: int = 0


@dataclass(slots=True)
class Hold:
    """What an instance keeps for the tasks of a lease: places, tokens of the KV pool, and how many of them run."""

    sequences: int
    kv_tokens: int
    running: int = 0

    @property
    def unused(self) -> int:
        """Places that are kept and not taken."""
        return max(0, self.sequences - self.running)


@dataclass(slots=True, kw_only=True)
class Instance:
    """The core's record of one instance. One writer: the kernel machine.

    Attributes:
        instance_id: Its id.
        model: Whose weights it holds.
        version: Which version of that, by its number.
        device_id: Where it computes.
        beside: Other devices of that host on which it does so, too; it holds as much of each.
        device_reason: Why there.
        tried: Devices where one was started for the same before, which it did not fit.
        adopted: Whether its worker had loaded the model before this kernel, or before its host was lost.
        lease_id: The lease that it was loaded under and ends with; "" for none.
        need: What it needs by the backend's reckoning; None while it is not known.
        peak_bytes: Most resident memory of its worker that was measured.
        grown_bytes: What its worker takes beyond its need, when that is too much to be passed over; else 0.
        running: Tasks that it computes, in the order of their dispatch.
        victims: Those of `running` that may have to give way.
        suspect: The one of `running` that is to run alone in its batch; None for none.
        alone: Whether the turn of `suspect` has begun.
        draining: Others wait for its memory: it takes no new tasks.
        leaving: Its host drains, or another version serves: it takes tasks of leases alone, and goes when it has none.
        reserved: When it was given its memory.
        holds: What it keeps for the tasks of leases.
        used: When it last ended a task or became READY.
        share_s: How far its clock of shared time is, by which its tasks have their parts of the device's.
        share_at: Up to when.
    """

    instance_id: InstanceId
    model: ModelName
    version: int = 1
    device_id: DeviceId
    beside: tuple[DeviceId, ...] = ()
    device_reason: str = ""
    tried: tuple[DeviceId, ...] = ()
    adopted: bool = False
    lease_id: LeaseId = NO_LEASE
    state: InstanceState = InstanceState.STARTING
    need: MemoryNeed | None = None
    peak_bytes: int = 0
    grown_bytes: int = 0
    created: float  # kernel clock, seconds
    ready: float | None = None
    facts: InstanceFacts | None = None
    running: dict[TaskId, None] = field(default_factory=dict)
    victims: Victims = field(default_factory=Victims)
    suspect: TaskId | None = None
    alone: bool = False
    draining: bool = False
    leaving: bool = False
    reserved: float = 0.0
    holds: dict[LeaseId, Hold] = field(default_factory=dict)
    used: float = 0.0
    share_s: float = 0.0
    share_at: float = 0.0
    error: InferdError | None = None

    @property
    def device_ids(self) -> tuple[DeviceId, ...]:
        """All devices on which it computes."""
        return (self.device_id, *self.beside)

    @property
    def places(self) -> int:
        """Tasks that it could run besides those that it runs."""
        if self.state is not InstanceState.READY or self.facts is None:
            return 0
        return self.facts.max_tasks - len(self.running)

    @property
    def free_places(self) -> int:
        """Tasks that it could take now, what it keeps for leases left out."""
        return self.places - sum([hold.unused for hold in self.holds.values()])

    @property
    def open_places(self) -> int:
        """Tasks that it could take now, but for those of leases."""
        return 0 if self.draining else self.free_places

    @property
    def living(self) -> bool:
        """Whether it takes tasks or will."""
        return self.state in LIVING

    @property
    def idle(self) -> bool:
        """Whether it takes tasks and has none, nor keeps anything for a lease."""
        busy = self.running or self.holds or self.lease_id
        return self.state is InstanceState.READY and not busy


@dataclass(slots=True, kw_only=True)
class Model:
    """The core's record of one model. One writer: the kernel machine.

    Attributes:
        serving: The version that takes its tasks.
        versions: Those that are kept, by number, the latest last.
        rollout: The version that is to take its tasks next; None for none.
        before: The version that serves again if the one that does fails on its trial; None where that is over.
        leases: Leases that claim a part of it, and the instance that keeps that; None while there is none.
        traits: What holds whichever version serves.
        lacks: Why a model of a kernel before this one cannot be loaded now: its tasks wait; "" where it can.
        going: Whether it takes nothing new, and is forgotten once nothing is left of it.
    """

    serving: Version
    versions: dict[int, Version] = field(default_factory=dict)
    rollout: Rollout | None = None
    before: Version | None = None
    state: ModelState = ModelState.UNLOADED
    created: float  # kernel clock, seconds
    error: InferdError | None = None
    failures: int = 0  # in a row; a task that succeeds ends the row
    failed_loads: int = 0  # in a row; an instance that becomes READY ends the row
    retry_at: float = 0.0  # kernel clock; no start on demand before
    instances: dict[InstanceId, Instance] = field(default_factory=dict)  # those whose worker may still live
    instance_count: int = 0  # ever made; numbers the next one
    version_count: int = 1  # likewise
    leases: dict[LeaseId, InstanceId | None] = field(default_factory=dict)
    asked: bool = False  # something that is no task waits for an instance
    loaded_on_demand: bool = True  # False from a client's LoadModel to the end of that load
    traits: Traits = NO_TRAITS
    lacks: str = ""
    going: bool = False

    @property
    def spec(self) -> ModelSpec:
        """What its name stands for now."""
        return self.serving.spec

    @property
    def effective_sampling(self) -> SamplingDefaults:
        """What its tasks take for what they leave unset, as far as anybody says anything of this model."""
        spec = self.serving.spec
        return spec.sampling.over(self.serving.file_sampling).over(spec.catalogue_sampling)

    def need_on(self, device_id: DeviceId) -> MemoryNeed:
        """What it needs on a device, or elsewhere; see `Version.need_on`."""
        return self.serving.need_on(device_id)

    @property
    def least(self) -> int:
        """How many of its instances stay, once they are loaded, whoever wants their memory."""
        return max(self.spec.min_instances, int(self.traits.pin))

    @property
    def lacks_hold(self) -> bool:
        """Whether a lease claims a part of it that no instance keeps."""
        return None in self.leases.values()

    @property
    def gives_way(self) -> bool:
        """Whether its instances go before a new version fits: none of the old one is started meanwhile."""
        return self.rollout is not None and self.rollout.drains

    def is_rolling(self, instance: Instance) -> bool:
        """Whether an instance is of the version that is to take its tasks next."""
        return self.rollout is not None and instance.version == self.rollout.version.number

    @property
    def trying(self) -> list[Instance]:
        """The instances that take a share of its new tasks, as a step of a rollout."""
        return [i for i in self.instances.values() if self.is_tried(i) and i.living]

    def is_tried(self, instance: Instance) -> bool:
        """Whether an instance is one of those, or was."""
        steps = None if self.rollout is None else self.rollout.steps
        return steps is not None and self.is_rolling(instance) and not (instance.lease_id or instance.leaving)

    def is_on_trial(self, instance: Instance) -> bool:
        """Whether an instance is of the version that serves, and has yet to prove itself."""
        return self.before is not None and instance.version == self.serving.number and not instance.lease_id

    def stands_by(self, instance: Instance) -> bool:
        """Whether an instance is of the version that would serve again."""
        return self.before is not None and instance.version == self.before.number

    @property
    def shared(self) -> list[Instance]:
        """Its instances that take tasks or will, those that belong to a lease or leave left out."""
        number = self.serving.number
        return [  # a tuple of states is searched without a hash of any, several times a task
            i
            for i in self.instances.values()
            if i.version == number and i.state in LIVING and not i.lease_id and not i.leaving
        ]
