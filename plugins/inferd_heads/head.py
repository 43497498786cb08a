"""A logistic head, and how a step changes it: AdamW, whose moments move where the step's rows have something.

Loshchilov and Hutter, Decoupled weight decay regularization (2019). A weight whose column no row of a step has stays
as it is in that step, as in `SparseAdam` of torch: so a step costs what its rows do, and not what all columns do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import TrainError, TrainingRecipe
from inferd_heads.sparse import Floats, Row, Rows, gradients, multiply

RATE: Final = 0.05
"""Learning rate, where the recipe says none: on texts TF-IDF has short vectors, and one pass is to be enough."""
MEAN, SPREAD, LEAST = 0.9, 0.999, 1e-8
SCHEDULES: Final = ("cosine", "linear", "constant")
CHUNK: Final = 1 << 15
"""Columns that are changed at once."""


class Head:
    """Weights [columns, labels] and a bias [labels], with the moments of both. All zero at first.

    Args:
        columns: How many.
        labels: How many.
    """

    def __init__(self, columns: int, labels: int) -> None:
        self.weights, self._means, self._spreads = (np.zeros((columns, labels), np.float32) for _ in range(3))
        self.bias, self._bias_means, self._bias_spreads = (np.zeros(labels, np.float32) for _ in range(3))

    def score(self, rows: Sequence[Row]) -> Floats:
        """The logits of rows, [rows, labels]."""
        return multiply(rows, self.weights, self.bias)

    def step(
        self,
        parts: Sequence[tuple[Sequence[Row], NDArray[np.int32]]],
        *,
        rate: float,
        recipe: TrainingRecipe,
        step: int,
    ) -> float:
        """Change the weights by rows and their labels, which come in parts; the mean loss before that.

        Raises:
            TrainError: The loss, or the gradient, is no finite number; nothing is changed.
        """
        count = sum(len(rows) for rows, _ in parts)
        with np.errstate(all="ignore"):
            loss, columns, slopes, bias = self._differentiate(parts, count)
            length = math.sqrt(float(np.sum(np.square(slopes, dtype=np.float64)) + np.sum(np.square(bias))))
        if not math.isfinite(loss) or not math.isfinite(length):
            raise TrainError(
                f"step {step}: the loss is {loss:g} and the gradient has length {length:g}; with `learning_rate`"
                f" {recipe.learning_rate or RATE:g} training does not hold: lower it"
            )
        if recipe.clip and length > recipe.clip:
            slopes *= np.float32(recipe.clip / length)
            bias *= recipe.clip / length
        with np.errstate(over="ignore", invalid="ignore"):
            self._change(columns, slopes, bias.astype(np.float32), rate=rate, decay=recipe.weight_decay, step=step)
        return loss

    def _differentiate(
        self, parts: Sequence[tuple[Sequence[Row], NDArray[np.int32]]], count: int
    ) -> tuple[float, NDArray[np.intp], Floats, NDArray[np.float64]]:
        """The mean loss; the columns that the rows have, with their gradient; that of the bias."""
        loss, found = 0.0, []
        bias = np.zeros(len(self.bias))
        for rows, labels in parts:
            chances, losses = judge_rows(self.score(rows), labels)
            loss += losses / count
            chances[np.arange(len(rows)), labels] -= 1
            bias += chances.sum(0) / count
            found.append(gradients(Rows.join(rows), (chances / count).astype(np.float32)))
        if len(found) == 1:
            return loss, *found[0], bias
        columns, places = np.unique(np.concatenate([each for each, _ in found]), return_inverse=True)
        slopes = np.zeros((len(columns), len(self.bias)), np.float32)
        begin = 0
        for each, slope in found:
            slopes[places[begin : begin + len(each)]] += slope  # a part has each column once
            begin += len(each)
        return loss, columns, slopes, bias

    def _change(
        self, columns: NDArray[np.intp], slopes: Floats, bias: Floats, *, rate: float, decay: float, step: int
    ) -> None:
        for at in range(0, len(columns), CHUNK):
            some, slope = columns[at : at + CHUNK], slopes[at : at + CHUNK]
            means, spreads = self._means[some], self._spreads[some]
            moved = _move(means, spreads, slope, rate, step)
            self._means[some], self._spreads[some] = means, spreads
            self.weights[some] = self.weights[some] * np.float32(1 - rate * decay) - moved
        self.bias -= _move(self._bias_means, self._bias_spreads, bias, rate, step)

    def tensors(self) -> dict[str, Floats]:
        """All that a step changes, by name."""
        return {
            "weights": self.weights,
            "means": self._means,
            "spreads": self._spreads,
            "bias": self.bias,
            "bias_means": self._bias_means,
            "bias_spreads": self._bias_spreads,
        }

    def fill(self, tensors: Mapping[str, Floats]) -> None:
        """Take what `tensors` gave; shapes are those."""
        for name, mine in self.tensors().items():
            mine[...] = tensors[name]


def _move(means: Floats, spreads: Floats, slopes: Floats, rate: float, step: int) -> Floats:
    """Move both moments, in place; by how much the weights go down."""
    means *= np.float32(MEAN)
    means += np.float32(1 - MEAN) * slopes
    spreads *= np.float32(SPREAD)
    spreads += np.float32(1 - SPREAD) * np.square(slopes)
    scale = np.sqrt(spreads * np.float32(1 / (1 - SPREAD**step))) + np.float32(LEAST)
    moved: Floats = means * np.float32(rate / (1 - MEAN**step)) / scale
    return moved


def judge_rows(logits: Floats, labels: NDArray[np.int32]) -> tuple[NDArray[np.float64], float]:
    """The probabilities of rows, [rows, labels], and the sum of their losses."""
    low = logits.astype(np.float64)
    low -= low.max(1, keepdims=True)
    powers = np.exp(low)
    sums = powers.sum(1, keepdims=True)
    losses = np.log(sums[:, 0]) - low[np.arange(len(low)), labels]
    return powers / sums, float(losses.sum())


def learning_rate(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """That of a step, from 1, of so many."""
    highest = recipe.learning_rate or RATE
    warm = math.ceil(recipe.warmup * steps) if recipe.warmup else 0
    if step <= warm:
        return highest * step / warm
    done = (step - 1 - warm) / max(1, steps - warm)
    match recipe.schedule:
        case "cosine":
            return highest * (1 + math.cos(math.pi * done)) / 2
        case "linear":
            return highest * (1 - done)
    return highest
