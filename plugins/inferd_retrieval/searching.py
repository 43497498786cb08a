"""Searches: by words (BM25), by vectors (all are compared), and by both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from inferd.plugin import function, function_data
from inferd_retrieval.cutting import sentences
from inferd_retrieval.segments import Segment
from inferd_retrieval.telling import in_parts
from inferd_retrieval.words import words

K1: Final = 1.5
B: Final = 0.75
VECTORS_WEIGHT: Final = (
    0.4  # of both rankings: see "An Analysis of Fusion Functions" (Bruch, Gai and Ingber, TOIS 2023)
)
CANDIDATES: Final = 100  # of each ranking that are fused, at least
MEMORY_BYTES: Final = 256 << 20

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]
Comparison = Literal["equal", "not_equal", "in", "less", "at_most", "more", "at_least"]


class Filter(BaseModel):
    """A condition on a field.

    Attributes:
        field: Its name.
        comparison: How it is compared.
        value: With what.
    """

    field: str
    comparison: Comparison
    value: Any


class Found(BaseModel):
    """A chunk.

    Attributes:
        id, title, metadata: Of its document.
        start, end: Where it stands, in characters.
        text: What it says.
        score: How well it fits.
        sentences: Where its sentences are, in characters from its beginning.
    """

    id: str
    title: str
    metadata: str
    start: int
    end: int
    text: str
    score: float
    sentences: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Part:
    """A segment that is searched.

    Attributes:
        segment: It.
        vectors: Of its chunks; None where there are none.
        open: Which chunks may be found.
        first: The number of its first chunk among those of all segments.
    """

    segment: Segment
    vectors: NDArray[np.float32] | None
    open: Mask
    first: int


@function(timeout_s=60, memory_bytes=MEMORY_BYTES, internal=True)
def retrieval_search(
    text: str,
    *,
    count: int,
    mode: Literal["vector", "lexical", "hybrid"],
    width: int,
    dead: list[list[int]],
    filters: list[Filter],
) -> Iterator[str]:
    """Find the chunks of an index that fit a text best, the best first: parts of a list of `Found` as JSON.

    Args:
        text: What is looked for; its vector is the last of the data.
        count: Most chunks.
        mode: How they are found.
        width: Numbers of a vector; 0 where the index has none.
        dead: Rows of each segment that were deleted.
        filters: All of these must hold.
    """
    given = function_data()
    parts: list[Part] = []
    first = 0
    for number, gone in enumerate(dead):
        segment = Segment(given[number * 2 if width else number])
        vectors = np.frombuffer(given[number * 2 + 1], np.float32).reshape(-1, width) if width else None
        allowed = _allowed(segment, gone, filters)
        chunks = segment.chunks
        parts.append(Part(segment, vectors, allowed[chunks[:, 0]], first))
        first += len(chunks)
    if not parts:
        yield from in_parts([])
        return
    rankings = []
    if mode != "vector":
        rankings.append(_best(_lexical(parts, text), max(CANDIDATES, count), above=0.0))
    if mode != "lexical":
        query = np.frombuffer(given[-1], np.float32)
        rankings.append(_best(_angles(parts, query), max(CANDIDATES, count), above=-np.inf))
    ranked = rankings[0] if len(rankings) == 1 else _fused(*rankings)
    yield from in_parts([_found(parts, chunk, score) for chunk, score in ranked[:count]])


def _allowed(segment: Segment, gone: Sequence[int], filters: Sequence[Filter]) -> Mask:
    """Which documents may be found."""
    allowed: Mask = np.ones(segment.documents, bool)
    allowed[np.array(gone, np.int64)] = False
    for each in filters:
        holds = HOLDS[each.comparison]
        values = segment.field(each.field)
        allowed &= np.fromiter((holds(value, each.value) for value in values), bool, len(values))
    return allowed


def _is(value: Any, wanted: Any) -> bool:
    return wanted in value if isinstance(value, list) else bool(value == wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, wanted: Any) -> bool:
        if isinstance(value, list):
            return any(compare(each, wanted) for each in value)
        return value is not None and compare(value, wanted)

    return holds


HOLDS: Final[Mapping[Comparison, Callable[[Any, Any], bool]]] = {
    "equal": _is,
    "not_equal": lambda value, wanted: not _is(value, wanted),
    "in": lambda value, wanted: any(_is(value, each) for each in wanted),
    "less": _ordered(lambda value, wanted: value < wanted),
    "at_most": _ordered(lambda value, wanted: value <= wanted),
    "more": _ordered(lambda value, wanted: value > wanted),
    "at_least": _ordered(lambda value, wanted: value >= wanted),
}


def _lexical(parts: Sequence[Part], text: str) -> Scores:
    """BM25 of each chunk, of all segments as one; what may not be found has none."""
    total = sum(len(part.open) for part in parts)
    mean = sum(int(part.segment.lengths.sum()) for part in parts) / max(1, total) or 1.0
    scores: Scores = np.zeros(total, np.float32)
    for word in dict.fromkeys(words(text)):
        found = [part.segment.postings(word) for part in parts]
        having = sum(len(chunks) for chunks, _ in found)
        weight = np.log1p((total - having + 0.5) / (having + 0.5))
        for part, (chunks, counts) in zip(parts, found, strict=True):
            lengths = part.segment.lengths[chunks]
            scores[part.first + chunks] += weight * counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / mean))
    return np.where(np.concatenate([part.open for part in parts]), scores, -np.inf).astype(np.float32)


def _angles(parts: Sequence[Part], query: NDArray[np.float32]) -> Scores:
    """The cosine of each chunk's vector and that of the query; all have length 1."""
    return np.concatenate(
        [np.where(part.open, part.vectors @ query, -np.inf) for part in parts if part.vectors is not None]
    ).astype(np.float32)


def _best(scores: Scores, count: int, *, above: float) -> list[tuple[int, float]]:
    """The chunks with the highest scores, the highest first, of equal ones the first."""
    count = min(count, len(scores))
    best = np.argpartition(-scores, count - 1)[:count] if count else np.empty(0, np.int64)
    best = best[np.lexsort((best, -scores[best]))]
    return [(int(chunk), float(scores[chunk])) for chunk in best if scores[chunk] > above]


def _fused(lexical: Sequence[tuple[int, float]], vectors: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """One ranking of both: scores of each from 0, its last candidate, to 1, its first, added by their weights."""
    scores: dict[int, float] = {}
    for ranking, weight in ((lexical, 1 - VECTORS_WEIGHT), (vectors, VECTORS_WEIGHT)):
        least = ranking[-1][1] if len(ranking) > 1 else 0.0
        for chunk, score in ranking:
            part = (score - least) / ((ranking[0][1] - least) or 1.0)
            scores[chunk] = scores.get(chunk, 0.0) + weight * part
    return sorted(scores.items(), key=lambda each: (-each[1], each[0]))


def _found(parts: Sequence[Part], chunk: int, score: float) -> Found:
    part = next(part for part in reversed(parts) if part.first <= chunk)
    segment, number = part.segment, chunk - part.first
    row, start, end, *_ = segment.chunks[number].tolist()
    document, text = segment.about(row), segment.text(number)
    return Found(
        id=document.id,
        title=document.title,
        metadata=document.metadata_json,
        start=start,
        end=end,
        text=text,
        score=score,
        sentences=sentences(text),
    )
