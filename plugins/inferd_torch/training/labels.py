"""The labels of rows: which there are, and which rows are held back, a share of each label's."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from inferd.plugin import TrainError, TrainRequest
from inferd_torch.classifying.about import FEWEST_LABELS, MOST_LABEL_CHARACTERS, MOST_LABELS
from inferd_torch.training.rows import Row, Rows

FEWEST_ROWS: Final = 2
"""Of a label, where some are held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Rows of a training of a classifier.

    Attributes:
        names: The labels, in their order.
        rows: All of its file.
        learnt: Places of those that are trained on.
        held: What is held back: its rows and their places.
    """

    names: tuple[str, ...]
    rows: Rows
    learnt: list[int]
    held: tuple[Rows, list[int]]


def read_labelled(request: TrainRequest) -> Labelled:
    """Look through the rows of a request.

    Raises:
        TrainError: One has no label, there are too many or too few of them, or one that is held back is of another.
    """
    field, rows = request.recipe.label, Rows(request.rows)
    found = [read_label(rows[place], field, rows.name(place)) for place in range(len(rows))]
    names = tuple(sorted(set(found)))
    if not FEWEST_LABELS <= len(names) <= MOST_LABELS:
        raise TrainError(
            f"{rows.path}: its {len(rows)} rows have {len(names)} labels; a classifier has {FEWEST_LABELS} to"
            f" {MOST_LABELS}. Is {field!r} the field of the labels?"
        )
    if request.held is None:
        learnt, kept = _divide(found, names, rows, share=request.recipe.held, seed=request.recipe.seed)
        return Labelled(names=names, rows=rows, learnt=learnt, held=(rows, kept))
    held = Rows(request.held)
    for place in range(len(held)):
        if (label := read_label(held[place], field, held.name(place))) not in names:
            raise TrainError(f"{held.name(place)}: no row that is trained on has the label {label!r}")
    return Labelled(names=names, rows=rows, learnt=list(range(len(rows))), held=(held, list(range(len(held)))))


def read_label(row: Row, field: str, name: str) -> str:
    """A label is a text, or a whole number, which is taken as a text.

    Raises:
        TrainError: It is neither, is empty or too long.
    """
    if field not in row:
        raise TrainError(f"{name} has no field {field!r}; it has {sorted(row)[:10]}")
    label = row[field]
    if type(label) is int:
        label = str(label)
    if not isinstance(label, str):
        raise TrainError(f"{name}: {field!r} is a {type(label).__name__}; a label is a text or a whole number")
    if not label.strip():
        raise TrainError(f"{name}: {field!r} is empty; each row needs a label")
    if len(label) > MOST_LABEL_CHARACTERS:
        raise TrainError(f"{name}: {field!r} has {len(label)} characters; a label has at most {MOST_LABEL_CHARACTERS}")
    try:
        label.encode()
    except UnicodeEncodeError as error:
        half = label[error.start]
        raise TrainError(f"{name}: {field!r} has half of a character, {half!a}: a label is a text") from None
    return label


def _divide(
    labels: list[str], names: tuple[str, ...], rows: Rows, *, share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Places of the rows to learn from, and of those that are held back: at least one of each label."""
    if not 0 < share < 1:
        raise TrainError(f"'held' is {share}; where no rows of their own are given it must lie between 0 and 1")
    places: dict[str, list[int]] = {name: [] for name in names}
    for place, label in enumerate(labels):
        places[label].append(place)
    kept: set[int] = set()
    for at, (name, members) in enumerate(places.items()):
        if len(members) < FEWEST_ROWS:
            raise TrainError(
                f"{rows.name(members[0])} is the only one with the label {name!r}; {FEWEST_ROWS} are needed, one to"
                " train on and one to hold back: add rows, or give rows to hold back of their own"
            )
        count = min(max(1, math.floor(len(members) * share + 0.5)), len(members) - 1)
        mixed = np.random.Generator(np.random.PCG64([seed, 1, at])).permutation(len(members))  # as `heads` divides
        kept.update(members[place] for place in mixed[:count].tolist())
    return [place for place in range(len(labels)) if place not in kept], sorted(kept)
