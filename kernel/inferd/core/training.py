"""Trainings: a model made from data, step by step, and where one stands; what a recipe may say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from inferd.core.lifecycle import Table


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
