"""Models and instances: their states and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from inferd.core.ids import InstanceId, ModelName, TaskId
from inferd.core.lifecycle import Table
from inferd.errors import InferdError

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


MODEL_TABLE: Table[ModelState, ModelChange] = {
    ModelState.UNLOADED: {ModelChange.LOAD: ModelState.LOADING},
    ModelState.LOADING: {
        ModelChange.LOADED: ModelState.READY,
        ModelChange.LOAD_FAILED: ModelState.FAILED,
        ModelChange.WORKER_DIED: ModelState.FAILED,
        ModelChange.UNLOAD: ModelState.UNLOADING,
    },
    ModelState.READY: {
        ModelChange.UNLOAD: ModelState.UNLOADING,
        ModelChange.WORKER_DIED: ModelState.UNLOADED,
    },
    ModelState.UNLOADING: {ModelChange.UNLOADED: ModelState.UNLOADED},
    ModelState.FAILED: {ModelChange.LOAD: ModelState.LOADING},
}


class InstanceState(Enum):
    """Where an instance stands; the values are those of `inferd.v1.InstanceState`."""

    STARTING = 1
    LOADING = 2
    READY = 3
    STOPPING = 4
    STOPPED = 5
    FAILED = 6


class InstanceChange(Enum):
    """What can happen to an instance."""

    HELLO = 1
    LOADED = 2
    STOP = 3
    EXIT = 4
    FAIL = 5


INSTANCE_TABLE: Table[InstanceState, InstanceChange] = {
    InstanceState.STARTING: {
        InstanceChange.HELLO: InstanceState.LOADING,
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
        loader: Dotted path of the backend class, "package.module:Class".
        device: Device to load on.
        settings: Settings of the backend, as the client gave them.
        values: Every setting of the backend, checked and converted; None where the backend derives a default.
        draft_tokens: Most tokens that the engine guesses in a step; None for the kernel's default.
    """

    name: ModelName
    source: str
    path: str
    format: str
    size_bytes: int
    backend: str
    backend_reason: str
    loader: str
    device: str
    settings: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, SettingValue | None] = field(default_factory=dict)
    draft_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """What a worker reports of a loaded model.

    Attributes:
        max_tasks: Tasks that can run at once.
        context_tokens: Tokens of prompt and output that one task can have.
        description: Architecture, parameters, weight format, for people.
        memory_bytes: Resident memory of the worker.
    """

    max_tasks: int
    context_tokens: int
    description: str
    memory_bytes: int


@dataclass(slots=True, kw_only=True)
class Instance:
    """The core's record of one instance. One writer: the kernel machine."""

    instance_id: InstanceId
    model: ModelName
    state: InstanceState = InstanceState.STARTING
    created: float  # kernel clock, seconds
    ready: float | None = None
    facts: InstanceFacts | None = None
    running: dict[TaskId, None] = field(default_factory=dict)  # in the order of their dispatch
    error: InferdError | None = None

    @property
    def free_places(self) -> int:
        """Tasks that it could take now."""
        if self.state is not InstanceState.READY or self.facts is None:
            return 0
        return self.facts.max_tasks - len(self.running)


@dataclass(slots=True, kw_only=True)
class Model:
    """The core's record of one model. One writer: the kernel machine."""

    spec: ModelSpec
    state: ModelState = ModelState.UNLOADED
    created: float  # kernel clock, seconds
    error: InferdError | None = None
    failures: int = 0  # in a row; a task that succeeds ends the row
    retry_at: float = 0.0  # kernel clock; no start on demand before
    instances: dict[InstanceId, Instance] = field(default_factory=dict)  # those whose worker may still live
    instance_count: int = 0  # ever made; numbers the next one
