"""`/v1/vector_stores`: indexes of the tenant, whose documents are files, in OpenAI's words.

A store's id is `vs_` and the name of its index, so that all indexes are stores, and stores are searched and asked by
gRPC, too. What OpenAI lets say of a store and its files, and an index does not know, stands in the description of the
index and in the metadata of its documents.
"""

from __future__ import annotations

import time
from contextlib import aclosing, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from inferd.http.calls import answer
from inferd.http.fields import Refused, check_fields, check_option, need, shown, take
from inferd.http.files import Files, lacking, page
from inferd.http.problems import Refusal
from inferd.http.vector_fields import (
    PAIRS,
    REFUSED,
    attributes_in,
    description_of,
    metadata_of,
    read_attributes,
    read_chunking,
    read_filters,
    said_in,
)
from inferd_api.v1.index_pb2 import DocumentFile, IndexDocument
from inferd_client.errors import DocumentNotFoundError, InferdError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from inferd.http.calls import Call
    from inferd_api.v1.index_pb2 import FoundChunk, Index
    from inferd_client.indexes import Mode

PREFIX: Final = "vs_"
STORE: Final = "vector_store"
FILE: Final = "vector_store.file"
FORMATS: Final = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown", ".pdf": "pdf"}
MOST_PAGE, USUAL_PAGE = 100, 20
MOST_FILES: Final = 10_000  # of a store that are listed
MOST_RESULTS, USUAL_RESULTS = 50, 10
MOST_QUERIES: Final = 16
STATUSES: Final = ("in_progress", "completed", "failed", "cancelled")
MOST_AT_ONCE: Final = 500  # files that a store is made with


class VectorStores:
    """Answers requests about vector stores.

    Args:
        files: Whose texts they have.
        model: Makes the vectors of stores that name none; "" for stores that are found by words alone.
    """

    def __init__(self, files: Files, model: str) -> None:
        self._files = files
        self._model = model

    async def create(self, call: Call) -> ASGIApp:
        """Make one, with the files that are named."""
        body = call.body
        known = {"name", "description", "metadata", "file_ids", "chunking_strategy", "embedding_model", "fields"}
        check_fields(body, known, REFUSED)
        metadata = take(body, "metadata", dict, "an object of texts", {})
        check_option("labels", metadata, "metadata")
        given = take(body, "file_ids", list, "a list of ids of files", [])
        if len(given) > MOST_AT_ONCE:
            raise Refusal(f"file_ids has {len(given)} ids; at most {MOST_AT_ONCE}", param="file_ids")
        fields = take(body, "fields", dict, 'an object, as {"year": "number"}', {})
        if PAIRS in fields or not all(kind in ("text", "number", "bool") for kind in fields.values()):
            raise Refusal(f"fields must be text, number or bool by name, and none is {PAIRS}", param="fields")
        name = take(body, "name", str, "a text", "")
        chunking = read_chunking(body)
        if not all(isinstance(each, str) for each in given):
            raise Refusal("file_ids must have ids of files", param="file_ids")
        documents = [await self._document(call, each, {}, "file_ids") for each in dict.fromkeys(given)]
        index = await call.client.create_index(
            uuid4().hex[:24],
            embedding_model=take(body, "embedding_model", str, "the name of a model", self._model),
            fields={PAIRS: "text", **fields},
            description=description_of(name, take(body, "description", str, "a text", ""), metadata),
            **chunking,
        )
        if documents:
            try:
                index = (await call.client.add_documents(index.spec.name, documents)).index
            except BaseException:  # nobody has been told its id; who asked may have gone
                with suppress(InferdError):
                    await call.client.delete_index(index.spec.name)
                raise
        return answer(described(index))

    async def list(self, call: Call) -> ASGIApp:
        """Those of the tenant, the newest first."""
        falls = _falls(call)
        async with aclosing(call.client.list_indexes()) as indexes:
            found = [each async for each in indexes]
        found.sort(key=lambda each: each.create_time.ToNanoseconds(), reverse=falls)
        return answer(page([described(each) for each in found], call.query, most=MOST_PAGE, usual=USUAL_PAGE))

    async def get(self, call: Call) -> ASGIApp:
        """One of them."""
        return answer(described(await call.client.get_index(_name(call))))

    async def change(self, call: Call) -> ASGIApp:
        """Refuse to: what an index is made for never changes."""
        why = "what a store is made with never changes; make another one"
        check_fields(call.body, (), dict.fromkeys(("name", "metadata", "expires_after"), Refused(why)))
        return await self.get(call)

    async def delete(self, call: Call) -> ASGIApp:
        """Forget one; its files stay."""
        await call.client.delete_index(_name(call))
        return answer({"id": call.path["id"], "object": "vector_store.deleted", "deleted": True})

    async def search(self, call: Call) -> ASGIApp:
        """What fits a query best."""
        body = call.body
        known = {"query", "max_num_results", "filters", "ranking_options", "mode"}
        check_fields(body, known, REFUSED)
        given = need(body, "query", (str, list), "a text, or a list of texts")
        queries = [given] if isinstance(given, str) else given
        if not 1 <= len(queries) <= MOST_QUERIES or not all(isinstance(each, str) and each for each in queries):
            raise Refusal(f"query must be a text, or 1 to {MOST_QUERIES} texts, none of them empty", param="query")
        count = take(body, "max_num_results", int, "a whole number", USUAL_RESULTS)
        if not 1 <= count <= MOST_RESULTS:
            raise Refusal(f"max_num_results is {count}; it must be 1 to {MOST_RESULTS}", param="max_num_results")
        ranking = take(body, "ranking_options", dict, "an object", {})
        known_ranking = {"ranker", "score_threshold"}
        check_fields(ranking, known_ranking, {"hybrid_search": Refused("words count 0.6, vectors 0.4")})
        least = take(ranking, "score_threshold", (int, float), "a number", 0)
        mode: Mode = take(body, "mode", str, "vector, lexical or hybrid", "")
        if mode not in ("", "vector", "lexical", "hybrid"):
            raise Refusal("mode must be vector, lexical or hybrid", param="mode")
        index = await call.client.get_index(_name(call))
        filters = read_filters(body, index)
        found: dict[tuple[str, int], FoundChunk] = {}
        for query in queries:
            chunks = await call.client.search_index(index.spec.name, query, count=count, mode=mode, filters=filters)
            for chunk in chunks:
                place = chunk.document_id, chunk.start
                if place not in found or found[place].score < chunk.score:
                    found[place] = chunk
        best = sorted(found.values(), key=lambda each: -each.score)[:count]
        told = {"object": "vector_store.search_results.page", "search_query": queries, "has_more": False}
        return answer(told | {"data": [_result(each) for each in best if each.score >= least], "next_page": None})

    async def add_file(self, call: Call) -> ASGIApp:
        """Add a file, or change its attributes; it can be found when this answers."""
        body = call.body
        check_fields(body, {"file_id", "attributes", "chunking_strategy"}, REFUSED)
        if read_chunking(body):
            raise Refusal("chunking_strategy is of the store; make one with it", param="chunking_strategy")
        given, created = call.path.get("file_id"), None
        if given is None:
            given = need(body, "file_id", str, "the id of a file")
        else:
            created = (await self._told(call, given))["created_at"]
        document = await self._document(call, given, read_attributes(body), "file_id", created)
        await call.client.add_documents(_name(call), [document])
        return answer(await self._told(call, given))

    async def list_files(self, call: Call) -> ASGIApp:
        """The files of one, the newest first."""
        wanted, falls, found = _chosen(call, "filter", "completed", STATUSES), _falls(call), []
        async with aclosing(call.client.list_documents(_name(call))) as documents:
            async for each in documents:
                found.append(_file(call.path["id"], each.id, each.metadata_json, each.size_bytes))
                if len(found) == MOST_FILES:
                    break
        found.sort(key=lambda each: (each["created_at"], each["id"]), reverse=falls)
        told = found if wanted == "completed" else []
        return answer(page(told, call.query, most=MOST_PAGE, usual=USUAL_PAGE))

    async def get_file(self, call: Call) -> ASGIApp:
        """One of them."""
        return answer(await self._told(call, call.path["file_id"]))

    async def read_file(self, call: Call) -> ASGIApp:
        """The text of one, as it is searched."""
        name, text = _name(call), ""
        while True:
            told = await call.client.get_document(name, call.path["file_id"], start=len(text))
            text += told.text
            if len(text) >= told.characters or not told.text:
                break
        content = [{"type": "text", "text": text}]
        return answer(
            {"object": "vector_store.file_content.page", "data": content, "has_more": False, "next_page": None}
        )

    async def remove_file(self, call: Call) -> ASGIApp:
        """Have one found no more; the file itself stays."""
        given = call.path["file_id"]
        if not await call.client.delete_documents(_name(call), [given]):
            raise lacking("file", given, "file_id")
        return answer({"id": given, "object": "vector_store.file.deleted", "deleted": True})

    async def _document(
        self, call: Call, file_id: Any, attributes: dict[str, Any], param: str, created_at: int | None = None
    ) -> IndexDocument:
        if not isinstance(file_id, str):
            raise Refusal(f"{param} must have ids of files", param=param)
        facts = (await self._files.find(call.client, file_id, param)).facts
        kind = FORMATS.get(PurePath(facts["filename"]).suffix.lower(), "text")
        return IndexDocument(
            id=file_id,
            title=facts["filename"],
            file=DocumentFile(format=kind, blob=facts["content"]),
            metadata_json=metadata_of(attributes, int(time.time()) if created_at is None else created_at),
        )

    async def _told(self, call: Call, file_id: str) -> dict[str, Any]:
        try:
            told = await call.client.get_document(_name(call), file_id, end=1)
        except DocumentNotFoundError:
            raise lacking("file", file_id, "file_id") from None
        return _file(call.path["id"], file_id, told.metadata_json, told.size_bytes)


def _chosen(call: Call, name: str, usual: str, known: tuple[str, ...]) -> str:
    """A word of the query.

    Raises:
        Refusal: It is none of those that are known.
    """
    said = call.query.get(name, usual)
    if said not in known:
        raise Refusal(f"{name} is {shown(said)}; it must be one of {', '.join(known)}", param=name)
    return said


def _falls(call: Call) -> bool:
    """Whether a list begins with the newest.

    Raises:
        Refusal: `order` is none; or what is before a thing is asked for, and not behind one.
    """
    if call.query.get("before"):
        raise Refusal("before is not supported: ask with the other order, and after", param="before")
    return _chosen(call, "order", "desc", ("asc", "desc")) == "desc"


def _name(call: Call) -> str:
    """The name of the index that a request is about.

    Raises:
        Refusal: The id is none of a store.
    """
    given = call.path["id"]
    if not given.startswith(PREFIX) or given == PREFIX:
        raise Refusal(
            f"there is no vector store {given[:80]!r}", status=404, code="INDEX_NOT_FOUND", param="vector_store_id"
        )
    return given.removeprefix(PREFIX)


def described(index: Index) -> dict[str, Any]:
    """An index in OpenAI's words."""
    said, created = said_in(index.spec.description), index.create_time.seconds
    ours = isinstance(said.get("name"), str) and isinstance(said.get("metadata"), dict)
    counts = {"in_progress": 0, "completed": index.documents, "failed": 0, "cancelled": 0, "total": index.documents}
    return {
        "id": PREFIX + index.spec.name,
        "object": STORE,
        "created_at": created,
        "name": said["name"] if ours else index.spec.name,
        "description": said.get("description") if ours else index.spec.description,
        "metadata": said["metadata"] if ours else {},
        "usage_bytes": index.size_bytes,
        "file_counts": counts,
        "status": "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": index.update_time.seconds,
        "embedding_model": index.spec.embedding_model or None,
    }


def _file(store_id: str, file_id: str, metadata_json: str, size: int) -> dict[str, Any]:
    created = said_in(metadata_json).get("created_at")
    return {
        "id": file_id,
        "object": FILE,
        "created_at": created if isinstance(created, int) else 0,
        "vector_store_id": store_id,
        "usage_bytes": size,
        "status": "completed",
        "last_error": None,
        "attributes": attributes_in(metadata_json),
        "chunking_strategy": {"type": "other"},
    }


def _result(chunk: FoundChunk) -> dict[str, Any]:
    return {
        "file_id": chunk.document_id,
        "filename": chunk.title or chunk.document_id,
        "score": chunk.score,
        "attributes": attributes_in(chunk.metadata_json),
        "content": [{"type": "text", "text": chunk.text}],
        "start": chunk.start,
        "end": chunk.end,
    }
