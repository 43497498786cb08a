"""`inferd.v1.IndexService`."""

from inferd.core.document_index import Index, SearchMode
from inferd.core.ids import ModelName
from inferd.core.index import Page
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.errors import InvalidFieldError
from inferd.runtime.front import indexes as front
from inferd.runtime.front.index_answering import Answers, Told, Wanted
from inferd.runtime.front.index_searching import list_documents, search
from inferd.runtime.index_work import Asker
from inferd.services.calls import Call
from inferd.services.index_values import (
    read_documents,
    read_ids,
    read_query,
    read_spec,
    write_found,
    write_index,
    write_told,
)
from inferd.services.pages import name_of, page_of, size_of, token_of
from inferd.services.task_values import read_priority
from inferd_api.v1 import index_service_pb2 as xs

DEFAULT_TOKENS = 512  # that an answer has at most
TOKENS = range(16, 8193)
READ_INDEX = Policy(Verb.READ, ResourceKind.INDEX)  # what an answer needs, besides the call
RUN_MODEL = Policy(Verb.RUN, ResourceKind.TASK)  # what whoever has vectors made needs, of their model


class Indexes:
    """Translates; see the proto for what each call means."""

    def __init__(self, indexes: front.Indexes, answers: Answers) -> None:
        self._indexes = indexes
        self._answers = answers

    async def CreateIndex(self, request: xs.CreateIndexRequest, call: Call) -> xs.CreateIndexResponse:  # noqa: N802 - the wire's name
        """Make an index."""
        spec = read_spec(request.spec)
        if spec.model:
            call.admission.check(RUN_MODEL, spec.model)
        made = await self._indexes.create(call.caller, spec)
        return xs.CreateIndexResponse(index=write_index(made))

    async def AddDocuments(self, request: xs.AddDocumentsRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Add documents."""

        async def tell(chunks: int, embedded: int) -> None:
            await call.write(xs.AddDocumentsResponse(chunks=chunks, embedded=embedded))

        known = self._indexes.find(call.caller, request.index).index
        check_vectors(call, known)
        documents = read_documents(request.documents, known)
        index, replaced = await self._indexes.add(call.caller, request.index, documents, tell)
        await call.write(xs.AddDocumentsResponse(index=write_index(index), replaced=replaced))

    async def DeleteDocuments(self, request: xs.DeleteDocumentsRequest, call: Call) -> xs.DeleteDocumentsResponse:  # noqa: N802 - the wire's name
        """Delete documents."""
        ids = read_ids(request.document_ids)
        index, deleted = await self._indexes.delete_documents(call.caller, request.index, ids)
        return xs.DeleteDocumentsResponse(index=write_index(index), deleted=deleted)

    async def GetDocument(self, request: xs.GetDocumentRequest, call: Call) -> xs.GetDocumentResponse:  # noqa: N802 - the wire's name
        """Read a document."""
        if request.end and request.end < request.start:
            raise InvalidFieldError(f"end is {request.end} and start is {request.start}", field="end")
        read = await self._indexes.read(
            Asker(call.caller, request.index, read_priority(0)),
            request.document_id,
            start=request.start,
            end=request.end or None,
        )
        return xs.GetDocumentResponse(
            title=read.title,
            metadata_json=read.metadata,
            text=read.text,
            characters=read.characters,
            size_bytes=read.size_bytes,
        )

    async def ListDocuments(self, request: xs.ListDocumentsRequest, call: Call) -> xs.ListDocumentsResponse:  # noqa: N802 - the wire's name
        """List documents."""
        asker = Asker(call.caller, request.index, read_priority(0))
        count = size_of(request.page_size)
        after = name_of(request.page_token) or ""
        with self._indexes.place(call.caller):
            async with self._indexes.cut_short():
                found = await list_documents(self._indexes, asker, after=after, count=count + 1)
        page = Page(found[:count], more=len(found) > count)
        return xs.ListDocumentsResponse(
            documents=[
                xs.ListedDocument(id=each.id, title=each.title, metadata_json=each.metadata, size_bytes=each.size_bytes)
                for each in page.records
            ],
            next_page_token=token_of(page, lambda each: each.id),
        )

    async def GetIndex(self, request: xs.GetIndexRequest, call: Call) -> xs.GetIndexResponse:  # noqa: N802 - the wire's name
        """Read an index."""
        return xs.GetIndexResponse(index=write_index(self._indexes.find(call.caller, request.name).index))

    async def ListIndexes(self, request: xs.ListIndexesRequest, call: Call) -> xs.ListIndexesResponse:  # noqa: N802 - the wire's name
        """List indexes."""
        keyed = [(each.spec.name, each) for each in self._indexes.all(call.caller)]
        page, token = page_of(keyed, request.page_size, request.page_token)
        return xs.ListIndexesResponse(indexes=map(write_index, page), next_page_token=token)

    async def DeleteIndex(self, request: xs.DeleteIndexRequest, call: Call) -> xs.DeleteIndexResponse:  # noqa: N802 - the wire's name
        """Forget an index."""
        await self._indexes.delete(call.caller, request.name)
        return xs.DeleteIndexResponse()

    async def SearchIndex(self, request: xs.SearchIndexRequest, call: Call) -> xs.SearchIndexResponse:  # noqa: N802 - the wire's name
        """Search an index."""
        query, priority = read_query(request.query), read_priority(request.priority)
        check_vectors(call, self._indexes.find(call.caller, query.index).index, query.mode)
        with self._indexes.place(call.caller):
            async with self._indexes.cut_short():
                found, version = await search(self._indexes, call.caller, query, priority)
        return xs.SearchIndexResponse(chunks=write_found(found), version=version)

    async def AnswerQuestion(self, request: xs.AnswerQuestionRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Answer a question."""

        async def tell(told: Told) -> None:
            await call.write(write_told(told))

        if not request.model:
            raise InvalidFieldError("model is empty; name the language model that answers", field="model")
        most_tokens = request.most_tokens or DEFAULT_TOKENS
        if most_tokens not in TOKENS:
            raise InvalidFieldError(
                f"most_tokens is {most_tokens}; it must be {TOKENS.start} to {TOKENS.stop - 1}", field="most_tokens"
            )
        query = read_query(request.query)
        call.admission.check(READ_INDEX)
        check_vectors(call, self._indexes.find(call.caller, query.index).index, query.mode)
        wanted = Wanted(
            query=query,
            model=ModelName(request.model),
            most_tokens=most_tokens,
            priority=read_priority(request.priority),
        )
        await self._answers.answer(wanted, call.caller, tell)


def check_vectors(call: Call, index: Index, mode: SearchMode | None = None) -> None:
    """Refuse a call that needs vectors of a model that it may not run.

    Raises:
        PermissionDeniedError: It may not.
    """
    if index.spec.model and mode is not SearchMode.LEXICAL:
        call.admission.check(RUN_MODEL, index.spec.model)
