"""Tasks: what is known of them, their states, and what they end with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from inferd.core.demand import NO_DEMAND, Demand
from inferd.core.ids import NO_LEASE, DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lifecycle import Table
from inferd.core.priority import Priority
from inferd.errors import InferdError, TaskCancelledError

NO_LABELS: Mapping[str, str] = MappingProxyType({})


class TaskState(Enum):
    """Where a task stands; the values are those of `inferd.v1.TaskState`."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6
    SUSPENDED = 7


class TaskChange(Enum):
    """What can happen to a task."""

    DISPATCH = 1
    SUCCEED = 2
    FAIL = 3
    CANCEL = 4
    EXPIRE = 5
    SUSPEND = 6  # the client stops it
    RESUME = 7  # the client lets it go on
    PREEMPT = 8  # a task of a higher class takes its place
    INTERRUPT = 9  # its instance is lost, or is emptied


TASK_TABLE: Table[TaskState, TaskChange] = {
    TaskState.QUEUED: {
        TaskChange.DISPATCH: TaskState.RUNNING,
        TaskChange.SUSPEND: TaskState.SUSPENDED,
        TaskChange.FAIL: TaskState.FAILED,
        TaskChange.CANCEL: TaskState.CANCELLED,
        TaskChange.EXPIRE: TaskState.EXPIRED,
    },
    TaskState.RUNNING: {
        TaskChange.SUCCEED: TaskState.SUCCEEDED,
        TaskChange.SUSPEND: TaskState.SUSPENDED,
        TaskChange.PREEMPT: TaskState.QUEUED,
        TaskChange.INTERRUPT: TaskState.QUEUED,
        TaskChange.FAIL: TaskState.FAILED,
        TaskChange.CANCEL: TaskState.CANCELLED,
        TaskChange.EXPIRE: TaskState.EXPIRED,
    },
    TaskState.SUSPENDED: {
        TaskChange.RESUME: TaskState.QUEUED,
        TaskChange.FAIL: TaskState.FAILED,
        TaskChange.CANCEL: TaskState.CANCELLED,
        TaskChange.EXPIRE: TaskState.EXPIRED,
    },
    TaskState.SUCCEEDED: {},
    TaskState.FAILED: {},
    TaskState.CANCELLED: {},
    TaskState.EXPIRED: {},
}


class SuspendReason(Enum):
    """Why a task was stopped to go on later; the values are those of `inferd.v1.SuspendReason`."""

    CLIENT = 1
    PREEMPTED = 2  # a task of a higher class took its place
    WORKER_DIED = 3
    UNLOADED = 4  # its instance was
    STORE = 5  # what it tells cannot be kept now


class FinishReason(Enum):
    """Why generation ended; the values are those of `inferd.v1.FinishReason`."""

    UNSPECIFIED = 0
    END_OF_TEXT = 1
    STOP_STRING = 2
    MAX_TOKENS = 3


TRIAL_LABEL = "inferd.trial"
"""Label of the tasks by which `OptimizeModel` measures a trial, with its name: lists leave them out."""
EVALUATION_LABEL = "inferd.evaluation"
"""Label of the tasks of an evaluation, with its id: lists leave them out, too."""

TRAINING_LABEL = "inferd.training"
"""Label of the tasks that do the steps of a training, with its id: lists leave them out, too."""
ASK_LABEL = "inferd.call"
"""Label of the tasks by which models answer what a call of a function asks, with the id of its task: likewise."""
EXPLANATION_LABEL = "inferd.explanation"
"""Label of the tasks by which an explanation is computed, with its name: they are known as long as they run, and lists
leave them out as those above."""
INDEX_LABEL = "inferd.index"
"""Label of the tasks by which documents are added to an index, found and asked, with its name: likewise."""
DATASET_LABEL = "inferd.dataset"
"""Label of the tasks by which rows of a dataset are read, with its name and version: likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What a task is to do. The core carries `work` and `labels`, and looks into neither.

    Attributes:
        demand: What policy has to know of the work.
        work: What is to be done, for the worker.
        priority: Its class.
        lease_id: The lease that it runs under; "" for none.
        deadline: When it expires, on the kernel's clock in seconds; None for never, or a default if it is detached.
        detached: Whether it outlives its client's call.
        request_id: Makes its creation idempotent; "" for not.
        fingerprint: Equal for two calls with the same contents.
        operation: What figures and traces call its like; "" of a kernel before this one.
    """

    task_id: TaskId
    tenant: Tenant
    model: ModelName
    demand: Demand = NO_DEMAND
    work: object = None
    priority: Priority = Priority.NORMAL
    lease_id: LeaseId = NO_LEASE
    deadline: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    detached: bool = False
    request_id: str = ""
    fingerprint: bytes = b""
    operation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens in and out; of those that were guessed ahead, how many and how many rightly."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended: a terminal state, why, and the error unless it succeeded."""

    state: TaskState
    reason: FinishReason = FinishReason.UNSPECIFIED
    error: InferdError | None = None
    usage: Usage = field(default_factory=Usage)


def cancelled(why: str) -> Outcome:
    """The end of a task that somebody ended."""
    return Outcome(state=TaskState.CANCELLED, error=TaskCancelledError(why))


@dataclass(slots=True, kw_only=True)
class Task:
    """The core's record of one task. One writer: the kernel machine.

    Once it has ended, its `spec` has no work and no demand any more: nobody asks for them; they may be large.
    """

    spec: TaskSpec
    number: int  # rises with each task
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    expected_tokens: float = 0.0  # what it is charged with while it runs
    charged_tokens: float = 0.0  # what it was charged with before it was stopped
    estimated_tokens: float = 0.0  # what quotas count for it until it has ended
    prompt_tokens: int = 0  # as its demand says, which is gone with its end
    device_s: float = 0.0  # its part of the time of devices
    share_mark: float = 0.0  # where the clock of its instance was when it came there
    protected: bool = False  # its class had its turn: no higher one takes its place
    deaths: int = 0  # of workers that it was present at, since it last ran alone
    waits_since: float = 0.0  # kernel clock; for its turn
    expires: float | None = None  # kernel clock
    detached: bool = False
    instance_id: InstanceId | None = None  # where it runs, or ran last, as the next one
    device_id: DeviceId | None = None
    version: int = 0  # of its model, that the instance is of
    created: float  # kernel clock, seconds, as the two below
    started: float | None = None
    finished: float | None = None
    retained: float | None = None  # from when on it counts for how long it is known, as an ended one
    outcome: Outcome | None = None
