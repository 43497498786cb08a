"""Trainings: a model made from data, step by step, and where one stands; what a recipe may say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from inferd.core.ids import ModelName
from inferd.core.priority import Priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.ids import Tenant
    from inferd.core.lifecycle import Table
    from inferd.errors import InferdError


class TrainingMethod(Enum):
    """What is trained; the values are those of `inferd.v1.TrainingMethod`."""

    CLASSIFY = 1
    """A classifier of texts: labels, accuracy, precision, recall, F1."""
    LORA = 2
    """An adapter beside the weights of a language model."""
    FULL = 3
    """All weights of a language model."""
    EMBED = 4
    """A model of embeddings, by pairs that belong together."""
    DISTIL = 5
    """A small language model that guesses what a large one writes."""


class TrainingState(Enum):
    """Where a training stands; the values are those of `inferd.v1.TrainingState`."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5


class TrainingChange(Enum):
    """What can happen to a training."""

    BEGIN = 1
    WAIT = 2
    SUCCEED = 3
    FAIL = 4
    CANCEL = 5


TRAINING_TABLE: Final[Table[TrainingState, TrainingChange]] = {
    TrainingState.QUEUED: {
        TrainingChange.BEGIN: TrainingState.RUNNING,
        TrainingChange.FAIL: TrainingState.FAILED,
        TrainingChange.CANCEL: TrainingState.CANCELLED,
    },
    TrainingState.RUNNING: {
        TrainingChange.WAIT: TrainingState.QUEUED,  # its worker went, or others have the room: on from its checkpoint
        TrainingChange.SUCCEED: TrainingState.SUCCEEDED,
        TrainingChange.FAIL: TrainingState.FAILED,
        TrainingChange.CANCEL: TrainingState.CANCELLED,
    },
    TrainingState.SUCCEEDED: {},
    TrainingState.FAILED: {},
    TrainingState.CANCELLED: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """How a model is trained; a file of TOML has the same names.

    Attributes:
        method: What is trained.
        epochs: Times that all rows are seen.
        batch: Rows of a step, of all its parts.
        accumulate: Parts that a step's rows are computed in, one after the other; their gradients are added.
        learning_rate: At its highest.
        schedule: How it falls after the warm-up: "cosine", "linear" or "constant".
        warmup: Share of the steps in which it rises from 0.
        weight_decay: Of AdamW, or the strength of the penalty on the weights of a head.
        clip: Longest gradient; longer ones are shortened. 0 for any.
        seed: Of the order of rows, of dropout and of new weights.
        most_tokens: Tokens of a row; what is longer is cut, and counted.
        text, label, pair: Fields of a row: its text (or its "messages"), its label, and for EMBED the text that belongs
            to it.
        held: Share of the rows that are kept for evaluation, where no rows of their own are given.
        evaluate_every: Steps between evaluations; 0 for one at the end of each epoch.
        patience: Evaluations without a better one that end it early; 0 for never.
        checkpoint_every: Steps between checkpoints; 0 for what the kernel has (`train.checkpoint_s`).
        rank, alpha, dropout: Of LoRA.
        targets: Names of the layers that LoRA is beside; empty for all linear ones of attention and of the networks.
        precision: "float32" or "bfloat16" of what is computed; "" for what the device does best.
        ranks: Workers among which the rows of each step are divided.
        least_ranks: Fewest of them with which it goes on; with fewer it waits.
        tune: What of a network CLASSIFY trains: "full", "lora" or "head"; "" for what the backend does.
        layers, width: Of the small model of DISTIL; 0 for an eighth of the layers, and for the width of the large one.
        keep: Which layers that has: "even", evenly spread, as "" does, or "needed", those that change most.
    """

    method: TrainingMethod
    epochs: float = 1.0
    batch: int = 16
    accumulate: int = 1
    learning_rate: float = 0.0  # 0 for the method's own
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    most_tokens: int = 512
    text: str = "text"
    label: str = "label"
    pair: str = "pair"
    held: float = 0.1
    evaluate_every: int = 0
    patience: int = 0
    checkpoint_every: int = 0
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    precision: str = ""
    ranks: int = 1
    least_ranks: int = 1
    tune: str = ""
    layers: int = 0
    width: int = 0
    keep: str = ""


MOST_RANKS: Final = 64
"""Workers of one training."""
LOADER: Final = "inferd.engine.training.backend:TrainingLoader"
"""What a worker loads for a training: no plugin, so that nobody makes such a model but the kernel."""
FOLLOWER: Final = "inferd.engine.training.following:FollowerLoader"
"""Likewise, for each worker of a training but the one that leads."""
BACKEND: Final = "training"
TRAINING: Final = "training@"
"""What names of models begin with that are trainings under way: no other model has such a name."""
ORDER: Final = "order.json"
"""In the folder of a training: what a worker is to train, see `Order`."""
ORDER_SETTING: Final = "order"
"""The setting of a follower that is what it trains, as `write_order` writes it: it has no folder."""
ROWS, HELD, RESULT, CARD = "rows.jsonl", "held.jsonl", "result", "card.md"
"""In the folder of a training: its data, what is held back, what came of it, and the card of that."""
MOST_CONFUSED: Final = 100
"""Labels of a classifier, of which more have no confusion matrix that is kept."""
MOST_JUDGEMENTS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is to train, as it stands in the folder of a training.

    Attributes:
        loader: Dotted path of the class of the backend that trains.
        base: Path of the model that it begins with; "" for none.
        recipe: How.
        cores: Cores of the processor on which it computes; 0 for what the worker is told.
        nice: By how much it gives way to other programs on the processor; see nice(2).
        is_held: Whether rows that are held back have a file of their own.
    """

    loader: str
    base: str
    recipe: TrainingRecipe
    cores: int = 0
    nice: int = 0
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What is to be trained, and how; see `inferd.v1.TrainingSpec`."""

    model: str
    recipe: TrainingRecipe
    name: str
    replace: bool = False
    priority: Priority = Priority.LOW
    backend: str = ""
    device: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A step, as the curve has it."""

    step: int
    loss: float
    learning_rate: float
    tokens: int


@dataclass(frozen=True, slots=True)
class LabelFound:
    """How well a label is found among rows that were held back."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What an evaluation found, after a step; see `inferd.v1.TrainingJudgement`."""

    step: int
    loss: float
    figures: Mapping[str, float]
    labels: tuple[LabelFound, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What came of a training; see `inferd.v1.TrainingResult`."""

    kind: str
    model: str
    path: str
    size_bytes: int
    digest: str
    adapter: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training as it stands. Times are Unix time in seconds, None where there is none yet.

    Attributes:
        training_id: Its id.
        tenant: Whose it is.
        spec: What it is of.
        loader: Dotted path of the class of the backend that trains, whose name is `backend`.
        devices: That it may use.
        base: Path of the model that it begins with; "" for none.
        lease_id: Under which it runs; "" for none.
        digest, rows: SHA-256 of its data, hexadecimal, and how many rows that has.
        held_digest, held_rows: Likewise, of rows that are held back in a file of their own.
        created, started, finished: When it was made, began, and ended.
        state: Where it stands.
        steps: In all; 0 before that is known.
        step, loss, learning_rate: The last step that was told.
        tokens, cut, computed_s: Of all steps until then: tokens read, rows cut, seconds.
        tokens_per_s: Over the last steps.
        checkpoint: The step of the last checkpoint.
        attempts: Workers that have done steps of it.
        waits_for: Why it waits.
        ranks: Workers that did its last steps together; 0 before the first.
        judgements: By step.
        ended_early: Whether it did.
        result: What came of it.
        card: Of that, JSON.
        error: Why it failed.
        request_id: Makes its creation idempotent; "" for not.
        fingerprint: Equal for two requests with the same contents, hexadecimal.
    """

    training_id: str
    tenant: Tenant
    spec: TrainingSpec
    backend: str
    loader: str
    devices: tuple[str, ...]
    base: str
    lease_id: str
    digest: str
    rows: int
    held_digest: str = ""
    held_rows: int = 0
    created: float
    started: float | None = None
    finished: float | None = None
    state: TrainingState = TrainingState.QUEUED
    steps: int = 0
    step: int = 0
    loss: float = 0.0
    learning_rate: float = 0.0
    tokens: int = 0
    cut: int = 0
    computed_s: float = 0.0
    tokens_per_s: float = 0.0
    checkpoint: int = 0
    attempts: int = 0
    waits_for: str = ""
    ranks: int = 0
    judgements: tuple[Judged, ...] = ()
    ended_early: bool = False
    result: TrainingResult | None = None
    card: str = ""
    error: InferdError | None = None
    request_id: str = ""
    fingerprint: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return not TRAINING_TABLE[self.state]

    @property
    def model(self) -> ModelName:
        """Its name in the place of a model's, while a worker has it."""
        return ModelName(TRAINING + self.training_id)

    def model_of(self, place: int) -> ModelName:
        """Likewise, of one of several workers; 0 is the one that leads."""
        return ModelName(f"{self.model}.{place}") if place else self.model

    @property
    def left_s(self) -> float:
        """Seconds that what is left will take, if it goes on as now; 0 where that is not known."""
        return self.computed_s / self.step * (self.steps - self.step) if self.step and not self.ended else 0.0


def write_order(order: Order) -> bytes:
    """An order, as JSON."""
    return json.dumps(asdict(order) | {"recipe": plain_recipe(order.recipe)}).encode()


def read_order(written: bytes) -> Order:
    """What was written.

    Raises:
        ValueError, KeyError, TypeError: It is no order.
    """
    said = json.loads(written)
    return Order(**{**said, "recipe": read_recipe(said["recipe"])})


def plain_recipe(recipe: TrainingRecipe) -> dict[str, Any]:
    """A recipe, as JSON and TOML have it."""
    return {**asdict(recipe), "method": recipe.method.name.lower(), "targets": list(recipe.targets)}


def read_recipe(said: Mapping[str, Any]) -> TrainingRecipe:
    """What was made plain.

    Raises:
        KeyError, TypeError: It is no recipe.
    """
    return TrainingRecipe(
        **{**said, "method": TrainingMethod[said["method"].upper()], "targets": tuple(said["targets"])}
    )
