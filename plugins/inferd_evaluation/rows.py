"""Answers of a model, each held against its line of the data."""

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from math import exp
from typing import Any

from pydantic import BaseModel

from inferd.plugin import function
from inferd_evaluation.items import MEMORY_BYTES, ChoiceLine, ClassificationLine, GenerationLine, Kind, read_line
from inferd_evaluation.overlap import exact_match, f1, rouge

EXTRA = 'BLEU is not told: sacrebleu is not installed on the kernel\'s host; fix: pip install "inferd[evaluate]"'


class Answer(BaseModel):
    """What a model gave for a line.

    Attributes:
        text: What it wrote; of a choice nothing.
        logprobs: Of a choice, how likely each text is, in sum, as natural logarithms.
        passed: Of a program, whether its tests raised nothing.
        rating: What it was rated by another model, from 1; 0 where it was not.
    """

    text: str = ""
    logprobs: list[float] = []
    passed: bool = False
    rating: int = 0


class Row(BaseModel):
    """What is measured of a line.

    Attributes:
        scores: Each from 0 to 1, but for ratings.
        bleu: Of BLEU: n-grams that are right, n-grams, by length from 1 to 4, words of the answer and of the reference.
        expected: The place of the right label.
        predicted: The place of the one that was given; of none, as many as there are labels.
    """

    scores: dict[str, float] = {}
    bleu: list[int] = []
    expected: int | None = None
    predicted: int | None = None


@cache
def bleu_metric() -> Any:
    """What counts for BLEU; None where sacrebleu is not installed."""
    before, tempfile.tempdir = tempfile.tempdir, os.sep  # a library of it asks for one, and a sandbox has none
    try:
        metrics = import_module("sacrebleu.metrics")
    except ImportError:
        return None
    finally:
        tempfile.tempdir = before
    return metrics.BLEU(effective_order=True)  # of a sentence; what is counted is the same


@function(timeout_s=600, memory_bytes=MEMORY_BYTES, prepare=bleu_metric, internal=True)
def evaluation_rows(
    kind: Kind, lines: list[str], answers: list[Answer], labels: list[str] | None = None
) -> Iterator[Row]:
    """Hold answers of a model against their lines of the data.

    Args:
        kind: Of the task.
        lines: JSON objects.
        answers: To each of them.
        labels: Of a classification.
    """
    if len(lines) != len(answers):
        raise ValueError(f"there are {len(lines)} lines and {len(answers)} answers; give one to each")
    bleu = bleu_metric() if kind == "generation" else None
    known = [label.strip() for label in labels or ()]
    for number, (text, answer) in enumerate(zip(lines, answers, strict=True), 1):
        line = read_line(kind, text, number, labels or [])
        if isinstance(line, ChoiceLine):
            yield Row(scores=choice_scores(line, answer.logprobs))
        elif isinstance(line, GenerationLine):
            yield _generation(line, answer.text.strip(), bleu)
        elif isinstance(line, ClassificationLine):
            expected, said = known.index(line.label.strip()), answer.text.strip()
            predicted = known.index(said) if said in known else len(known)
            yield Row(scores={"accuracy": float(expected == predicted)}, expected=expected, predicted=predicted)
        elif kind == "code":
            yield Row(scores={"passed": float(answer.passed)})
        else:
            yield Row(scores={"rating": float(answer.rating)})


def choice_scores(line: ChoiceLine, logprobs: list[float]) -> dict[str, float]:
    """Whether the right one is the likeliest, in sum and by its characters, and how likely it is among all."""
    if len(logprobs) != len(line.choices):
        raise ValueError(f"there are {len(line.choices)} choices and {len(logprobs)} log probabilities")
    places = range(len(logprobs))
    by_length = [logprob / len(choice) for logprob, choice in zip(logprobs, line.choices, strict=True)]
    highest = max(logprobs)
    weights = [exp(each - highest) for each in logprobs]
    return {
        "accuracy": float(max(places, key=logprobs.__getitem__) == line.right),
        "accuracy_norm": float(max(places, key=by_length.__getitem__) == line.right),
        "probability": weights[line.right] / sum(weights),
    }


def _generation(line: GenerationLine, text: str, bleu: Any) -> Row:
    references = line.all
    row = Row(
        scores={"exact_match": exact_match(text, references), "f1": f1(text, references), **rouge(text, references)}
    )
    if bleu is not None:
        told = bleu.sentence_score(text, references)
        row.bleu = [*told.counts, *told.totals, told.sys_len, told.ref_len]
    return row
