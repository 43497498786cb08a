"""Figures of rows: means, BLEU and those of labels, with intervals by the bootstrap, and differences of pairs.

A resample draws as many lines as there are, with repetition. The same lines are drawn of each system, so that a
difference is one of pairs: what is hard for all of them is no part of it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from inferd.plugin import function
from inferd_evaluation.items import MEMORY_BYTES, Kind
from inferd_evaluation.rows import EXTRA, bleu_metric

MOST_SYSTEMS = 8
GRAMS = 4  # of BLEU
Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Figure = Callable[[Places], float]
"""A figure of some lines, by their places."""


class System(BaseModel):
    """What was measured of one model, line by line.

    Attributes:
        name: By which it is told.
        lines: Numbers of the lines that it has answered, rising.
        scores: Of each of them, by name.
        bleu: As in a `Row`; none where it is not told.
        expected: Places of the right labels.
        predicted: Places of those that were given.
    """

    name: str = ""
    lines: list[int]
    scores: dict[str, list[float]] = {}
    bleu: list[list[int]] = []
    expected: list[int] = []
    predicted: list[int] = []


class Measured(BaseModel):
    """A figure with its interval."""

    name: str
    value: float
    low: float
    high: float


class OfLabel(BaseModel):
    """How well one label is found: `support` lines have it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Figures(BaseModel):
    """Of one system, over so many lines."""

    name: str
    lines: int
    metrics: list[Measured]
    labels: list[OfLabel] = []


class Difference(BaseModel):
    """By how much a figure of a system is above that of the first one, over the lines that both have answered.

    Attributes:
        name: Of the figure.
        system: Its place, from 1.
        value: The difference.
        low: From where,
        high: and to where it may be.
        p_value: How often chance alone gives as large a difference, by the same resamples.
        lines: That both have.
    """

    name: str
    system: int
    value: float
    low: float
    high: float
    p_value: float
    lines: int


class Report(BaseModel):
    """Figures of all systems, in their order, and differences from the first one."""

    systems: list[Figures]
    differences: list[Difference] = []
    notes: list[str] = []


@function(timeout_s=600, memory_bytes=MEMORY_BYTES, prepare=bleu_metric, internal=True)
def evaluation_report(
    *,
    kind: Kind,
    systems: Annotated[list[System], Field(min_length=1, max_length=MOST_SYSTEMS)],
    labels: list[str] | None = None,
    resamples: Annotated[int, Field(ge=100, le=10_000)] = 1000,
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95,
    seed: Annotated[int, Field(ge=0, le=2**32)] = 0,
) -> Report:
    """Make figures of rows, with intervals, and compare several systems with the first one, line by line.

    Args:
        kind: Of the task.
        systems: What was measured of each.
        labels: Of a classification.
        resamples: How often lines are drawn.
        confidence: Which part of the resamples an interval has.
        seed: Which lines are drawn.
    """
    known = [label.strip() for label in labels or ()]
    report = Report(systems=[])
    for system in systems:
        if not system.lines:
            raise ValueError(f"system {system.name!r} has answered no line; there are no figures of that")
        drawn = _drawn(len(system.lines), resamples, seed)
        figures = _figures(system, known)
        whole = np.arange(len(system.lines))
        metrics = [
            _measured(name, figure(whole), values, confidence)
            for (name, figure), values in zip(figures.items(), _over(figures, drawn), strict=True)
        ]
        of_labels = _of_labels(system, known)
        report.systems.append(Figures(name=system.name, lines=len(system.lines), metrics=metrics, labels=of_labels))
    for place, other in enumerate(systems[1:], 1):
        report.differences += _differences(place, systems[0], other, known, resamples, confidence, seed)
    if kind == "generation" and bleu_metric() is None:
        report.notes.append(EXTRA)
    return report


def _differences(  # noqa: PLR0917 - of one comparison
    place: int, first: System, other: System, labels: list[str], resamples: int, confidence: float, seed: int
) -> Iterator[Difference]:
    both = sorted({*first.lines} & {*other.lines})
    if not both:
        raise ValueError(f"systems {first.name!r} and {other.name!r} have answered no line both")
    one, two = _figures(_only(first, both), labels), _figures(_only(other, both), labels)
    names = [name for name in one if name in two]
    whole = np.arange(len(both))
    one, two = {name: one[name] for name in names}, {name: two[name] for name in names}
    befores, afters = (_over(figures, _drawn(len(both), resamples, seed)) for figures in (one, two))
    for name, before, after in zip(names, befores, afters, strict=True):
        values = after - before
        told = _measured(name, two[name](whole) - one[name](whole), values, confidence)
        tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
        p_value = min(1.0, 2 * (tail + 1) / (resamples + 1))
        yield Difference(
            name=name, system=place, value=told.value, low=told.low, high=told.high, p_value=p_value, lines=len(both)
        )


def _only(system: System, lines: Sequence[int]) -> System:
    """A system as if it had answered these lines alone, which it has."""
    at = {line: place for place, line in enumerate(system.lines)}
    places = [at[line] for line in lines]

    def pick(values: list[Any]) -> list[Any]:
        return [values[place] for place in places] if values else []

    return System(
        name=system.name,
        lines=list(lines),
        scores={name: pick(values) for name, values in system.scores.items()},
        bleu=pick(system.bleu),
        expected=pick(system.expected),
        predicted=pick(system.predicted),
    )


def _drawn(count: int, resamples: int, seed: int) -> Iterator[Places]:
    draw = np.random.default_rng([seed, count])
    return (draw.integers(0, count, size=count) for _ in range(resamples))


def _over(figures: dict[str, Figure], drawn: Any) -> list[Numbers]:
    """Each figure over all resamples."""
    found = [[figure(places) for figure in figures.values()] for places in drawn]
    return [np.asarray(values, dtype=np.float64) for values in zip(*found, strict=True)]


def _measured(name: str, value: float, values: Numbers, confidence: float) -> Measured:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Measured(name=name, value=value, low=float(low), high=float(high))


def _figures(system: System, labels: list[str]) -> dict[str, Figure]:
    found: dict[str, Figure] = {name: _mean(values) for name, values in system.scores.items()}
    if system.expected:
        for name in ("precision", "recall", "f1"):
            found[name] = _macro(system, len(labels), name)
    if system.bleu and (corpus := _bleu(system.bleu)) is not None:
        found["bleu"] = corpus
    return found


def _mean(values: list[float]) -> Figure:
    numbers = np.asarray(values, dtype=np.float64)
    return lambda places: float(numbers[places].mean())


def _macro(system: System, count: int, name: str) -> Figure:
    expected, predicted = np.asarray(system.expected), np.asarray(system.predicted)

    def figure(places: Places) -> float:
        return float(np.mean(_by_label(expected[places], predicted[places], count)[name]))

    return figure


def _by_label(expected: Places, predicted: Places, count: int) -> dict[str, Numbers]:
    """Precision, recall and F1 of each label; 0 where there is nothing to divide by."""
    right = np.bincount(expected[expected == predicted], minlength=count + 1)[:count].astype(np.float64)
    given = np.bincount(predicted, minlength=count + 1)[:count]
    there = np.bincount(expected, minlength=count + 1)[:count]
    return {
        "precision": right / np.maximum(given, 1),
        "recall": right / np.maximum(there, 1),
        "f1": 2 * right / np.maximum(given + there, 1),
        "support": there.astype(np.float64),
    }


def _of_labels(system: System, labels: list[str]) -> list[OfLabel]:
    if not system.expected:
        return []
    by_label = _by_label(np.asarray(system.expected), np.asarray(system.predicted), len(labels))
    return [
        OfLabel(
            label=label,
            precision=float(by_label["precision"][place]),
            recall=float(by_label["recall"][place]),
            f1=float(by_label["f1"][place]),
            support=int(by_label["support"][place]),
        )
        for place, label in enumerate(labels)
    ]


def _bleu(counted: list[list[int]]) -> Figure | None:
    """BLEU of all lines together, from 0 to 100, as sacrebleu has it; None where that is not installed."""
    if (metric := bleu_metric()) is None:
        return None
    compute = metric.compute_bleu
    numbers = np.asarray(counted, dtype=np.int64)

    def figure(places: Places) -> float:
        sums = numbers[places].sum(axis=0).tolist()
        told = compute(
            correct=sums[:GRAMS], total=sums[GRAMS : 2 * GRAMS], sys_len=sums[-2], ref_len=sums[-1], smooth_method="exp"
        )
        return float(told.score)

    return figure
