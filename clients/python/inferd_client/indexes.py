"""Indexes: documents that are searched and asked. `Indexes` and `AsyncIndexes` differ in `await` only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from inferd_api.v1.index_pb2 import (
    Chunking,
    IndexDocument,
    IndexField,
    IndexFieldType,
    IndexFilter,
    IndexQuery,
    IndexSpec,
    SearchMode,
)
from inferd_api.v1.index_service_pb2 import (
    AddDocumentsRequest,
    AnswerQuestionRequest,
    CreateIndexRequest,
    DeleteDocumentsRequest,
    DeleteIndexRequest,
    GetDocumentRequest,
    GetIndexRequest,
    ListDocumentsRequest,
    ListIndexesRequest,
    SearchIndexRequest,
)
from inferd_api.v1.index_service_pb2_grpc import IndexServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from inferd_api.v1.index_pb2 import FoundChunk, Index
    from inferd_api.v1.index_service_pb2 import (
        AddDocumentsResponse,
        AnswerQuestionResponse,
        GetDocumentResponse,
        ListedDocument,
    )
    from inferd_api.v1.index_service_pb2_grpc import IndexServiceAsyncStub

Mode: TypeAlias = Literal["", "vector", "lexical", "hybrid"]
"""How chunks are found; "" for what the index can."""
Condition: TypeAlias = "tuple[str, str, Any]"
"""A field, "=", "!=", "in", "<", "<=", ">" or ">=", and a value."""
Tell: TypeAlias = Callable[[int, int, int], object]
"""Is given how many documents have been added, how many chunks of those under way are done, and of how many."""

BATCH_BYTES: Final = 1 << 20  # of documents that are added by one call
BATCH_DOCUMENTS: Final = 1000
COMPARISONS: Final = ("=", "!=", "in", "<", "<=", ">", ">=")  # by the numbers of the wire, from 1
MODES: Final = ("", "vector", "lexical", "hybrid")  # likewise, from 0
TYPES: Final = ("text", "number", "bool")  # likewise, from 1


@dataclass(frozen=True, slots=True)
class Added:
    """What became of documents that were added.

    Attributes:
        index: As it stands then.
        documents: How many were added.
        replaced: How many of them took the place of one of the same id.
    """

    index: Index
    documents: int
    replaced: int


def document(
    id: str,  # noqa: A002 - as the wire calls it
    text: str,
    *,
    title: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> IndexDocument:
    """A document of a text; one of a file is written as `IndexDocument(id=…, file=DocumentFile(…))`."""
    return IndexDocument(
        id=id,
        text=text,
        title=title,
        metadata_json=json.dumps(metadata, ensure_ascii=False) if metadata else "",
    )


def _spec(name: str, options: Mapping[str, Any]) -> IndexSpec:
    fields = options["fields"] or {}
    for field, kind in fields.items():
        if kind not in TYPES:
            raise ValueError(f"field {field!r} is {kind!r}; it must be one of {', '.join(TYPES)}")
    return IndexSpec(
        name=name,
        embedding_model=options["embedding_model"],
        chunking=Chunking(size=options["chunk_size"], overlap=options["chunk_overlap"]),
        fields=[
            IndexField(name=field, type=IndexFieldType.ValueType(TYPES.index(kind) + 1))
            for field, kind in fields.items()
        ],
        description=options["description"],
    )


def _query(index: str, text: str, count: int, mode: Mode, filters: Iterable[Condition]) -> IndexQuery:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, MODES))}")
    return IndexQuery(
        index=index,
        text=text,
        count=count,
        mode=SearchMode.ValueType(MODES.index(mode)),
        filters=[_filter(*each) for each in filters],
    )


def _filter(field: str, comparison: str, value: object) -> IndexFilter:
    if comparison not in COMPARISONS:
        raise ValueError(f"{comparison!r} compares nothing; it must be one of {', '.join(COMPARISONS)}")
    return IndexFilter(
        field=field,
        comparison=IndexFilter.Comparison.ValueType(COMPARISONS.index(comparison) + 1),
        value_json=json.dumps(value, ensure_ascii=False),
    )


def _batches(documents: Iterable[IndexDocument]) -> Iterator[list[IndexDocument]]:
    batch: list[IndexDocument] = []
    size = 0
    for each in documents:
        if batch and (size + each.ByteSize() > BATCH_BYTES or len(batch) == BATCH_DOCUMENTS):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.ByteSize()
    if batch:
        yield batch


class _Adding:
    """Counts what was added."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._added: Added | None = None
        self._documents = self._replaced = 0

    def hear(self, response: AddDocumentsResponse, batch: Sequence[IndexDocument]) -> None:
        """Note what a call tells."""
        if response.HasField("index"):
            self._documents += len(batch)
            self._replaced += response.replaced
            self._added = Added(response.index, self._documents, self._replaced)
        if self._tell is not None:
            self._tell(self._documents, response.embedded, response.chunks)

    def end(self) -> Added:
        """All that was added."""
        if self._added is None:
            raise ValueError("there are no documents to add")
        return self._added


@strict
class Indexes(Connection):
    """The indexes of a synchronous client."""

    @cached_property
    def _indexes(self) -> IndexServiceStub:
        return IndexServiceStub(self._channel)

    def create_index(
        self,
        name: str,
        *,
        embedding_model: str = "",
        fields: Mapping[str, str] | None = None,
        chunk_size: int = 0,
        chunk_overlap: int = 0,
        description: str = "",
    ) -> Index:
        """Make an index without documents, or find the one that is made for the same.

        Args:
            name: Its name.
            embedding_model: Makes vectors; default: none, and it is searched by words alone.
            fields: Of documents' metadata by which searches filter: "text", "number" or "bool" by name.
            chunk_size: Most characters of a chunk; 0 for 800.
            chunk_overlap: About how many characters a chunk begins before the end of the one before.
            description: What people should know of it.
        """
        spec = _spec(
            name,
            {
                "embedding_model": embedding_model,
                "fields": fields,
                "chunk_size": chunk_size,
                "chunk_overlap": chunk_overlap,
                "description": description,
            },
        )
        return self._call(self._indexes.CreateIndex, CreateIndexRequest(spec=spec)).index

    def add_documents(self, index: str, new_documents: Iterable[IndexDocument], *, tell: Tell | None = None) -> Added:
        """Add documents or replace those of the same ids, about a megabyte with each call: all of a call or none.

        Args:
            index: Name of the index.
            new_documents: They; `document` makes them of texts.
            tell: Is told how far it is.
        """
        adding = _Adding(tell)
        for batch in _batches(new_documents):
            for response in self._stream(self._indexes.AddDocuments, AddDocumentsRequest(index=index, documents=batch)):
                adding.hear(response, batch)
        return adding.end()

    def delete_documents(self, index: str, document_ids: Sequence[str]) -> int:
        """Forget documents; how many of them were there."""
        request = DeleteDocumentsRequest(index=index, document_ids=document_ids)
        return self._call(self._indexes.DeleteDocuments, request).deleted

    def get_document(self, index: str, document_id: str, *, start: int = 0, end: int = 0) -> GetDocumentResponse:
        """A document, or its text from one character to another. Raises DocumentNotFoundError."""
        request = GetDocumentRequest(index=index, document_id=document_id, start=start, end=end)
        return self._call(self._indexes.GetDocument, request)

    def list_documents(self, index: str) -> Generator[ListedDocument]:
        """The documents of an index by the bytes of their ids, without their texts. Raises IndexNotFoundError."""
        for page in self._pages(self._indexes.ListDocuments, ListDocumentsRequest(index=index)):
            yield from page.documents

    def get_index(self, name: str) -> Index:
        """An index. Raises IndexNotFoundError."""
        return self._call(self._indexes.GetIndex, GetIndexRequest(name=name)).index

    def list_indexes(self) -> Generator[Index]:
        """The tenant's indexes by name."""
        for page in self._pages(self._indexes.ListIndexes, ListIndexesRequest()):
            yield from page.indexes

    def delete_index(self, name: str) -> None:
        """Forget an index and its documents. Raises IndexNotFoundError."""
        self._call(self._indexes.DeleteIndex, DeleteIndexRequest(name=name))

    def search_index(
        self, index: str, text: str, *, count: int = 5, mode: Mode = "", filters: Iterable[Condition] = ()
    ) -> list[FoundChunk]:
        """The chunks that fit a text best, the best first.

        Args:
            index: Name of the index.
            text: What is looked for.
            count: Most chunks.
            mode: "vector", "lexical" or "hybrid"; "" for what the index can.
            filters: All of these must hold, as ("year", ">=", 2020).
        """
        request = SearchIndexRequest(query=_query(index, text, count, mode, filters))
        return list(self._call(self._indexes.SearchIndex, request).chunks)

    def answer_question(
        self,
        index: str,
        question: str,
        *,
        model: str,
        count: int = 5,
        mode: Mode = "",
        filters: Iterable[Condition] = (),
        most_tokens: int = 0,
    ) -> Generator[AnswerQuestionResponse]:
        """Answer a question from the documents of an index: first what was found, then text, then citations.

        Where `finish_reason` of the last is that of most tokens, the answer was cut off.

        Args:
            index: Name of the index.
            question: It.
            model: The language model that answers.
            count: Most passages.
            mode: As of `search_index`.
            filters: As of `search_index`.
            most_tokens: Most that it writes; 0 for 512.
        """
        query = _query(index, question, count, mode, filters)
        yield from self._stream(
            self._indexes.AnswerQuestion, AnswerQuestionRequest(query=query, model=model, most_tokens=most_tokens)
        )


@strict
class AsyncIndexes(AsyncConnection):
    """The indexes of an asynchronous client; each method is as its namesake in `Indexes`."""

    @cached_property
    def _indexes(self) -> IndexServiceAsyncStub:
        return IndexServiceStub(self._channel)

    async def create_index(
        self,
        name: str,
        *,
        embedding_model: str = "",
        fields: Mapping[str, str] | None = None,
        chunk_size: int = 0,
        chunk_overlap: int = 0,
        description: str = "",
    ) -> Index:
        """As `Indexes.create_index`."""
        spec = _spec(
            name,
            {
                "embedding_model": embedding_model,
                "fields": fields,
                "chunk_size": chunk_size,
                "chunk_overlap": chunk_overlap,
                "description": description,
            },
        )
        return (await self._call(self._indexes.CreateIndex, CreateIndexRequest(spec=spec))).index

    async def add_documents(
        self, index: str, new_documents: Iterable[IndexDocument], *, tell: Tell | None = None
    ) -> Added:
        """As `Indexes.add_documents`."""
        adding = _Adding(tell)
        for batch in _batches(new_documents):
            async for response in self._stream(
                self._indexes.AddDocuments, AddDocumentsRequest(index=index, documents=batch)
            ):
                adding.hear(response, batch)
        return adding.end()

    async def delete_documents(self, index: str, document_ids: Sequence[str]) -> int:
        """As `Indexes.delete_documents`."""
        request = DeleteDocumentsRequest(index=index, document_ids=document_ids)
        return (await self._call(self._indexes.DeleteDocuments, request)).deleted

    async def get_document(self, index: str, document_id: str, *, start: int = 0, end: int = 0) -> GetDocumentResponse:
        """As `Indexes.get_document`."""
        request = GetDocumentRequest(index=index, document_id=document_id, start=start, end=end)
        return await self._call(self._indexes.GetDocument, request)

    async def list_documents(self, index: str) -> AsyncGenerator[ListedDocument]:
        """As `Indexes.list_documents`."""
        async for page in self._pages(self._indexes.ListDocuments, ListDocumentsRequest(index=index)):
            for each in page.documents:
                yield each

    async def get_index(self, name: str) -> Index:
        """As `Indexes.get_index`."""
        return (await self._call(self._indexes.GetIndex, GetIndexRequest(name=name))).index

    async def list_indexes(self) -> AsyncGenerator[Index]:
        """As `Indexes.list_indexes`."""
        async for page in self._pages(self._indexes.ListIndexes, ListIndexesRequest()):
            for index in page.indexes:
                yield index

    async def delete_index(self, name: str) -> None:
        """As `Indexes.delete_index`."""
        await self._call(self._indexes.DeleteIndex, DeleteIndexRequest(name=name))

    async def search_index(
        self, index: str, text: str, *, count: int = 5, mode: Mode = "", filters: Iterable[Condition] = ()
    ) -> list[FoundChunk]:
        """As `Indexes.search_index`."""
        request = SearchIndexRequest(query=_query(index, text, count, mode, filters))
        return list((await self._call(self._indexes.SearchIndex, request)).chunks)

    async def answer_question(
        self,
        index: str,
        question: str,
        *,
        model: str,
        count: int = 5,
        mode: Mode = "",
        filters: Iterable[Condition] = (),
        most_tokens: int = 0,
    ) -> AsyncGenerator[AnswerQuestionResponse]:
        """As `Indexes.answer_question`."""
        query = _query(index, question, count, mode, filters)
        async for response in self._stream(
            self._indexes.AnswerQuestion, AnswerQuestionRequest(query=query, model=model, most_tokens=most_tokens)
        ):
            yield response
