"""Training: what a backend that makes models of data computes. The engine supplies cadence, checkpoints and early ends.

The engine calls a session from one thread: `step` until there is none left, `evaluate` when the recipe says so, `save`
now and then and when others need the room, `export` at the end. A session that is made anew and given what `save` wrote
goes on exactly as the one before would have: the same rows in the same order, the same generators, on the processor the
same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.core.resources import MemoryNeed
    from inferd.core.training import TrainingRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What to train.

    Attributes:
        path: File or folder of the model that it begins with; None for methods that begin with none.
        rows: A file of JSON Lines, one object each, with the fields that the recipe names. It does not change.
            Empty for `GatheringBackend.follow`: who leads gives the rows.
        held: The same, of rows that are kept for evaluation; None where the recipe's share of `rows` is.
        recipe: How.
        device: One of the probed devices.
        capacity_bytes: What may be used of the device's memory at all.
        cores: Cores of the processor on which it is to compute; 0 for all that this process has.
    """

    path: Path | None
    rows: Path
    held: Path | None
    recipe: TrainingRecipe
    device: str
    capacity_bytes: int
    cores: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """What a step did.

    Attributes:
        step: Its number, from 1.
        loss: Mean of its rows, or of their tokens.
        learning_rate: That it was done with.
        tokens: That it read.
        cut: Rows of it that were longer than `TrainingRecipe.most_tokens`.
    """

    step: int
    loss: float
    learning_rate: float
    tokens: int
    cut: int = 0


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well a label is found among rows that were held back."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an evaluation found.

    Attributes:
        loss: On rows that were held back.
        figures: Others by name, for example "accuracy", "macro_f1".
        labels: Of a classifier, by label.
        confusion: Of a classifier: rows are true labels, columns found ones, both in the order of `labels`.
    """

    loss: float
    figures: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[LabelScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


class ExportKind(Enum):
    """What `TrainSession.export` wrote."""

    MODEL = "model"
    """A model that a backend loads: a folder of it."""
    ADAPTER = "adapter"
    """An adapter as peft writes it, for the model that the training began with."""


class TrainSession(Protocol):
    """One training in this process. `steps` is how many steps it has in all, known once it is made."""

    steps: int

    def step(self) -> TrainStep:
        """Do the next step.

        Raises:
            TrainError: The loss is no finite number, or a row is wrong.
        """
        ...

    def evaluate(self) -> Judgement:
        """Judge what is trained so far by the rows that are held back; nothing that is trained changes."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that a session needs to go on from here into an empty folder: safetensors and JSON, no pickle."""
        ...

    def restore(self, folder: Path) -> None:
        """Go on from what `save` of a session for the same request wrote.

        Raises:
            TrainError: It is of another request, or damaged.
        """
        ...

    def export(self, folder: Path) -> ExportKind:
        """Write what was trained into an empty folder, ready to be served."""
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


class LeadingSession(TrainSession, Protocol):
    """A training in this process whose steps others help with: of a `GatheringBackend`.

    All that is trained, saved and told is here; the others compute gradients of rows that they are given, with weights
    that they are given. A step that a lost worker spoils raises a `RankLostError` and has changed nothing.
    """

    def listen(self, ranks: int, address: str, join_s: float) -> str:
        """Await so many workers, this one among them; where, for `TrainFollower.follow`.

        Args:
            ranks: At least 2.
            address: Of this machine, at which they reach it.
            join_s: In which they come.

        Raises:
            TrainError: This machine has no such address.
        """
        ...

    def gather(self) -> None:
        """Wait until all have come, and give them what is trained. Once, before the first step.

        Raises:
            RankLostError: One did not come.
        """
        ...


class TrainFollower(Protocol):
    """What one of the other workers has of a training."""

    def follow(self, rank: int, ranks: int, meeting: str, join_s: float) -> None:
        """Compute what the one that leads asks for, until that ends it.

        Args:
            rank: Which this one is, from 1.
            ranks: How many there are.
            meeting: What `LeadingSession.listen` gave.
            join_s: In which all come.

        Raises:
            RankLostError: Another one is lost.
            TrainError: It cannot compute what it was given.
        """
        ...

    def close(self) -> None:
        """Give all memory back."""
        ...


class TrainError(Exception):
    """A training cannot be made, or cannot go on. The message names the cause, the field or row, and both numbers."""


@runtime_checkable
class TrainingBackend(Protocol):
    """What a backend's class offers, besides `Backend`, where its spec says what it `trains`."""

    def measure_training(self, request: TrainRequest) -> MemoryNeed:
        """What `train` with the same request will take at most, its steps included, without taking it.

        Raises:
            TrainError: As `train`, as far as metadata tells.
        """
        ...

    def train(self, request: TrainRequest, progress: Callable[[float], None]) -> TrainSession:
        """Make a session; `progress` is called with rising fractions from 0 to 1.

        Raises:
            TrainError: The recipe, the model or the rows do not permit it.
        """
        ...


@runtime_checkable
class GatheringBackend(Protocol):
    """What a backend's class offers besides, where its spec says what it `trains_together`: its sessions lead."""

    def follow(self, request: TrainRequest, progress: Callable[[float], None]) -> TrainFollower:
        """Make one of the other workers; `measure_training` with the same request tells what it takes at most.

        Raises:
            TrainError: As `TrainingBackend.train`.
        """
        ...
