"""A training of a classifier, step by step."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import (
    ExportKind,
    Judgement,
    MemoryNeed,
    TrainError,
    TrainingRecipe,
    TrainRequest,
    TrainStep,
    judge_labels,
)
from inferd_heads.checkpoints import identify, restore_state, save_state
from inferd_heads.columns import Columns, most_columns
from inferd_heads.hashing import BITS, MOST_CHARACTERS
from inferd_heads.head import SCHEDULES, Head, judge_rows, learning_rate
from inferd_heads.model_folder import About, Classifier, write_model
from inferd_heads.source import Source, kept_bytes
from inferd_heads.sparse import MOST_PRODUCTS, Row
from inferd_heads.table import Table, read_table, split

JUDGED: Final = 64
"""Rows that are judged at once."""
LIBRARY_BYTES: Final = 48 << 20
"""Numpy, the code, and what is computed with a text: measured, with a margin."""
ROW_BYTES: Final = 64
"""Where a row lies, its label and its place in an epoch's order."""
CHANCE_BYTES: Final = 40
"""Of a row and a label while slopes are computed: scores, powers, chances, and their shares."""
MOST_BATCH: Final = 65536

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of a request, looked through.

    Attributes:
        rows: All of its file.
        held: Those of a file of their own that are held back; None where some of `rows` are.
        trained: Places in `rows` of those that are trained on.
        judged: Places, in `held` or in `rows`, of those that are held back.
    """

    rows: Table
    held: Table | None
    trained: Places
    judged: Places


def examine(request: TrainRequest) -> Parts:
    """Look through the rows of a request.

    Raises:
        TrainError: The recipe or a row is wrong.
    """
    _check(request)
    recipe = request.recipe
    rows = read_table(request.rows, recipe, name="the rows")
    if request.held is None:
        return Parts(rows, None, *split(rows, recipe.held, recipe.seed))
    held = read_table(request.held, recipe, name="the rows that are held back", known=rows)
    return Parts(rows, held, np.arange(len(rows)), np.arange(len(held)))


def _check(request: TrainRequest) -> None:
    recipe = request.recipe
    if request.path is not None:
        raise TrainError(
            f"a classifier of the backend heads begins with no model, but {request.path.name!r} is given: leave it out;"
            " to train on its embeddings, have it make them first and give rows of vectors"
        )
    if recipe.tune:
        raise TrainError(
            f"tune is {recipe.tune!r}, which says what of a network is trained; the backend heads has none: leave it"
            " out, or name a model that the backend torch trains"
        )
    if recipe.precision not in {"", "float32"}:
        raise TrainError(f"precision is {recipe.precision!r}; the backend heads computes in float32")
    if recipe.schedule not in SCHEDULES:
        raise TrainError(f"schedule is {recipe.schedule!r}; it must be one of {', '.join(SCHEDULES)}")
    _between("batch", recipe.batch, 1, MOST_BATCH)
    _between("accumulate", recipe.accumulate, 1, recipe.batch)
    _between("most_tokens", recipe.most_tokens, 1, 1 << 24)
    _between("epochs", recipe.epochs, 0, 1 << 16, above=True)
    _between("warmup", recipe.warmup, 0, 1)
    for name in ("learning_rate", "weight_decay", "clip"):
        _between(name, getattr(recipe, name), 0, math.inf)
    if request.held is None:
        _between("held", recipe.held, 0, 1, above=True)


def _between(name: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    if not (least < value if above else least <= value) or not value <= most or value == math.inf:
        raise TrainError(f"{name} is {value:g}; it must be {'more than' if above else 'from'} {least:g} to {most:g}")


def measure(request: TrainRequest) -> MemoryNeed:
    """What a training takes at most.

    Raises:
        TrainError: As `examine`.
    """
    parts = examine(request)
    labels = len(parts.rows.names)
    columns = parts.rows.width or most_columns(labels)
    weights = columns * labels * 4
    tables = [table for table in (parts.rows, parts.held) if table is not None]
    step = min(columns, request.recipe.batch * (parts.rows.width or MOST_CHARACTERS)) * labels * 4
    part = -(-request.recipe.batch // request.recipe.accumulate)  # rows that are computed at once
    return MemoryNeed(
        weights_bytes=3 * weights + columns * 8,
        workspace_bytes=LIBRARY_BYTES
        + (0 if parts.rows.width else 4 << BITS)
        + sum(kept_bytes(table) + len(table) * ROW_BYTES for table in tables)
        + 2 * step
        + part * labels * CHANCE_BYTES
        + 8 * MOST_PRODUCTS,
    )


class ClassifierTraining:
    """One training of a classifier in this process.

    Args:
        request: What to train.
        progress: Called with rising fractions while the rows are looked through.

    Raises:
        TrainError: The recipe or a row is wrong.
    """

    def __init__(self, request: TrainRequest, progress: Callable[[float], None]) -> None:
        self._recipe: TrainingRecipe = request.recipe
        progress(0.0)
        self._parts = parts = examine(request)
        self._names = parts.rows.names
        self._training = identify(self._recipe, parts.rows, parts.held)
        self._source = Source(parts.rows, self._recipe, None)
        self._held: Source | None = None
        try:
            advance = _Progress(len(parts.trained) + len(parts.judged), progress)
            self._columns: Columns | None = self._source.learn(parts.trained.tolist(), len(self._names), advance)
            if parts.held is not None:
                self._held = Source(parts.held, self._recipe, self._columns)
            for place in parts.judged.tolist():  # what is wrong in one is told now, and not at the first evaluation
                (self._held or self._source).read(place)
                advance()
        except BaseException:
            self.close()
            raise
        self._head = Head(self._source.width, len(self._names))
        self._step = 0
        self._epoch, self._order = -1, parts.trained
        self.steps = max(1, math.ceil(len(parts.trained) * self._recipe.epochs / self._recipe.batch))
        progress(1.0)

    def step(self) -> TrainStep:
        """Do the next step.

        Raises:
            TrainError: The loss is no finite number, or there is no step left.
        """
        if self._step == self.steps:
            raise TrainError(f"all {self.steps} steps are done")
        number = self._step + 1
        rate = learning_rate(self._recipe, number, self.steps)
        parts = []
        words = cut = 0
        for places in np.array_split(self._places(self._step), self._recipe.accumulate):
            if len(places):
                rows = [self._source.read(place) for place in places.tolist()]
                parts.append((rows, self._parts.rows.labels[places]))
                words += sum(row.words for row in rows)
                cut += sum(row.cut > 0 for row in rows)
        loss = self._head.step(parts, rate=rate, recipe=self._recipe, step=number)
        self._step = number
        return TrainStep(step=number, loss=loss, learning_rate=rate, tokens=words, cut=cut)

    def _places(self, step: int) -> Places:
        """The rows of a step, from 0: epochs follow each other without a gap, each in an order of its own."""
        total = math.ceil(len(self._parts.trained) * self._recipe.epochs)
        count = len(self._parts.trained)
        begin, found = step * self._recipe.batch, []
        end = min(begin + self._recipe.batch, max(total, begin + 1))
        while begin < end:
            epoch, at = divmod(begin, count)
            some = self._ordered(epoch)[at : at + end - begin]
            found.append(some)
            begin += len(some)
        return np.concatenate(found)

    def _ordered(self, epoch: int) -> Places:
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self._recipe.seed, 2, epoch]))
            self._epoch, self._order = epoch, self._parts.trained[generator.permutation(len(self._parts.trained))]
        return self._order

    def evaluate(self) -> Judgement:
        """Judge the rows that are held back.

        Raises:
            TrainError: The loss is no finite number.
        """
        source = self._held or self._source
        labels = source.table.labels[self._parts.judged]
        loss, found = 0.0, []
        for some, true in self._judged(source, labels):
            with np.errstate(all="ignore"):
                chances, losses = judge_rows(self._head.score(some), true)
            loss += losses
            found.append(chances.argmax(1))
        if not math.isfinite(loss):
            raise TrainError(f"the loss of the rows that are held back is {loss:g} after step {self._step}")
        return judge_labels(self._names, labels.tolist(), np.concatenate(found).tolist(), loss / len(labels))

    def _judged(self, source: Source, labels: NDArray[np.int32]) -> Iterator[tuple[Sequence[Row], NDArray[np.int32]]]:
        places = self._parts.judged.tolist()
        for at in range(0, len(places), JUDGED):
            yield [source.read(place) for place in places[at : at + JUDGED]], labels[at : at + JUDGED]

    def save(self, folder: Path) -> None:
        """Write a checkpoint into an empty folder."""
        save_state(folder, self._head, step=self._step, training=self._training)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            TrainError: It is of another training, or damaged; the session is as it was.
        """
        self._step = restore_state(folder, self._head, training=self._training, steps=self.steps)

    def export(self, folder: Path) -> ExportKind:
        """Write the classifier into an empty folder: the backend heads serves it."""
        about = About(labels=self._names, most_words=self._recipe.most_tokens if self._columns else 0)
        model = Classifier(about=about, columns=self._columns, weights=self._head.weights, bias=self._head.bias)
        write_model(folder, model)
        return ExportKind.MODEL

    def close(self) -> None:
        """Let go of the files."""
        for source in (self._source, self._held):
            if source is not None:
                source.close()


class _Progress:
    """Tells every hundredth part of so many rows."""

    def __init__(self, rows: int, progress: Callable[[float], None]) -> None:
        self._rows, self._progress, self._done = rows, progress, 0

    def __call__(self) -> None:
        self._done += 1
        if self._done % max(1, self._rows // 100) == 0:
            self._progress(min(0.99, self._done / self._rows))
