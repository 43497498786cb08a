"""Segments: documents, their chunks and the words of these, in one run of bytes that is read in its place.

MAGIC, the size of the head (8 bytes, little-endian), the head (JSON: of each section where it begins behind the head,
and its size), then the sections, each at a multiple of 64 bytes.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd_retrieval.words import words

MAGIC: Final = b"inferd index 1\n\x00"
ALIGNMENT: Final = 64  # bytes
SIZE_BYTES: Final = 8
CHUNK_NUMBERS: Final = 5  # document, start and end in characters, start and end in bytes of all texts


@dataclass(frozen=True, slots=True)
class Document:
    """A document.

    Attributes:
        id: Its id.
        title: Its title.
        text: What it says.
        metadata: What else is known of it.
        metadata_json: That, as it was given.
    """

    id: str
    title: str
    text: str
    metadata: Mapping[str, Any]
    metadata_json: str


class Table:
    """Sorted strings of bytes.

    Args:
        starts: Where each begins, and where the last ends.
        data: All of them.
    """

    def __init__(self, starts: NDArray[np.int64], data: memoryview) -> None:
        self._starts = starts
        self._data = data

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> bytes:
        return bytes(self._data[self._starts[place] : self._starts[place + 1]])

    def first(self, wanted: bytes) -> int:
        """The place of the first string that is not before one."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, wanted: bytes) -> int:
        """The place of a string; -1 where it is not there."""
        place = self.first(wanted)
        return place if place < len(self) and self[place] == wanted else -1


class Segment:
    """A segment where it lies; nothing is read before it is asked for.

    Raises:
        ValueError: It is none.
    """

    def __init__(self, data: memoryview) -> None:
        if bytes(data[: len(MAGIC)]) != MAGIC:
            raise ValueError("a segment of the index does not begin as one: it was made by another release")
        behind = len(MAGIC) + SIZE_BYTES
        size = int.from_bytes(data[len(MAGIC) : behind], "little")
        self._places: dict[str, tuple[int, int]] = json.loads(bytes(data[behind : behind + size]))
        self._data = data[_aligned(behind + size) :]

    def raw(self, name: str) -> memoryview:
        """A section."""
        start, size = self._places[name]
        return self._data[start : start + size]

    def numbers(self, name: str, kind: Any = np.int64) -> NDArray[Any]:
        """A section of numbers."""
        return np.frombuffer(self.raw(name), kind)

    @cached_property
    def chunks(self) -> NDArray[np.int64]:
        """Of each chunk `CHUNK_NUMBERS` numbers."""
        return self.numbers("chunks").reshape(-1, CHUNK_NUMBERS)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Words of each chunk, with those of the title."""
        return self.numbers("lengths", np.int32)

    @cached_property
    def terms(self) -> Table:
        """All its words."""
        return Table(self.numbers("term_at"), self.raw("terms"))

    @cached_property
    def _texts(self) -> NDArray[np.int64]:
        return self.numbers("text_at")

    @property
    def documents(self) -> int:
        """How many it has."""
        return len(self._texts) - 1

    def postings(self, word: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The chunks that have a word, and how often."""
        if (place := self.terms.find(word.encode())) < 0:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        begin, end = self.numbers("posting_at")[place : place + 2]
        return self.numbers("postings", np.int32)[begin:end], self.numbers("counts", np.int32)[begin:end]

    def find(self, document_id: str) -> int:
        """The row of a document; -1 where it is not here."""
        place = self._ids.find(document_id.encode())
        return -1 if place < 0 else int(self.numbers("id_rows")[place])

    def ids_after(self, document_id: str) -> Iterator[tuple[bytes, int]]:
        """The ids behind one, in the order of their bytes, each with its row; all of them behind ""."""
        ids, rows = self._ids, self.numbers("id_rows")
        for place in range(ids.first(document_id.encode() + b"\x00") if document_id else 0, len(ids)):
            yield ids[place], int(rows[place])

    def size(self, row: int) -> int:
        """Bytes of the text of a document."""
        return int(self._texts[row + 1] - self._texts[row])

    @cached_property
    def _ids(self) -> Table:
        return Table(self.numbers("id_at"), self.raw("ids"))

    def document(self, row: int) -> Document:
        """A document, whole."""
        return self._document(row, str(self.raw("texts")[self._texts[row] : self._texts[row + 1]], "utf-8"))

    def about(self, row: int) -> Document:
        """A document without its text."""
        return self._document(row, "")

    def _document(self, row: int, text: str) -> Document:
        starts = self.numbers("document_at")
        told = json.loads(bytes(self.raw("documents")[starts[row] : starts[row + 1]]))
        return Document(told["id"], told["title"], text, json.loads(told["metadata"] or "{}"), told["metadata"])

    def text(self, chunk: int) -> str:
        """The text of a chunk."""
        *_, begin, end = self.chunks[chunk]
        return str(self.raw("texts")[begin:end], "utf-8")

    def field(self, name: str) -> list[Any]:
        """The value of a field for each document; None where it has none."""
        section = f"field {name}"
        return json.loads(bytes(self.raw(section))) if section in self._places else [None] * self.documents


def build(documents: Sequence[Document], spans: Sequence[tuple[int, int, int]], fields: Iterable[str]) -> list[bytes]:
    """A segment, in pieces.

    Args:
        documents: In their order.
        spans: Of each chunk its document, and where it begins and ends in that, in characters; in their order.
        fields: Names of fields by which searches filter.
    """
    sections: dict[str, bytes] = {}
    texts = [document.text.encode() for document in documents]
    sections["text_at"] = _starts(texts)
    sections["texts"] = b"".join(texts)
    told = [
        json.dumps({"id": each.id, "title": each.title, "metadata": each.metadata_json}, ensure_ascii=False).encode()
        for each in documents
    ]
    sections["document_at"], sections["documents"] = _starts(told), b"".join(told)
    ids = [document.id.encode() for document in documents]
    rows = sorted(range(len(ids)), key=ids.__getitem__)
    sections["id_at"], sections["ids"] = _starts([ids[row] for row in rows]), b"".join(ids[row] for row in rows)
    sections["id_rows"] = np.array(rows, np.int64).tobytes()
    for name in fields:
        values = [each.metadata.get(name) for each in documents]
        sections[f"field {name}"] = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    sections["chunks"] = _placed(documents, spans, np.frombuffer(sections["text_at"], np.int64))
    sections |= _counted(documents, spans)
    return _laid_out(sections)


def _placed(documents: Sequence[Document], spans: Sequence[tuple[int, int, int]], text_at: NDArray[np.int64]) -> bytes:
    """Where chunks are, in characters and in bytes."""
    placed = np.empty((len(spans), CHUNK_NUMBERS), np.int64)
    row, at, at_bytes = -1, 0, 0
    for number, (document, start, end) in enumerate(spans):
        text = documents[document].text
        if document != row or start < at:
            row, at, at_bytes = document, 0, int(text_at[document])
        at_bytes += len(text[at:start].encode())
        at = start
        placed[number] = document, start, end, at_bytes, at_bytes + len(text[start:end].encode())
    return placed.tobytes()


def _counted(documents: Sequence[Document], spans: Sequence[tuple[int, int, int]]) -> dict[str, bytes]:
    """How often which chunk has which word."""
    numbers: dict[str, int] = {}
    terms, chunks, counts, lengths = array("i"), array("i"), array("i"), array("i")
    for number, (document, start, end) in enumerate(spans):
        found = words(f"{documents[document].title}\n{documents[document].text[start:end]}")
        lengths.append(len(found))
        for word, count in Counter(found).items():
            terms.append(numbers.setdefault(word, len(numbers)))
            chunks.append(number)
            counts.append(count)
    ordered = sorted(numbers, key=str.encode)
    ranks = np.empty(len(numbers), np.int64)
    ranks[[numbers[word] for word in ordered]] = np.arange(len(ordered))
    of_entries = ranks[np.frombuffer(terms, np.int32)] if len(terms) else np.empty(0, np.int64)
    order = np.argsort(of_entries, kind="stable")
    posting_at = np.concatenate(([0], np.cumsum(np.bincount(of_entries, minlength=len(ordered)))))
    encoded = [word.encode() for word in ordered]
    return {
        "term_at": _starts(encoded),
        "terms": b"".join(encoded),
        "posting_at": posting_at.astype(np.int64).tobytes(),
        "postings": np.frombuffer(chunks, np.int32)[order].tobytes() if len(chunks) else b"",
        "counts": np.frombuffer(counts, np.int32)[order].tobytes() if len(counts) else b"",
        "lengths": lengths.tobytes(),
    }


def _starts(parts: Sequence[bytes]) -> bytes:
    return np.concatenate(([0], np.cumsum([len(part) for part in parts], dtype=np.int64))).astype(np.int64).tobytes()


def _laid_out(sections: Mapping[str, bytes]) -> list[bytes]:
    places, at = {}, 0
    for name, data in sections.items():
        places[name] = (at, len(data))
        at = _aligned(at + len(data))
    head = json.dumps(places, separators=(",", ":")).encode()
    begun = MAGIC + len(head).to_bytes(SIZE_BYTES, "little") + head
    pieces = [begun.ljust(_aligned(len(begun)), b"\x00")]
    for data in sections.values():
        pieces += [data, bytes(_aligned(len(data)) - len(data))]
    return pieces


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
