"""Tasks: what they are given, their states, and what they end with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.lifecycle import Table
from inferd.errors import InferdError

NO_LABELS: Mapping[str, str] = MappingProxyType({})


class TaskState(Enum):
    """Where a task stands; the values are those of `inferd.v1.TaskState`."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6


class TaskChange(Enum):
    """What can happen to a task."""

    DISPATCH = 1
    SUCCEED = 2
    FAIL = 3
    CANCEL = 4
    EXPIRE = 5


TASK_TABLE: Table[TaskState, TaskChange] = {
    TaskState.QUEUED: {
        TaskChange.DISPATCH: TaskState.RUNNING,
        TaskChange.FAIL: TaskState.FAILED,
        TaskChange.CANCEL: TaskState.CANCELLED,
        TaskChange.EXPIRE: TaskState.EXPIRED,
    },
    TaskState.RUNNING: {
        TaskChange.SUCCEED: TaskState.SUCCEEDED,
        TaskChange.FAIL: TaskState.FAILED,
        TaskChange.CANCEL: TaskState.CANCELLED,
        TaskChange.EXPIRE: TaskState.EXPIRED,
    },
    TaskState.SUCCEEDED: {},
    TaskState.FAILED: {},
    TaskState.CANCELLED: {},
    TaskState.EXPIRED: {},
}


class FinishReason(Enum):
    """Why generation ended; the values are those of `inferd.v1.FinishReason`."""

    UNSPECIFIED = 0
    END_OF_TEXT = 1
    STOP_STRING = 2
    MAX_TOKENS = 3


@dataclass(frozen=True, slots=True)
class TextInput:
    """Plain text, continued as it stands."""

    prompt: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation, oldest message first; the worker renders it with the model's template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids of the model's vocabulary."""

    token_ids: tuple[int, ...]


TaskInput = TextInput | ChatInput | TokenInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when generation ends; see `inferd.v1.SamplingParams`."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What a task is to do. The core never looks into `input`, `sampling` and `labels`.

    Attributes:
        deadline: When it expires, on the kernel's clock in seconds; None for never.
        request_id: Makes its creation idempotent; "" for not.
        fingerprint: Equal for two calls with the same contents.
    """

    task_id: TaskId
    tenant: Tenant
    model: ModelName
    input: TaskInput
    sampling: Sampling = field(default_factory=Sampling)
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    deadline: float | None = None
    request_id: str = ""
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens in and out."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended: a terminal state, why, and the error unless it succeeded."""

    state: TaskState
    reason: FinishReason = FinishReason.UNSPECIFIED
    error: InferdError | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True, kw_only=True)
class Task:
    """The core's record of one task. One writer: the kernel machine."""

    spec: TaskSpec
    number: int  # rises with each task
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    instance_id: InstanceId | None = None
    created: float  # kernel clock, seconds, as the two below
    started: float | None = None
    finished: float | None = None
    outcome: Outcome | None = None
