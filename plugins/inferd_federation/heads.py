"""A classifier of texts that clients can train together: logistic regression over hashed words, weighted by TF-IDF.

Words are hashed, so that no client tells which ones it has; how many texts have a word is summed over all clients
before the first round (the statistics), masked like updates. The same data, weights and seed give the same numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Weights = NDArray[np.float32]

WORD: Final = re.compile(r"\w\w+")
MOST_BUCKETS: Final = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How heads are trained.

    Attributes:
        labels: Of the classifier, in the order of its outputs.
        buckets: Into which words are hashed.
        epochs: Times that a client sees its rows in a round.
        batch: Rows of a step.
        learning_rate: Of plain gradient descent; rows have the length 1, so that it is well above 1.
        penalty: Strength of the penalty on the squares of the weights.
        text, label: Fields of a row.
        seed: Of the order of rows.
    """

    labels: tuple[str, ...]
    buckets: int = 4096
    epochs: int = 2
    batch: int = 16
    learning_rate: float = 4.0
    penalty: float = 1e-4
    text: str = "text"
    label: str = "label"
    seed: int = 0

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Recipe:
        """A recipe of what JSON says.

        Raises:
            ValueError: A value is wrong, or unknown.
        """
        try:
            made = cls(**{**said, "labels": tuple(map(str, said["labels"]))})
            right = (
                2 <= len({*made.labels}) == len(made.labels) <= 4096  # noqa: PLR2004 - bounds of this line
                and 16 <= made.buckets <= MOST_BUCKETS  # noqa: PLR2004 - likewise
                and 1 <= made.epochs <= 1000  # noqa: PLR2004 - likewise
                and 1 <= made.batch <= 65536  # noqa: PLR2004 - likewise
                and 0 < made.learning_rate < math.inf
                and 0 <= made.penalty < math.inf
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"the recipe of heads is wrong: {error}") from None
        if not right:
            raise ValueError(
                "the recipe of heads has a value outside what it may be: see inferd_federation.heads.Recipe"
            )
        return made

    @property
    def size(self) -> int:
        """Numbers of the weights: a row for each bucket and one for the bias, a column for each label."""
        return (self.buckets + 1) * len(self.labels)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as hashed words: of each the buckets that it has, how much it has of each, and the number of its label."""

    buckets: Sequence[NDArray[np.int64]]
    amounts: Sequence[NDArray[np.float32]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.buckets)


def statistics(rows: Sequence[Mapping[str, Any]], recipe: Recipe) -> NDArray[np.int64]:
    """How many rows have a word of each bucket, and how many there are."""
    counts = np.zeros(recipe.buckets + 1, np.int64)
    for each in rows:
        counts[sorted(_words(each, recipe))] += 1
    counts[-1] = len(rows)
    return counts


def prepare(rows: Sequence[Mapping[str, Any]], recipe: Recipe, counted: NDArray[np.int64] | None) -> Rows:
    """Rows as hashed words, weighted by how rare these are where that was counted.

    Raises:
        ValueError: A row has no such field, or a label that is none of the recipe's.
    """
    numbers = {label: number for number, label in enumerate(recipe.labels)}
    rarity = np.ones(recipe.buckets)
    if counted is not None:
        of = max(0, int(counted[-1]))  # whatever a coordinator tells, no logarithm is of nothing
        rarity = np.log((1 + of) / (1 + np.clip(counted[:-1], 0, of))) + 1
    buckets, amounts, labels = [], [], []
    for place, row in enumerate(rows, 1):
        if str(row.get(recipe.label)) not in numbers:
            known = ", ".join(recipe.labels)
            raise ValueError(f"row {place} has the label {str(row.get(recipe.label))[:80]!r}; labels are {known[:400]}")
        found = _words(row, recipe, place)
        where = np.array(sorted(found), np.int64)
        much = (1 + np.log(np.array([found[each] for each in where], np.float64))) * rarity[where]
        length = float(np.linalg.norm(much)) or 1.0
        buckets.append(where)
        amounts.append((much / length).astype(np.float32))
        labels.append(numbers[str(row[recipe.label])])
    return Rows(buckets, amounts, np.array(labels, np.int64))


def _words(row: Mapping[str, Any], recipe: Recipe, place: int = 0) -> Counter[int]:
    text = row.get(recipe.text)
    if not isinstance(text, str):
        raise ValueError(f"row {place} has no text in its field {recipe.text!r}")  # noqa: TRY004 - data that came
    return Counter(crc32(word.encode()) % recipe.buckets for word in WORD.findall(text.lower()))


def train(
    weights: Weights, rows: Rows, recipe: Recipe, *, proximal: float = 0.0, turn: int = 0
) -> tuple[Weights, float]:
    """New weights, and the mean loss of the last epoch.

    Args:
        weights: To begin with, of `recipe.size` numbers.
        rows: What is learned.
        recipe: How.
        proximal: FedProx's mu: how strongly weights are held near those that it began with.
        turn: Number of the round: it gives rows another order.
    """
    head = weights.reshape(recipe.buckets + 1, len(recipe.labels)).astype(np.float32)
    begin = head.copy()
    order = np.random.default_rng((recipe.seed, turn))
    mean = 0.0
    for _ in range(recipe.epochs):
        losses = 0.0
        for chosen in _batches(order.permutation(len(rows)), recipe.batch):
            inputs = _dense(rows, chosen, recipe.buckets)
            likely = _softmax(inputs @ head)
            where = np.arange(len(chosen)), rows.labels[chosen]
            losses -= float(np.log(np.maximum(likely[where], 1e-12)).sum())
            likely[where] -= 1
            gradient = inputs.T @ likely / len(chosen)
            gradient += np.float32(recipe.penalty) * head + np.float32(proximal) * (head - begin)
            head -= np.float32(recipe.learning_rate) * gradient
        mean = losses / max(1, len(rows))
    return head.reshape(-1), mean


def judge(weights: Weights, rows: Rows, recipe: Recipe) -> dict[str, float]:
    """Accuracy and macro-F1 of weights on rows."""
    head = weights.reshape(recipe.buckets + 1, len(recipe.labels))
    found = np.concatenate(
        [
            np.argmax(_dense(rows, chosen, recipe.buckets) @ head, axis=1)
            for chosen in _batches(np.arange(len(rows)), 256)
        ]
    )
    scores = []
    for label in range(len(recipe.labels)):
        hits = int(((found == label) & (rows.labels == label)).sum())
        both = int((found == label).sum() + (rows.labels == label).sum())
        if both:
            scores.append(2 * hits / both)
    return {"accuracy": float((found == rows.labels).mean()), "macro_f1": sum(scores) / len(scores)}


def _batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def _dense(rows: Rows, chosen: NDArray[np.int64], buckets: int) -> NDArray[np.float32]:
    inputs = np.zeros((len(chosen), buckets + 1), np.float32)
    for place, each in enumerate(chosen):
        inputs[place, rows.buckets[each]] = rows.amounts[each]
    inputs[:, -1] = 1
    return inputs


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    above = np.exp(scores - scores.max(axis=1, keepdims=True))
    likely: NDArray[np.float32] = above / above.sum(axis=1, keepdims=True)
    return likely
