"""Documents into chunks, chunks into segments, and several segments into one."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, Field

from inferd.plugin import function, function_data
from inferd_retrieval.cutting import chunks
from inferd_retrieval.segments import Document, Segment, build

PIECE_BYTES: Final = 384 << 10  # of a part of a file, before it is base64
SPANS_AT_ONCE: Final = 10_000
MEMORY_BYTES: Final = 384 << 20
TIMEOUT_S: Final = 600.0

ChunkSpan = tuple[int, int, int]
"""The place of a document, and where a chunk of it begins and ends, in characters."""


File = Literal["counts", "segment", "vectors"]
"""How many chunks there are, as JSON; documents, chunks and words; vectors."""


class FilePart(BaseModel):
    """Some bytes of a file, in base64, behind those that were told before."""

    file: File
    data: str


@function(timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES, internal=True)
def retrieval_chunks(
    size: Annotated[int, Field(ge=1)], overlap: Annotated[int, Field(ge=0)] = 0
) -> Iterator[list[ChunkSpan]]:
    """Cut the documents of an index into chunks of whole sentences.

    Args:
        size: Most characters of a chunk.
        overlap: About how many characters the next one begins before the end of the last.
    """
    found: list[ChunkSpan] = []
    for number, document in enumerate(_documents()):
        found += [(number, *span) for span in chunks(document.text, size, overlap)]
        while len(found) >= SPANS_AT_ONCE:
            yield found[:SPANS_AT_ONCE]
            found = found[SPANS_AT_ONCE:]
    if found:
        yield found


@function(timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES, internal=True)
def retrieval_segment(fields: list[str]) -> Iterator[FilePart]:
    """Make a segment of documents and their chunks.

    Args:
        fields: Names of fields by which searches filter.
    """
    spans = np.frombuffer(function_data()[1], np.int64).reshape(-1, 3).tolist()
    yield from _told("segment", build(list(_documents()), [(a, b, c) for a, b, c in spans], fields))


@function(timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES, internal=True)
def retrieval_merge(dead: list[list[int]], width: int, fields: list[str]) -> Iterator[FilePart]:
    """Make one segment of several, without the documents that were deleted.

    Args:
        dead: Rows of each segment that were deleted.
        width: Numbers of a vector; 0 for none.
        fields: Names of fields by which searches filter.
    """
    given = function_data()
    documents: list[Document] = []
    spans: list[ChunkSpan] = []
    vectors: list[bytes] = []
    for number, gone in enumerate(dead):
        segment = Segment(given[number * 2 if width else number])
        lost = set(gone)
        places = {}
        for row in range(segment.documents):
            if row not in lost:
                places[row] = len(documents)
                documents.append(segment.document(row))
        kept = np.array([chunk[0] not in lost for chunk in segment.chunks.tolist()], bool)
        spans += [(places[row], start, end) for row, start, end, *_ in segment.chunks[kept].tolist()]
        if width:
            vectors.append(np.frombuffer(given[number * 2 + 1], np.float32).reshape(-1, width)[kept].tobytes())
    yield _piece("counts", [json.dumps({"chunks": len(spans)}).encode()])
    yield from _told("segment", build(documents, spans, fields))
    yield from _told("vectors", vectors)


def _documents() -> Iterator[Document]:
    """The documents that the kernel gives: JSON Lines."""
    for line in bytes(function_data()[0]).splitlines():
        told = json.loads(line)
        metadata = json.loads(told["metadata"] or "{}")
        yield Document(told["id"], told["title"], told["text"], metadata, told["metadata"])


def _told(file: File, parts: Iterable[bytes]) -> Iterator[FilePart]:
    """Parts of a file in pieces that are not too large."""
    due: list[bytes] = []
    size = 0
    for part in parts:
        for at in range(0, len(part), PIECE_BYTES):
            due.append(part[at : at + PIECE_BYTES])
            size += len(due[-1])
            if size >= PIECE_BYTES:
                yield _piece(file, due)
                due, size = [], 0
    if due:
        yield _piece(file, due)


def _piece(file: File, parts: Sequence[bytes]) -> FilePart:
    return FilePart(file=file, data=base64.b64encode(b"".join(parts)).decode())
