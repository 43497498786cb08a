"""Tasks: what they are given, their states, and what they end with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

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
    """One message of a conversation; with `parts` its content is empty."""

    role: str
    content: str
    name: str = ""
    tool_calls_json: str = ""
    tool_call_id: str = ""
    parts: tuple[str, ...] = ()
    reasoning_content: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the client wrote."""
        rest = (self.name, self.tool_calls_json, self.tool_call_id, self.reasoning_content or "")
        return (self.content, *self.parts, *rest)


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation, oldest message first; the worker renders it with the model's template.

    Attributes:
        messages: What was said.
        tools_json: A JSON array; "" for none.
        variables_json: What the template sees besides, a JSON object; "" for none.
        add_generation_prompt: End with what begins an answer.
        continue_final_message: End with the content of the last message.
        parse_control_tokens: Take the texts of control tokens for control tokens, whoever says them.
    """

    messages: tuple[Message, ...]
    tools_json: str = ""
    variables_json: str = ""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    parse_control_tokens: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the client wrote."""
        return (*(text for message in self.messages for text in message.texts), self.tools_json, self.variables_json)


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids of the model's vocabulary."""

    token_ids: Sequence[int]  # an array from the wire: 4 bytes each


TaskInput = TextInput | ChatInput | TokenInput


class GrammarKind(Enum):
    """The language of a grammar; the names are those of the fields of `inferd.v1.Grammar`."""

    JSON_SCHEMA = 1
    REGEX = 2
    LARK = 3
    CHOICE = 4


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an output must be; `texts` are the choices of CHOICE, `source` is the text of the others."""

    kind: GrammarKind
    source: str = ""
    texts: tuple[str, ...] = ()


class Pooling(Enum):
    """How tokens become one vector; the values are those of `inferd.v1.Pooling`, its default apart."""

    LAST = 1
    MEAN = 2
    FIRST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """An embedding is wanted instead of a text."""

    pooling: Pooling | None = None  # as the model's file says
    normalize: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when generation ends; see `inferd.v1.SamplingParams`.

    `unset` names the fields that a default of the model replaces, see `SamplingDefaults`.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    echo: bool = False
    grammar: Grammar | None = None
    fit_max_tokens: bool = False
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What a task is to do. The core never looks into `input`, `sampling` and `labels`.

    Attributes:
        prefix_cache: Whether it uses and fills the prefix cache.
        adapter: Name of a LoRA adapter; "" for none.
        priority: Its class.
        lease_id: The lease that it runs under; "" for none.
        embedding: How its input becomes a vector; None when it is to generate.
        deadline: When it expires, on the kernel's clock in seconds; None for never, or a default if it is detached.
        detached: Whether it outlives its client's call.
        request_id: Makes its creation idempotent; "" for not.
        fingerprint: Equal for two calls with the same contents.
        digest: Equal for tasks with the same contents; b"" where that is not known.
    """

    task_id: TaskId
    tenant: Tenant
    model: ModelName
    input: TaskInput
    sampling: Sampling = field(default_factory=Sampling)
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    deadline: float | None = None
    detached: bool = False
    prefix_cache: bool = True
    adapter: str = ""
    embedding: Embedding | None = None
    priority: Priority = Priority.NORMAL
    lease_id: LeaseId = NO_LEASE
    request_id: str = ""
    fingerprint: bytes = b""
    digest: bytes = b""


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

    Once it has ended, its `spec` has no input, sampling and adapter any more: nobody asks for them; they may be large.
    """

    spec: TaskSpec
    number: int  # rises with each task
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    expected_tokens: float = 0.0  # what it is charged with while it runs
    charged_tokens: float = 0.0  # what it was charged with before it was stopped
    protected: bool = False  # its class had its turn: no higher one takes its place
    deaths: int = 0  # of workers that it was present at, since it last ran alone
    waits_since: float = 0.0  # kernel clock; for its turn
    input_bytes: int = 0  # what its input takes of memory
    expires: float | None = None  # kernel clock
    detached: bool = False
    instance_id: InstanceId | None = None  # where it runs, or ran last, as the next one
    device_id: DeviceId | None = None
    created: float  # kernel clock, seconds, as the two below
    started: float | None = None
    finished: float | None = None
    outcome: Outcome | None = None
