"""Documents on their way into an index: cut, given vectors, and made a segment."""

from __future__ import annotations

import asyncio
import base64
import json
from array import array
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from inferd.core.document_index import Segment, merged_next
from inferd.errors import InferdError, InvalidFieldError, LimitExceededError, words_of
from inferd.runtime.elements import Held
from inferd.shared import MOST_AT_ONCE, Memory, Part

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from inferd.core.document_index import Index, NewDocument
    from inferd.index_settings import Indexes as Chosen
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.front.index_tasks import IndexTasks
    from inferd.runtime.index_work import Asker

AS_TEXT: Final = "text"  # of a file
BYTES: Final = frozenset({"pdf"})  # formats that functions are given as base64
ALIKE: Final = 0.99  # the least cosine of vectors that one model made of one text, on whatever device
MOST_SEGMENTS: Final = (MOST_AT_ONCE - 1) // 2  # each has two files, and a search gives a vector besides
TOLD_CHUNKS: Final = 50  # how many vectors come between two tellings


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What becomes a segment: its files, and what is in them."""

    segment: bytes
    vectors: bytes
    documents: int
    chunks: int
    width: int


async def nobody(_: int, __: int) -> None:
    """There is nobody to tell."""


@dataclass(slots=True)
class Adding:
    """Makes segments of an index. One writer: itself.

    Attributes:
        blobs: Where files are kept.
        tasks: By which functions are called, and vectors made.
        chosen: The settings.
        asker: For whom.
        index: How it stands.
        tell: Is given how many chunks there are, and of how many there are vectors.
    """

    blobs: Blobs
    tasks: IndexTasks
    chosen: Chosen
    asker: Asker
    index: Index
    tell: Callable[[int, int], Awaitable[None]] = nobody

    async def make(self, documents: Sequence[NewDocument]) -> Made:
        """What becomes the segment of documents.

        Raises:
            InferdError: One is wrong, or too much, or a task failed.
        """
        texts = await self._texts(documents)
        written = [
            json.dumps(
                {"id": each.id, "title": each.title, "text": text, "metadata": each.metadata}, ensure_ascii=False
            ).encode()
            for each, text in zip(documents, texts, strict=True)
        ]
        given = _memory(b"\n".join(written))
        spec = self.index.spec
        pieces = await self.tasks.call(self.asker, "retrieval_chunks", [given], size=spec.size, overlap=spec.overlap)
        spans = [(int(a), int(b), int(c)) for piece in pieces for a, b, c in piece]
        self._check("chunks", self.index.chunks + len(spans), self.chosen.chunks)
        vectors, width = b"", 0
        if spec.model:
            titles = [each.title for each in documents]
            chunks = [titled(titles[document], texts[document][start:end]) for document, start, end in spans]
            vectors, width = await self._vectors(spec.model, chunks)
        places = _memory(array("q", (number for span in spans for number in span)).tobytes())
        files = await self.tasks.files(
            self.asker, "retrieval_segment", [given, places], fields=[name for name, _ in spec.fields]
        )
        return Made(
            segment=files.get("segment", b""),
            vectors=vectors,
            documents=len(documents),
            chunks=len(spans),
            width=width,
        )

    async def _texts(self, documents: Sequence[NewDocument]) -> list[str]:
        """What documents say."""
        found, total = [], 0
        for number, document in enumerate(documents):
            at = f"documents[{number}]"
            data = await self._data(document, at, total)
            total += len(data) if data else len(document.text.encode())
            self._check("add_bytes", total, self.chosen.add_bytes)
            text = document.text if not document.format else await self._converted(document.format, data, at)
            if not text.strip():
                raise InvalidFieldError(f"{at}: document {document.id!r} has no text", field=at)
            found.append(text)
        return found

    async def _data(self, document: NewDocument, at: str, before: int) -> bytes:
        """The file of a document."""
        if not document.digest:
            return document.data
        tenant = self.asker.caller.tenant
        self._check("add_bytes", before + self.blobs.get(tenant, document.digest).size_bytes, self.chosen.add_bytes)
        data = bytearray()
        try:
            async with aclosing(self.blobs.pieces(tenant, document.digest)) as pieces:
                async for piece in pieces:
                    data += piece
        except InferdError as error:
            error.field = error.field or f"{at}.file.blob"
            raise
        return bytes(data)

    async def _converted(self, form: str, data: bytes, at: str) -> str:
        if form in BYTES:
            content = base64.b64encode(data).decode()
        else:
            try:
                content = data.decode()
            except UnicodeDecodeError as error:
                raise InvalidFieldError(
                    f"{at}.file is no text in UTF-8: byte {error.start} is {data[error.start]:#x}", field=f"{at}.file"
                ) from None
        if form == AS_TEXT:
            return content
        try:
            pieces = await self.tasks.call(self.asker, "convert_in_parts", content=content, source=form, target="text")
        except InvalidFieldError as error:
            raise InvalidFieldError(f"{at}.file: {error.message}", field=f"{at}.file") from None
        return "".join(map(str, pieces))

    async def _vectors(self, model: str, chunks: Sequence[str]) -> tuple[bytes, int]:
        """The vectors of chunks, one behind the other, and how many numbers each has."""
        found: list[array[float] | None] = [None] * len(chunks)
        waiting, done, told = iter(enumerate(chunks)), 0, asyncio.Lock()

        async def work() -> None:
            nonlocal done
            for number, text in waiting:
                vector = found[number] = await self.tasks.embed(self.asker, model, text)
                self._check_width(len(vector), model)
                done += 1
                if done % TOLD_CHUNKS == 0:
                    async with told:
                        await self.tell(len(chunks), done)

        await self.tell(len(chunks), 0)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.chosen.in_flight, len(chunks))):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        await self.tell(len(chunks), done)
        vectors = [each for each in found if each is not None]
        widths = {len(each) for each in vectors}
        if len(widths) > 1:
            raise InvalidFieldError(
                f"model {model!r} gave vectors of {sorted(widths)} numbers: it changed meanwhile; add them again",
                field="index",
            )
        return b"".join(each.tobytes() for each in vectors), max(widths, default=0)

    def _check_width(self, width: int, model: str) -> None:
        check_width(self.index, width, model)

    def _check(self, name: str, value: int, limit: int) -> None:
        if value > limit:
            raise LimitExceededError(
                f"index {self.index.spec.name!r} would have, or be given at once, {value} of what indexes.{name}"
                f" bounds to {limit}; give it fewer or smaller documents, or raise that",
                metadata={"bound": f"indexes.{name}", "value": str(value), "limit": str(limit)},
                field="documents",
            )

    def check_room(self, made: Made) -> None:
        """Refuse what is more than the index may have, or has vectors of another width.

        Raises:
            InferdError: It is.
        """
        self._check("chunks", self.index.chunks + made.chunks, self.chosen.chunks)
        self._check("bytes", self.index.size_bytes + len(made.segment) + len(made.vectors), self.chosen.bytes)
        if made.width:
            self._check_width(made.width, self.index.spec.model)

    def check_segments(self) -> None:
        """Refuse one more segment than a function can be given at once.

        Raises:
            LimitExceededError: It would be.
        """
        have, merged = len(self.index.segments), self.chosen.merge_bytes
        if have >= MOST_SEGMENTS:
            raise LimitExceededError(
                f"index {self.index.spec.name!r} has {have} segments, which is the most that is searched at once, and"
                f" no two of them may be made one: indexes.merge_bytes is {merged}; raise that, or begin another index",
                metadata={"bound": "indexes.merge_bytes", "value": f"more than {merged}", "limit": str(merged)},
                field="documents",
            )

    def mergeable(self) -> tuple[int, ...]:
        """The places of segments that are made one next."""
        return merged_next(self.index.segments, self.chosen.merge_bytes)

    async def merge(self, segments: Sequence[Segment], parts: Sequence[Part]) -> Made:
        """What becomes the one segment of several, without what is dead in them.

        Raises:
            InferdError: The function failed.
        """
        width = self.index.width
        files = await self.tasks.files(
            self.asker,
            "retrieval_merge",
            parts,
            dead=[list(each.dead) for each in segments],
            width=width,
            fields=[name for name, _ in self.index.spec.fields],
        )
        dead = sum(len(each.dead) for each in segments)
        return Made(
            segment=files.get("segment", b""),
            vectors=files.get("vectors", b""),
            documents=sum(each.documents for each in segments) - dead,
            chunks=json.loads(files["counts"])["chunks"],
            width=width,
        )

    async def keep(self, made: Made, holder: str) -> Segment:
        """Keep a segment's files, held.

        Raises:
            InferdError: They cannot be kept; none is held.
        """
        tenant, digests = self.asker.caller.tenant, list[str]()
        try:
            for data in filter(None, (made.segment, made.vectors)):
                digest = await asyncio.to_thread(lambda given: sha256(given).hexdigest(), data)
                await self.blobs.put(tenant, digest, Held(data), holder)
                digests.append(digest)
        except BaseException:
            for digest in digests:
                self.blobs.let_go(tenant, digest, holder)
            raise
        return Segment(
            digest=digests[0],
            size_bytes=len(made.segment),
            vectors=digests[1] if made.vectors else "",
            vectors_bytes=len(made.vectors),
            documents=made.documents,
            chunks=made.chunks,
        )


def check_width(index: Index, width: int, model: str) -> None:
    """Refuse a vector that is not as wide as those of an index.

    Raises:
        InvalidFieldError: It is not.
    """
    if index.width and width != index.width:
        name = index.spec.name
        raise InvalidFieldError(
            f"model {model!r} gives vectors of {width} numbers and those of index {name!r} have {index.width}: it is"
            " another model than the one that made them; make a new index and add the documents to it",
            field="index",
        )


def titled(title: str, text: str) -> str:
    """What a chunk's vector is made of."""
    return f"{title}\n{text}" if title else text


async def check_model(index: Index, tasks: IndexTasks, asker: Asker, parts: Sequence[Part]) -> None:
    """Refuse a model that is not the one that made the vectors of an index: it gives its first chunk another one.

    Args:
        index: With vectors.
        tasks: By which a vector is made.
        asker: For whom.
        parts: The files of its first segment.

    Raises:
        InvalidFieldError: It is another one.
        InferdError: A task failed.
    """
    told = await tasks.whole(asker, "retrieval_sample", parts[:1])
    vector = await tasks.embed(asker, index.spec.model, titled(str(told["title"]), str(told["text"])))
    check_width(index, len(vector), index.spec.model)
    made = array("f", parts[1].read(0, vector.itemsize * len(vector)))
    alike = sum(a * b for a, b in zip(vector, made, strict=True))
    if alike < ALIKE:
        raise InvalidFieldError(
            f"model {index.spec.model!r} is not the one that made the vectors of index {index.spec.name!r}: that of its"
            f" first chunk has a cosine of {alike:.3f} with the one it gives now, and {ALIKE} is the least; make a new"
            " index and add the documents to it, or bring that model back",
            field="index",
        )


def _memory(data: bytes) -> Part:
    """Bytes in a memory.

    Raises:
        LimitExceededError: The system has none.
    """
    try:
        return Part(Memory.of(data), 0, len(data))
    except (OSError, AttributeError) as error:
        raise LimitExceededError(
            f"there is no memory for {len(data)} bytes of documents: {words_of(error)}",
            metadata={"value": str(len(data))},
        ) from None
