"""How good a classifier is, from what it found: figures as scikit-learn has them, 0 for what would be divided by 0."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import Judgement, LabelScore

Counts = NDArray[np.int64]
Figures = NDArray[np.float64]

_KINDS: Final = ("precision", "recall", "f1")


def judge(names: tuple[str, ...], labels: NDArray[np.integer], found: NDArray[np.integer], loss: float) -> Judgement:
    """Judge what was found.

    Figures are `accuracy`; `macro_`, `micro_` and `weighted_` before `precision`, `recall` and `f1`: the mean over the
    labels, over all rows, and over the labels by their rows; `majority_accuracy`, that of always finding the label that
    most rows have; and `rows`.

    Args:
        names: Of the labels.
        labels: The true one of each row, by its place in `names`.
        found: The one that was found.
        loss: Mean of the rows.
    """
    confusion: Counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (labels, found), 1)
    right, true, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = _divide(right, said), _divide(right, true), _divide(2 * right, true + said)
    rows = len(labels)
    accuracy = right.sum() / rows
    figures = {"accuracy": accuracy, "majority_accuracy": true.max() / rows, "rows": rows}
    for kind, each in zip(_KINDS, (precision, recall, f1), strict=True):
        figures[f"macro_{kind}"] = each.mean()
        figures[f"micro_{kind}"] = accuracy  # every row has one label, and one is found
        figures[f"weighted_{kind}"] = (each * true).sum() / rows
    scores = zip(names, precision, recall, f1, true, strict=True)
    return Judgement(
        loss=loss,
        figures={name: float(figure) for name, figure in figures.items()},
        labels=tuple(LabelScore(name, float(p), float(r), float(f), int(n)) for name, p, r, f, n in scores),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _divide(some: Counts, all_: Counts) -> Figures:
    made: Figures = np.divide(some, all_, out=np.zeros(len(some)), where=all_ > 0)
    return made
