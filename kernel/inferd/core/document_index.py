"""Indexes of documents: what one is made for, where it stands, what is looked for and what is found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class IndexFieldType(Enum):
    """What values a field has; the values are those of `inferd.v1.IndexFieldType`."""

    TEXT = 1
    NUMBER = 2
    BOOL = 3


class Comparison(Enum):
    """How a field is compared; the values are those of `inferd.v1.IndexFilter.Comparison`."""

    EQUAL = 1
    NOT_EQUAL = 2
    IN = 3
    LESS = 4
    AT_MOST = 5
    MORE = 6
    AT_LEAST = 7


class SearchMode(Enum):
    """How chunks are found; the values are those of `inferd.v1.SearchMode`."""

    VECTOR = 1
    LEXICAL = 2
    HYBRID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSpec:
    """What an index is made for; see `inferd.v1.IndexSpec`."""

    name: str
    model: str = ""
    size: int = 800
    overlap: int = 0
    fields: tuple[tuple[str, IndexFieldType], ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of an index that never changes, but that documents of it die.

    Attributes:
        digest, size_bytes: Of the blob with its documents and words.
        vectors, vectors_bytes: Of the blob with the vectors of its chunks; "" and 0 where there are none.
        documents, chunks: That are in it.
        dead: Rows of documents that were deleted or replaced, ascending.
    """

    digest: str
    size_bytes: int
    vectors: str = ""
    vectors_bytes: int = 0
    documents: int
    chunks: int
    dead: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Its blobs, each with its size."""
        files = ((self.digest, self.size_bytes), (self.vectors, self.vectors_bytes))
        return tuple(each for each in files if each[0])

    @property
    def all_bytes(self) -> int:
        """Of its blobs together."""
        return self.size_bytes + self.vectors_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index as it stands. Times are Unix times.

    Attributes:
        spec: What it is made for.
        created, updated: When it was made, and when its documents changed last.
        version: Rises with each change of its documents.
        width: Numbers of a vector; 0 while there is none.
        segments: Its parts, the oldest first.
    """

    spec: IndexSpec
    created: float
    updated: float
    version: int = 0
    width: int = 0
    segments: tuple[Segment, ...] = ()

    @property
    def documents(self) -> int:
        """Those that can be found."""
        return sum(each.documents - len(each.dead) for each in self.segments)

    @property
    def chunks(self) -> int:
        """Those of all segments, of dead documents too."""
        return sum(each.chunks for each in self.segments)

    @property
    def size_bytes(self) -> int:
        """Of all segments."""
        return sum(each.all_bytes for each in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """A document that is added. What it says is `text`, or what `data` is in `format`, or the blob `digest`."""

    id: str
    title: str = ""
    metadata: str = ""
    text: str = field(default="", repr=False)
    format: str = ""
    data: bytes = field(default=b"", repr=False)
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document, or a part of its text; see `inferd.v1.GetDocumentResponse`."""

    title: str
    metadata: str
    text: str = field(repr=False)
    characters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """A document without its text, of which it has `size_bytes`; see `inferd.v1.ListedDocument`."""

    id: str
    title: str
    metadata: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on a field."""

    field: str
    comparison: Comparison
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for; see `inferd.v1.IndexQuery`. `mode` is None for what the index can."""

    index: str
    text: str = field(repr=False)
    count: int = 5
    mode: SearchMode | None = None
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A chunk that was found; see `inferd.v1.FoundChunk`. `sentences` are where these are in it."""

    document_id: str
    title: str
    metadata: str
    start: int
    end: int
    text: str = field(repr=False)
    score: float
    sentences: tuple[tuple[int, int], ...] = ()


def merged_next(segments: tuple[Segment, ...], most_bytes: int) -> tuple[int, ...]:
    """The places of segments that are made one next: small ones, and those of which most is dead.

    Each is merged with others of about its size, so that a document is copied about as often as sizes double.

    Args:
        segments: All.
        most_bytes: Of those that are merged, together.
    """
    order = sorted(range(len(segments)), key=lambda place: segments[place].all_bytes)
    chosen: list[int] = []
    total = 0
    for place in order:
        size = segments[place].all_bytes
        if total + size > most_bytes or (len(chosen) >= max(2, len(order) // 2) and size > total):
            break
        chosen.append(place)
        total += size
    return tuple(sorted(chosen)) if len(chosen) > 1 else ()
