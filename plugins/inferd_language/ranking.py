"""Texts in the order in which they answer a question."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask_all, function
from inferd_language.words import Lexicon

MOST_DOCUMENTS = 1000
TOGETHER = 50  # asked at once


class Ranked(BaseModel):
    """A text in its place.

    Attributes:
        index: Which of `documents` it is, from 0.
        score: The greater, the better; of "words" BM25, of "vectors" a cosine, of "pairs" what the model says.
    """

    index: int
    score: float


@function(asks=MOST_DOCUMENTS + 1, timeout_s=300)
def rank(
    query: str,
    documents: Annotated[list[str], Field(max_length=MOST_DOCUMENTS)],
    by: Literal["words", "vectors", "pairs"] = "words",
    model: str = "",
    limit: Annotated[int, Field(ge=1)] = MOST_DOCUMENTS,
) -> list[Ranked]:
    """Put texts in the order in which they answer a question, the best first.

    Args:
        query: The question.
        documents: The texts.
        by: "words" needs no model: BM25. "vectors" compares embeddings of `model`. "pairs" has a model that ranks read
            the question with each text.
        model: Which, where one is needed.
        limit: How many are given.
    """
    if (by == "words") == bool(model):
        raise ValueError("model is for vectors and pairs, which need one; words needs none")
    if by == "words":
        scores = Lexicon(documents).scores(query)
    elif by == "vectors":
        first, *others = _vectors(model, [query, *documents])
        scores = [sum(one * other for one, other in zip(first, each, strict=True)) for each in others]
    else:
        asked = [Ask(model=model, do="embed", prompt=each, query=query, pooling="rank") for each in documents]
        scores = [
            each.embedding[0] for n in range(0, len(asked), TOGETHER) for each in ask_all(asked[n : n + TOGETHER])
        ]
    order = sorted(range(len(documents)), key=lambda n: -scores[n])
    return [Ranked(index=n, score=round(scores[n], 6)) for n in order[:limit]]


def _vectors(model: str, texts: list[str]) -> list[tuple[float, ...]]:
    asked = [Ask(model=model, do="embed", prompt=each) for each in texts]
    return [each.embedding for n in range(0, len(asked), TOGETHER) for each in ask_all(asked[n : n + TOGETHER])]
