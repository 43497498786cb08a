"""How good a classifier is, from what it found: figures as scikit-learn has them, 0 for what would be divided by 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from inferd.plugin.training import Judgement, LabelScore

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS: Final = ("precision", "recall", "f1")


def judge_labels(names: Sequence[str], labels: Sequence[int], found: Sequence[int], loss: float) -> Judgement:
    """Judge what was found: the same report of every backend that trains classifiers.

    Figures are `accuracy`; `macro_`, `micro_` and `weighted_` before `precision`, `recall` and `f1`: the mean over the
    labels, over all rows, and over the labels by their rows; `majority_accuracy`, that of always finding the label that
    most rows have; and `rows`.

    Args:
        names: Of the labels.
        labels: The true one of each row, by its place in `names`; at least one.
        found: The one that was found, likewise.
        loss: Mean of the rows.
    """
    confusion = [[0] * len(names) for _ in names]
    for true, said in zip(labels, found, strict=True):
        confusion[true][said] += 1
    rows = len(labels)
    support, given = [sum(row) for row in confusion], [sum(column) for column in zip(*confusion, strict=True)]
    right = [row[at] for at, row in enumerate(confusion)]
    scores = [
        LabelScore(name, _divide(r, g), _divide(r, s), _divide(2 * r, s + g), s)
        for name, r, g, s in zip(names, right, given, support, strict=True)
    ]
    accuracy = sum(right) / rows
    figures = {"accuracy": accuracy, "majority_accuracy": max(support) / rows, "rows": float(rows)}
    for kind in _KINDS:
        each = [float(getattr(score, kind)) for score in scores]
        figures[f"macro_{kind}"] = sum(each) / len(each)
        figures[f"micro_{kind}"] = accuracy  # every row has one label, and one is found
        figures[f"weighted_{kind}"] = sum(e * s for e, s in zip(each, support, strict=True)) / rows
    return Judgement(loss=loss, figures=figures, labels=tuple(scores), confusion=tuple(map(tuple, confusion)))


def _divide(some: int, all_: int) -> float:
    return some / all_ if all_ else 0.0
