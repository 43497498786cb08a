"""Indexes with a real kernel: documents are added, found by words and by vectors, replaced, deleted and kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.index_pb2 import IndexDocument
from inferd_client import AsyncClient
from inferd_client.errors import DocumentNotFoundError, IndexNotFoundError, InvalidFieldError
from inferd_client.indexes import document

pytestmark = pytest.mark.asyncio(loop_scope="module")

FUNCTIONS = {"modules": ("inferd_retrieval.plugin", "inferd_functions.plugin"), "packages": (), "calls": 2}
TEXTS = {
    "whale": "The whale is a mammal. It lives in the sea, and it breathes air.",
    "oak": "The oak is a tree. Its fruit is the acorn.\nJays bury acorns in autumn.",
    "rhine": "The Rhine is a river. It rises in the Alps and ends in the North Sea.",
}


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A client of a kernel that keeps what it has in this folder, with a model that makes vectors."""
    store = {"url": f"sqlite:{folder}/kept/store"}
    async with (
        kernel_here(folder, **{"store": store, "functions": FUNCTIONS, **settings}) as made,
        AsyncClient(made.addresses[0]) as client,
    ):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """A client of a kernel with the functions of indexes, and a model that makes vectors and writes."""
    folder = tmp_path_factory.mktemp("indexed")
    async with kernel(folder) as made:
        await made.create_model("fake", str(write_fake_model(folder, "fake")))
        yield made


def documents() -> list[IndexDocument]:
    return [document(name, text, title=name.title(), metadata={"size": len(text)}) for name, text in TEXTS.items()]


async def found(client: AsyncClient, index: str, text: str, **options: Any) -> list[str]:
    return [each.document_id for each in await client.search_index(index, text, **options)]


async def test_documents_are_found_by_words(client: AsyncClient) -> None:
    """What is found is where it says in its document; filters hold; a document is replaced, and deleted."""
    made = await client.create_index("words", fields={"size": "number"}, chunk_size=40)
    assert (made.version, made.documents) == (0, 0)
    assert await client.search_index("words", "acorn") == []
    added = await client.add_documents("words", documents())
    assert (added.documents, added.replaced, added.index.documents, added.index.version) == (3, 0, 3, 1)
    (first, *_) = await client.search_index("words", "Where do jays bury ACORNS?")
    assert (first.document_id, first.title, first.metadata_json) == ("oak", "Oak", f'{{"size": {len(TEXTS["oak"])}}}')
    assert TEXTS["oak"][first.start : first.end] == first.text == "Jays bury acorns in autumn."
    assert await found(client, "words", "sea", filters=[("size", ">", len(TEXTS["whale"]))]) == ["rhine"]
    again = await client.add_documents("words", [document("oak", "Nothing of that kind.")])
    assert (again.replaced, again.index.documents, again.index.segments) == (1, 3, 2)
    assert await found(client, "words", "acorns") == []
    assert await client.delete_documents("words", ["oak", "nobody"]) == 1
    assert (await client.get_index("words")).documents == 2
    with pytest.raises(DocumentNotFoundError):
        await client.get_document("words", "oak")
    told = await client.get_document("words", "rhine", start=4, end=9)
    assert (told.text, told.characters, told.title) == ("Rhine", len(TEXTS["rhine"]), "Rhine")
    await client.delete_index("words")
    with pytest.raises(IndexNotFoundError):
        await client.get_index("words")


async def test_documents_are_found_by_vectors(client: AsyncClient) -> None:
    """Each chunk has a vector of the model; the same text is found first, and by both ways together."""
    await client.create_index("vectors", embedding_model="fake")
    added = await client.add_documents("vectors", documents())
    assert added.index.width > 0
    for mode in ("vector", "hybrid", ""):
        (first, *_) = await client.search_index("vectors", f"Oak\n{TEXTS['oak']}", mode=mode)
        assert first.document_id == "oak"
    with pytest.raises(InvalidFieldError, match="made for something else"):
        await client.create_index("vectors")


async def test_an_index_outlives_its_kernel(tmp_path: Path) -> None:
    """The next kernel has the documents that the one before had kept."""
    async with kernel(tmp_path) as client:
        await client.create_index("kept")
        before = (await client.add_documents("kept", documents())).index
    async with kernel(tmp_path) as client:
        assert await client.get_index("kept") == before
        assert await found(client, "kept", "acorns") == ["oak"]


async def test_a_question_is_answered_with_citations(client: AsyncClient) -> None:
    """Passages come first, then the answer, then citations, each of which is its document's text at that place."""
    await client.create_index("asked", chunk_size=60)
    await client.add_documents("asked", documents())
    told = [each async for each in client.answer_question("asked", "Who buries acorns?", model="fake")]
    kinds = [each.WhichOneof("event") for each in told]
    assert (kinds[0], kinds[-1]) == ("found", "ended")
    assert told[0].found.passages[0].document_id == "oak"
    for each in told[-1].ended.citations:
        assert (await client.get_document("asked", each.document_id)).text[each.start : each.end] == each.quote
    nothing = [each async for each in client.answer_question("asked", "xyzzy", model="fake")]
    assert [each.WhichOneof("event") for each in nothing] == ["found", "ended"]
    assert nothing[-1].ended.no_answer
