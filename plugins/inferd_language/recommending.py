"""What somebody may like: what is like what they took, or what those took who took the same."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from inferd.plugin import Ask, ask_all, function
from inferd_language.words import Lexicon, words_of

MOST_ASKS = 2000
TOGETHER = 50  # vectors that are asked for at once
ROUNDS = 12
CONFIDENCE = 20.0  # of having taken something, beside not having: 1 + this times its weight
SEED = 7

Floats = NDArray[np.float64]


class Taken(BaseModel):
    """Somebody took something: implicit feedback.

    Attributes:
        user: Who.
        item: What.
        weight: How often, or for how long, above 0.
    """

    user: str
    item: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Recommended(BaseModel):
    """Something that they may like.

    Attributes:
        item: What.
        score: The greater, the better; comparable within one answer.
    """

    item: str
    score: float


@function(asks=MOST_ASKS, timeout_s=300, memory_bytes=1 << 30)
def recommend(
    *,
    user: str,
    taken: list[Taken],
    by: Literal["factors", "neighbours", "content", "popular"] = "factors",
    items: dict[str, str] | None = None,
    model: str = "",
    limit: Annotated[int, Field(ge=1, le=1000)] = 10,
    factors: Annotated[int, Field(ge=1, le=256)] = 32,
    regularization: Annotated[float, Field(gt=0)] = 5.0,
) -> list[Recommended]:
    """Find what somebody may like of what they have not taken yet, the best first.

    Args:
        user: For whom. Whoever has taken nothing gets what most took.
        taken: Who took what.
        by: "factors": implicit feedback as factors of users and items (alternating least squares). "neighbours": items
            that the same people took (cosine). "content": items whose texts are like those of what they took.
            "popular": what most took.
        items: Texts of items, by their names; for "content", where items without one are left out.
        model: By "content": a model whose vectors of the texts are compared; "" compares words.
        limit: How many are given.
        factors: How many factors.
        regularization: Of factors: the greater, the less they say of rare items.
    """
    if by == "content" and not items:
        raise ValueError("content compares texts of items; give items")
    if model and by != "content":
        raise ValueError("model is for content; the others look at who took what alone")
    users, names = sorted({each.user for each in taken}), sorted({each.item for each in taken} | {*(items or ())})
    own = {each.item: 0.0 for each in taken if each.user == user}
    for each in taken:
        if each.user == user:
            own[each.item] += each.weight
    if by == "content" and own:
        found = _like(own, items or {}, model)
    elif by == "popular" or not own:
        found = {name: float(number) for name, number in Counter(each.item for each in taken).items()}
    else:
        counts = _matrix(taken, users, names)
        row = users.index(user)
        scores = _factored(counts, row, factors, regularization) if by == "factors" else _near(counts, row)
        found = dict(zip(names, scores.tolist(), strict=True))
    best = sorted((name for name in found if name not in own), key=lambda name: (-found[name], name))
    return [Recommended(item=name, score=round(found[name], 6)) for name in best[:limit]]


def _matrix(taken: list[Taken], users: list[str], names: list[str]) -> Floats:
    """How much each user took of each item, as the logarithm of 1 and that: users in rows."""
    user_at, name_at = {name: n for n, name in enumerate(users)}, {name: n for n, name in enumerate(names)}
    counts = np.zeros((len(users), len(names)))
    for each in taken:
        counts[user_at[each.user], name_at[each.item]] += each.weight
    return np.log1p(counts)


def _near(counts: Floats, row: int) -> Floats:
    """Items by how like they are to those of a user, by who took them."""
    norms = np.linalg.norm(counts, axis=0)
    unit = counts / np.where(norms > 0, norms, 1.0)
    found: Floats = (unit.T @ unit) @ counts[row]
    return found


def _factored(counts: Floats, row: int, factors: int, regularization: float) -> Floats:
    """Items by their factors and a user's: Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback"."""
    draw = np.random.default_rng(SEED)
    size = min(factors, *counts.shape)
    of_users = draw.normal(0, 0.1, (counts.shape[0], size))
    of_items = draw.normal(0, 0.1, (counts.shape[1], size))
    for _ in range(ROUNDS):
        _solve(of_users, of_items, counts, regularization)
        _solve(of_items, of_users, counts.T, regularization)
    found: Floats = of_items @ of_users[row]
    return found


def _solve(these: Floats, others: Floats, counts: Floats, regularization: float) -> None:
    """Least squares for each row of `these`, with `others` as they are."""
    base = others.T @ others + regularization * np.eye(others.shape[1])
    for n, row in enumerate(counts):
        at = np.flatnonzero(row)
        some, more = others[at], CONFIDENCE * row[at]
        these[n] = np.linalg.solve(base + (some.T * more) @ some, some.T @ (1 + more))


def _like(own: dict[str, float], items: dict[str, str], model: str) -> dict[str, float]:
    """Items by how like their texts are to those of what somebody took."""
    names = list(items)
    vectors = _embedded(model, list(items.values())) if model else _weighed(list(items.values()))
    mine = [n for n, name in enumerate(names) if name in own]
    if not mine:
        raise ValueError("none of what the user took has a text in items; give some")
    wanted = np.average(vectors[mine], axis=0, weights=[own[names[n]] for n in mine])
    return dict(zip(names, (vectors @ wanted).tolist(), strict=True))


def _weighed(texts: list[str]) -> Floats:
    """Words of texts by how much they say (TF-IDF), of length 1."""
    lexicon, counts = Lexicon(texts), [Counter(words_of(text)) for text in texts]
    place = {word: n for n, word in enumerate(sorted({word for each in counts for word in each}))}
    vectors = np.zeros((len(texts), max(1, len(place))))
    for n, each in enumerate(counts):
        for word, number in each.items():
            vectors[n, place[word]] = (1 + np.log(number)) * lexicon.weight(word)
    return _unit(vectors)


def _embedded(model: str, texts: list[str]) -> Floats:
    if len(texts) > MOST_ASKS:
        raise ValueError(f"items has {len(texts)} texts; at most {MOST_ASKS} with a model")
    asked = [Ask(model=model, do="embed", prompt=text) for text in texts]
    found = [each.embedding for n in range(0, len(asked), TOGETHER) for each in ask_all(asked[n : n + TOGETHER])]
    return _unit(np.array(found))


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.where(norms > 0, norms, 1.0)
    return unit
