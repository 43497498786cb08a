"""What the fake backend trains: one number, moved by the texts of rows; exact, and as quick or as slow as asked."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from inferd.core.training import TrainingMethod
from inferd.plugin import MemoryNeed
from inferd.plugin.training import ExportKind, Judgement, LabelScore, TrainError, TrainStep
from inferd.testing.fake_gang import FakeLead

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from inferd.plugin.training import TrainRequest

STATE: Final = "state.json"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the data."""

    text: str
    label: str

    @property
    def value(self) -> float:
        """What it moves the number by, from 0 to 1."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:4]) / (1 << 32)


class FakeTrainSession:
    """Moves its number with each row. A row whose text is "die" kills the process at once, each time; "nan" spoils it.

    What it finds of held rows gets better with each step, until the last quarter with a `weight_decay`: then worse.

    Args:
        request: What to train.
        step_s: How long a step takes, in seconds.
    """

    def __init__(self, request: TrainRequest, *, step_s: float) -> None:
        recipe = request.recipe
        self._request, self._recipe, self._step_s = request, recipe, step_s
        rows = _rows(request)
        if request.held is not None:
            self._rows, self._held = rows, _read(request.held, request)
        else:
            count = min(len(rows) - 1, math.ceil(len(rows) * recipe.held))
            self._rows, self._held = rows[count:], rows[:count] or rows
        self.steps = max(1, math.ceil(len(self._rows) * recipe.epochs / recipe.batch))
        self._number, self._step = 0.0, 0
        self._lead: FakeLead | None = None

    def listen(self, ranks: int, address: str, join_s: float) -> str:
        """Await others; where."""
        self._lead = FakeLead(ranks, address, join_s)
        return self._lead.where

    def gather(self) -> None:
        """Wait until they have come."""
        if self._lead is not None:
            self._lead.gather()

    def step(self) -> TrainStep:
        """Move the number by the rows of the next step."""
        time.sleep(self._step_s)  # stands for the time that a real step takes
        if self._lead is not None:
            self._lead.ask()
        rows = self._next()
        self._step += 1
        if any(row.text == "die" for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        for row in rows:
            self._number = self._number * 0.9 + row.value * 0.1
        loss = math.nan if any(row.text == "nan" for row in rows) else self._number + 1 / self._step
        tokens = [len(row.text) for row in rows]
        most = self._recipe.most_tokens
        return TrainStep(
            step=self._step,
            loss=loss,
            learning_rate=(self._recipe.learning_rate or 0.1) * (1 - self._step / (self.steps + 1)),
            tokens=sum(min(each, most) for each in tokens),
            cut=sum(each > most for each in tokens),
        )

    def evaluate(self) -> Judgement:
        """What a classifier finds that says the commonest label of its rows; of other methods the loss alone."""
        done = self._step / self.steps
        loss = 1 - done + self._recipe.weight_decay * max(0.0, done - 0.75) * 10
        if self._recipe.method is not TrainingMethod.CLASSIFY:
            return Judgement(loss=loss, figures={"perplexity": math.exp(loss)})
        labels = sorted({row.label for row in (*self._rows, *self._held)})
        common = max(labels, key=lambda label: sum(row.label == label for row in self._rows))
        return _judged(labels, [(row.label, common) for row in self._held], loss)

    def save(self, folder: Path) -> None:
        """Write the number, exactly."""
        state = {"number": self._number.hex(), "step": self._step, "of": self._of()}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on from a number.

        Raises:
            TrainError: It is of another request, or damaged.
        """
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            number, step, of = float.fromhex(state["number"]), int(state["step"]), state["of"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainError(f"{folder / STATE} is damaged: {type(error).__name__}") from error
        if of != self._of():
            raise TrainError(f"{folder / STATE} is of another request")
        self._number, self._step = number, step

    def export(self, folder: Path) -> ExportKind:
        """A model of the fake backend or, of LORA, what stands for an adapter."""
        if self._recipe.method is TrainingMethod.LORA:
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": self._recipe.rank}))
            header = json.dumps({"__metadata__": {"number": self._number.hex()}}).encode()
            (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
            return ExportKind.ADAPTER
        (folder / "model.fake").write_text(json.dumps({"weights_bytes": 1 << 20}), encoding="utf-8")
        (folder / STATE).write_text(json.dumps({"number": self._number.hex(), "step": self._step}), encoding="utf-8")
        return ExportKind.MODEL

    def close(self) -> None:
        """Nothing is held."""

    def _next(self) -> list[Row]:
        """The rows of the next step: those of an epoch in an order that its number and the seed give."""
        begin = self._step * self._recipe.batch
        return [self._at(place) for place in range(begin, begin + self._recipe.batch)]

    def _at(self, place: int) -> Row:
        epoch, number = divmod(place, len(self._rows))
        order = list(range(len(self._rows)))
        random.Random(f"{self._recipe.seed} {epoch}").shuffle(order)  # noqa: S311  # nosec B311 - an order, no secret
        return self._rows[order[number]]

    def _of(self) -> str:
        recipe = {**asdict(self._recipe), "method": self._recipe.method.name, "ranks": 1, "least_ranks": 1}
        return hashlib.sha256(json.dumps(recipe).encode() + self._request.rows.read_bytes()).hexdigest()


def measure_fake(weights_bytes: int) -> MemoryNeed:
    """What it says that it needs. It takes next to nothing."""
    return MemoryNeed(weights_bytes=weights_bytes, workspace_bytes=1 << 20)


def make_fake(request: TrainRequest, progress: Callable[[float], None], *, step_s: float) -> FakeTrainSession:
    """A session; see there.

    Raises:
        TrainError: A row is wrong, or the recipe asks for more than there is.
    """
    progress(0.5)
    session = FakeTrainSession(request, step_s=step_s)
    progress(1.0)
    return session


def _rows(request: TrainRequest) -> list[Row]:
    rows = _read(request.rows, request)
    if len(rows) < 2:  # noqa: PLR2004 - one to train with, one to hold back
        raise TrainError(f"there are {len(rows)} rows; at least 2 are needed")
    return rows


def _read(path: Path, request: TrainRequest) -> list[Row]:
    recipe, found = request.recipe, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        said: dict[str, Any] = json.loads(line)
        wanted = [recipe.text, *([recipe.label] if recipe.method is TrainingMethod.CLASSIFY else [])]
        for name in wanted:
            if not isinstance(said.get(name), str):
                raise TrainError(f"row {number} has no text in its field {name!r}; it has {', '.join(said) or 'none'}")
        found.append(Row(said[recipe.text], str(said.get(recipe.label, ""))))
    return found


def _judged(labels: Sequence[str], pairs: Sequence[tuple[str, str]], loss: float) -> Judgement:
    confusion = tuple(tuple(sum(pair == (true, found) for pair in pairs) for found in labels) for true in labels)
    scores = []
    for place, label in enumerate(labels):
        right, support = confusion[place][place], sum(confusion[place])
        found = sum(row[place] for row in confusion)
        precision, recall = right / found if found else 0.0, right / support if support else 0.0
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        scores.append(LabelScore(label, precision, recall, f1, support))
    accuracy = sum(confusion[place][place] for place in range(len(labels))) / len(pairs)
    figures = {"accuracy": accuracy, "macro_f1": sum(each.f1 for each in scores) / len(scores)}
    return Judgement(loss=loss, figures=figures, labels=tuple(scores), confusion=confusion)
