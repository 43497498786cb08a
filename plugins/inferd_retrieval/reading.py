"""Documents of an index, by their ids."""

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import Annotated

from pydantic import BaseModel, Field

from inferd.plugin import function, function_data
from inferd_retrieval.segments import Segment
from inferd_retrieval.telling import in_parts


class ReadDocument(BaseModel):
    """A document, or a part of its text.

    Attributes:
        title, metadata: As they were given.
        text: The part of its text.
        characters, size_bytes: Of all its text.
    """

    title: str
    metadata: str
    text: str
    characters: int
    size_bytes: int


@function(timeout_s=60, internal=True)
def retrieval_find(ids: list[str], *, vectors: bool, dead: list[list[int]]) -> list[tuple[int, int]]:
    """Where documents are: of each that there is its segment and its row.

    Args:
        ids: Their ids.
        vectors: Whether each segment has a file of vectors besides.
        dead: Rows of each segment that were deleted.
    """
    given = function_data()
    found = []
    for number, gone in enumerate(dead):
        segment, lost = Segment(given[number * (1 + vectors)]), set(gone)
        rows = [segment.find(each) for each in ids]
        found += [(number, row) for row in rows if row >= 0 and row not in lost]
    return found


@function(timeout_s=60, internal=True)
def retrieval_read(row: int, start: Annotated[int, Field(ge=0)], end: Annotated[int, Field(ge=0)]) -> Iterator[str]:
    """A document, or a part of its text: parts of a `ReadDocument` as JSON.

    Args:
        row: Its row in the segment.
        start: The first character that is told.
        end: The one behind the last.
    """
    segment = Segment(function_data()[0])
    document = segment.document(row)
    yield from in_parts(
        ReadDocument(
            title=document.title,
            metadata=document.metadata_json,
            text=document.text[start:end],
            characters=len(document.text),
            size_bytes=segment.size(row),
        )
    )


class ListedDocument(BaseModel):
    """A document without its text.

    Attributes:
        id, title, metadata: As they were given.
        size_bytes: Of its text.
    """

    id: str
    title: str
    metadata: str
    size_bytes: int


@function(timeout_s=60)
def retrieval_list(
    after: str, count: Annotated[int, Field(ge=1)], *, vectors: bool, dead: list[list[int]]
) -> Iterator[str]:
    """Documents by their ids: parts of a list of `ListedDocument` as JSON.

    Args:
        after: The id behind which they begin; "" for the first.
        count: Most of them.
        vectors: Whether each segment has a file of vectors besides.
        dead: Rows of each segment that were deleted.
    """
    given = function_data()
    segments = [Segment(given[number * (1 + vectors)]) for number in range(len(dead))]

    def living(number: int) -> Iterator[tuple[bytes, int, int]]:
        lost = set(dead[number])
        return ((each, number, row) for each, row in segments[number].ids_after(after) if row not in lost)

    found = []
    for _, number, row in islice(merge(*map(living, range(len(dead)))), count):
        told = segments[number].about(row)
        size = segments[number].size(row)
        found.append(ListedDocument(id=told.id, title=told.title, metadata=told.metadata_json, size_bytes=size))
    yield from in_parts(found)


class Sample(BaseModel):
    """A chunk: the title of its document, and what it says."""

    title: str
    text: str


@function(timeout_s=60, internal=True)
def retrieval_sample() -> Iterator[str]:
    """The first chunk of a segment, whose vector tells whether a model made it: parts of a `Sample` as JSON."""
    segment = Segment(function_data()[0])
    yield from in_parts(Sample(title=segment.about(int(segment.chunks[0][0])).title, text=segment.text(0)))
