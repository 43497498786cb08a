"""What a task tells its watchers. `Finished` is always the last."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from inferd.core.ids import InstanceId
from inferd.core.quota import QuotaUse
from inferd.core.task import FinishReason, Outcome, SuspendReason


class Phase(Enum):
    """What takes its time before the first token; the values are those of `inferd.v1.Phase`."""

    LOAD = 1
    PREFILL = 2
    CALL = 3  # a function is at work, and says how far it is


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits behind `position` others of its model, for about `eta_s`; None when nothing is known of them.

    Attributes:
        why: Why no instance of its model comes up meanwhile, which is not kept: it is of that moment.
    """

    position: int
    eta_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """It was handed to an instance, of this version of its model; 0 where a kernel before this one did not say."""

    instance_id: InstanceId
    attempt: int
    version: int = 0


@dataclass(frozen=True, slots=True)
class Suspended:
    """It was stopped, to go on later."""

    reason: SuspendReason


@dataclass(frozen=True, slots=True)
class Resumed:
    """It goes on where it stopped, on an instance of this version of its model; 0 as above."""

    instance_id: InstanceId
    attempt: int
    version: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction`, 0 to 1, of a phase is done."""

    phase: Phase
    fraction: float


@dataclass(frozen=True, slots=True)
class Logprobs:
    """How likely tokens were, as natural logarithms of probabilities.

    Attributes:
        token_ids: The tokens.
        logprobs: Of each of them.
        top_ids: The likeliest tokens in the place of each of them, likeliest first: as many for each.
        top_logprobs: Of each of these.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    top_ids: Sequence[int] = ()
    top_logprobs: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class PromptOutput:
    """What a task asked to be told of its prompt: text and tokens (`echo`), and how likely those but the first were.

    `entropies` are those of the model's distribution at each token of `logprobs`, in nats, where they were asked for.
    """

    text: str
    token_ids: Sequence[int]
    logprobs: Logprobs | None = None
    entropies: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The embedding of the task's input."""

    values: Sequence[float]


class Elements(Protocol):
    """Elements of a tensor that are held outside of this process's own memory."""

    @property
    def size_bytes(self) -> int:
        """How many bytes they have."""

    def read(self, start: int = 0, size_bytes: int | None = None) -> bytes:
        """Some of them, by default all."""


@dataclass(frozen=True, slots=True)
class TensorOutput:
    """A set of tensors, written by the worker: nobody opens it before it is told.

    Attributes:
        written: All of it but what is in `elements`.
        elements: Of those of its tensors that are large, by their places.
    """

    written: bytes
    elements: tuple[tuple[int, Elements], ...] = ()

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return len(self.written) + sum(each.size_bytes for _, each in self.elements)


class Output(NamedTuple):
    """New tokens of a sample and the text that they complete; why it ended, told where there are several samples.

    Where a rule cut some of it, `computed` are the tokens that the model chose: it goes on behind them as long as this
    kernel lives. Nobody is shown them, and they are not kept.

    A tuple, since one is made for each task of each step: a frozen dataclass takes several times as long to make.
    """

    text: str
    token_ids: tuple[int, ...]
    sample: int = 0
    logprobs: Logprobs | None = None
    reason: FinishReason = FinishReason.UNSPECIFIED
    computed: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call of a function has asked of models: tasks that were run for it, and their tokens."""

    tasks: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


NOTHING_ASKED = Asked()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the task cost, and what its tenant used of quotas then.

    Times are in seconds, None when there was none; `version` is that of its model, 0 as in `TaskEnd`.
    """

    queue_s: float
    first_token_s: float | None
    run_s: float
    backend: str
    device: str
    worker_memory_bytes: int
    version: int = 0
    device_s: float | None = None
    quotas: tuple[QuotaUse, ...] = ()
    asked: Asked = NOTHING_ASKED


@dataclass(frozen=True, slots=True)
class Finished:
    """It ended."""

    outcome: Outcome
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Moderated:
    """A rule cut so many spans of the output of a sample, or ended it: `action` is "redact" or "stop".

    A task that ends for want of a classifier's answer has none.
    """

    rule: str
    action: str
    spans: int
    sample: int = 0


TaskOutput = PromptOutput | EmbeddingOutput | TensorOutput | Output
"""What a task gives."""

TaskEvent = Queued | Started | Suspended | Resumed | Progress | Moderated | TaskOutput | Finished
