"""Of which of some labels a text is, by how likely a model finds each behind it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask_all, function

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_LABELS = 64
Label = Annotated[str, Field(min_length=1, max_length=100)]
Labels = Annotated[list[Label], Field(min_length=2, max_length=MOST_LABELS)]
NOTHING = ("N/A", "", "[...]")
"""Texts without content: what a model says of them is what it prefers whatever it reads, and is taken off."""
MOST_CHARACTERS = 1500  # of a text, of which the beginning is read


class Example(BaseModel):
    """A text whose label is known.

    Attributes:
        text: It.
        label: Its label, one of those that are asked for.
    """

    text: str
    label: Label


class Classified(BaseModel):
    """Of which label a text is.

    Attributes:
        label: The likeliest.
        scores: How likely each is, 1 together: calibrated, so that a model's liking for a word is taken off.
        margin: Between the likeliest and the next one.
    """

    label: str
    scores: dict[str, float]
    margin: float


@function(asks=4 + 2 * MOST_LABELS, timeout_s=120)
def classify(
    text: str,
    labels: Labels,
    model: str,
    question: Annotated[str, Field(max_length=500)] = "This article is about",
    examples: Annotated[list[Example], Field(max_length=32)] | None = None,
) -> Classified:
    """Find of which label a text is, by how likely a language model finds each behind the text and a question.

    Args:
        text: What is looked at; its first 1,500 characters.
        labels: Those that it may have, as words that would stand behind the question.
        model: A language model.
        question: What stands between the text and the label.
        examples: Texts with their labels, which the model reads before.
    """
    if len({*labels}) < len(labels):
        raise ValueError("two labels are the same")
    for each in examples or ():
        if each.label not in labels:
            raise ValueError(f"an example has the label {each.label[:80]!r}, which is none of labels")
    if not text.strip():
        raise ValueError("text has nothing but white space; there is nothing to classify in that")
    before = "".join(_written(each.text, question) + f" {each.label}\n\n" for each in examples or ())
    return decide(model, [before + _written(each, question) for each in (text, *NOTHING[:1])], labels)


def decide(model: str, prompts: Sequence[str], labels: Sequence[str]) -> Classified:
    """Of which label the first prompt is, beside others without content."""
    endings = [f" {label}" for label in labels]
    given, *free = [
        each.logprobs for each in ask_all([Ask(model=model, prompt=p, do="score", endings=endings) for p in prompts])
    ]
    usual = [sum(each[n] for each in free) / len(free) if free else 0.0 for n in range(len(labels))]
    return of_scores(labels, [one - other for one, other in zip(given, usual, strict=True)])


def of_scores(labels: Sequence[str], logits: Sequence[float]) -> Classified:
    """What comes of logarithms of how likely labels are."""
    most = max(logits)
    weights = [math.exp(each - most) for each in logits]
    scores = {label: round(weight / sum(weights), 6) for label, weight in zip(labels, weights, strict=True)}
    first, second = sorted(scores.values(), reverse=True)[:2]
    return Classified(
        label=max(scores, key=lambda label: scores[label]), scores=scores, margin=round(first - second, 6)
    )


def _written(text: str, question: str) -> str:
    return f"{text.strip()[:MOST_CHARACTERS]}\n\n{question}"


Mood = Literal["positive", "negative", "neutral"]
MOODS = {"positive": ("good", "great"), "negative": ("bad", "terrible")}


class Sentiment(BaseModel):
    """How a text is meant.

    Attributes:
        label: "positive", "negative", or "neutral" where neither is clearly likelier.
        score: From -1, negative, to 1, positive.
    """

    label: Mood
    score: float


@function(asks=4, timeout_s=120)
def sentiment(
    text: str,
    model: str,
    neutral_below: Annotated[float, Field(ge=0, le=1)] = 0.0,
    question: Annotated[str, Field(max_length=200)] = "In short, this is",
) -> Sentiment:
    """Find whether a text speaks well or badly of its subject.

    Args:
        text: What is looked at; its first 1,500 characters.
        model: A language model.
        neutral_below: Where the score is nearer to 0 than this, it is neutral.
        question: What stands between the text and a word as "great" or "terrible".
    """
    if not text.strip():
        raise ValueError("text has nothing but white space; it has no mood")
    words = [word for each in MOODS.values() for word in each]
    found = decide(model, [f"{each.strip()[:MOST_CHARACTERS]} {question}" for each in (text, NOTHING[0])], words)
    score = sum(found.scores[word] for word in MOODS["positive"]) * 2 - 1
    label: Mood = "neutral" if abs(score) < neutral_below else "positive" if score > 0 else "negative"
    return Sentiment(label=label, score=round(score, 6))
