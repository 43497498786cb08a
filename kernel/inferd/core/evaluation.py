"""Evaluations: how good a model is at a task, line by line of its data, and where one stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from inferd.core.priority import Priority

if TYPE_CHECKING:
    from inferd.core.dataset import Source
    from inferd.core.ids import ModelName, Tenant
    from inferd.core.lifecycle import Table
    from inferd.errors import InferdError

FAILED_AT_FIRST: Final = 20
"""So many lines that fail, and none that is answered, end an evaluation: the rest would fail alike."""


class EvaluationKind(Enum):
    """What is measured; the values are those of `inferd.v1.EvaluationKind`."""

    CHOICE = 1
    GENERATION = 2
    CLASSIFICATION = 3
    CODE = 4
    JUDGE = 5


class EvaluationState(Enum):
    """Where an evaluation stands; the values are those of `inferd.v1.EvaluationState`."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5


class EvaluationChange(Enum):
    """What can happen to an evaluation."""

    BEGIN = 1
    SUCCEED = 2
    FAIL = 3
    CANCEL = 4


EVALUATION_TABLE: Table[EvaluationState, EvaluationChange] = {
    EvaluationState.QUEUED: {
        EvaluationChange.BEGIN: EvaluationState.RUNNING,
        EvaluationChange.FAIL: EvaluationState.FAILED,
        EvaluationChange.CANCEL: EvaluationState.CANCELLED,
    },
    EvaluationState.RUNNING: {
        EvaluationChange.SUCCEED: EvaluationState.SUCCEEDED,
        EvaluationChange.FAIL: EvaluationState.FAILED,
        EvaluationChange.CANCEL: EvaluationState.CANCELLED,
    },
    EvaluationState.SUCCEEDED: {},
    EvaluationState.FAILED: {},
    EvaluationState.CANCELLED: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSpec:
    """What is to be evaluated, and how; see `inferd.v1.EvaluationSpec`."""

    model: ModelName
    kind: EvaluationKind
    labels: tuple[str, ...] = ()
    judge: str = ""
    rubric: str = field(default="", repr=False)
    chat: bool = False
    most_tokens: int = 256
    ends: tuple[str, ...] = ()
    separator: str = " "
    priority: Priority = Priority.LOW
    title: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """What was found, and from where to where it may be."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How well a label is found."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation as it stands. Times are Unix time in seconds, None where there is none yet.

    Attributes:
        evaluation_id: Its id.
        tenant: Whose it is.
        spec: What it is of.
        digest: SHA-256 of the data, hexadecimal.
        lines: Of the data.
        created, started, finished: When it was made, began, and ended.
        state: Where it stands.
        done: Lines that have been answered, those that failed too.
        failed: Lines whose task failed.
        versions: Of the model, that have answered.
        figures: What was found.
        labels: The same of each label.
        prompt_tokens, output_tokens: Of all its tasks.
        error: Why it failed.
        notes: What there is to say of the figures.
        request_id: Makes its creation idempotent; "" for not.
        fingerprint: Equal for two requests with the same contents, hexadecimal.
        dataset: From which dataset the data was read; None for none.
    """

    evaluation_id: str
    tenant: Tenant
    spec: EvaluationSpec
    digest: str
    lines: int
    created: float
    started: float | None = None
    finished: float | None = None
    state: EvaluationState = EvaluationState.QUEUED
    done: int = 0
    failed: int = 0
    versions: tuple[int, ...] = ()
    figures: tuple[Figure, ...] = ()
    labels: tuple[LabelFigures, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: InferdError | None = None
    notes: tuple[str, ...] = ()
    request_id: str = ""
    fingerprint: str = ""
    dataset: Source | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return not EVALUATION_TABLE[self.state]
