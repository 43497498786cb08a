"""Indexes with a real kernel: documents are added, found by words and by vectors, replaced, deleted and kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from inferd.cli.main import app
from inferd.runtime.front import index_adding
from inferd.shared import MOST_AT_ONCE
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.index_pb2 import DocumentFile, IndexDocument
from inferd_api.v1.task_pb2 import FINISH_REASON_MAX_TOKENS
from inferd_client import AsyncClient
from inferd_client.errors import (
    DocumentNotFoundError,
    IndexNotFoundError,
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
)
from inferd_client.indexes import document

pytestmark = pytest.mark.asyncio(loop_scope="module")

FUNCTIONS = {"modules": ("inferd_retrieval.plugin", "inferd_functions.plugin"), "packages": (), "calls": 2}
DEADLINE_S = 60.0
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


async def test_what_is_found_may_be_larger_than_a_piece(client: AsyncClient) -> None:
    """Chunks over functions.piece_bytes together are found, and so is a text whose letters JSON escapes."""
    await client.create_index("large", chunk_size=100_000)
    texts = {f"{n}": "\u6811\u6728 " * 33_000 for n in range(5)} | {"escaped": "\x01 " * 120_000}
    await client.add_documents("large", [document(name, text) for name, text in texts.items()])
    chunks = await client.search_index("large", "\u6811\u6728")
    assert sum(len(each.text.encode()) for each in chunks) > 1 << 20
    assert (await client.get_document("large", "escaped")).text == texts["escaped"]


async def test_files_may_have_more_text_than_a_piece(client: AsyncClient) -> None:
    """The text of a file may be larger than functions.piece_bytes: all of it is in the index."""
    await client.create_index("book")
    page = b"<p>One two three four.</p> " * 60_000
    await client.add_documents("book", [IndexDocument(id="x", file=DocumentFile(format="html", data=page))])
    told = await client.get_document("book", "x", start=1_000_000)
    assert told.characters == len("One two three four.\n") * 60_000 - 1


async def test_segments_that_cannot_be_made_one_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index has no more segments than are searched at once: what would be one too many is refused."""
    assert 2 * index_adding.MOST_SEGMENTS + 1 <= MOST_AT_ONCE
    monkeypatch.setattr(index_adding, "MOST_SEGMENTS", 3)
    async with kernel(tmp_path, indexes={"segments": 2, "merge_bytes": 1}) as client:
        await client.create_index("many")
        for n in range(3):
            await client.add_documents("many", [document(f"{n}", "oak")])
        with pytest.raises(LimitExceededError, match=r"3 segments.*indexes\.merge_bytes is 1;"):
            await client.add_documents("many", [document("4", "oak")])
        assert await found(client, "many", "oak") == ["0", "1", "2"]


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
    listed = [each async for each in client.list_documents("words")]
    assert [(each.id, each.title, each.size_bytes) for each in listed] == [
        (name, name.title(), len(TEXTS[name])) for name in ("rhine", "whale")
    ]
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
    far: list[tuple[int, int, int]] = []
    added = await client.add_documents("vectors", documents(), tell=lambda *told: far.append(told))
    assert far[-1] == (3, 0, 0)
    assert any(done == chunks == added.index.chunks for _, done, chunks in far), "how many of how many chunks are done"
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
    cut = [each async for each in client.answer_question("asked", "Who buries acorns?", model="fake", most_tokens=16)]
    assert cut[-1].ended.finish_reason == FINISH_REASON_MAX_TOKENS
    nothing = [each async for each in client.answer_question("asked", "xyzzy", model="fake")]
    assert [each.WhichOneof("event") for each in nothing] == ["found", "ended"]
    assert nothing[-1].ended.no_answer


def bad(**changes: Any) -> IndexDocument:
    return IndexDocument(**{"id": "a", "text": "A text.", **changes})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([bad(text=" \n")], "documents[0].text"),
        ([bad(id="")], "documents[0].id"),
        ([bad(), bad(text="Another.")], "documents[1].id"),
        ([bad(metadata_json="[1]")], "documents[0].metadata_json"),
        ([bad(metadata_json='{"year": "2020"}')], "documents[0].metadata_json"),
        ([IndexDocument(id="a")], "documents[0].text"),
        ([IndexDocument(id="a", file=DocumentFile(format="htm", data=b"a"))], "documents[0].file.format"),
        ([IndexDocument(id="a", file=DocumentFile(format="text", data=b"a\xff"))], "documents[0].file"),
        ([bad(), IndexDocument(id="b", file=DocumentFile(format="html", data=b"<p> </p>"))], "documents[1]"),
        ([IndexDocument(id="a", file=DocumentFile(format="text", blob="sha256:1"))], "documents[0].file.blob"),
    ],
)
async def test_documents_that_are_refused(client: AsyncClient, given: list[IndexDocument], field: str) -> None:
    """The wrong document is named, and nothing of its call is added."""
    await client.create_index("strict", fields={"year": "number", "open": "bool"})
    with pytest.raises(InvalidFieldError) as caught:
        await client.add_documents("strict", given)
    assert caught.value.field == field
    assert (await client.get_index("strict")).documents == 0


@pytest.mark.parametrize(
    ("condition", "field", "said"),
    [
        (("yeer", "=", 2020), "query.filters[0].field", "did you mean 'year'"),
        (("year", "=", "2020"), "query.filters[0].value_json", "NUMBER"),
        (("year", "in", 2020), "query.filters[0].value_json", "a list of NUMBER"),
        (("open", "<", True), "query.filters[0].comparison", "true or false"),
    ],
)
async def test_filters_that_are_refused(client: AsyncClient, condition: Any, field: str, said: str) -> None:
    """An unknown field is told with the nearest name, and a value of another type with what it must be."""
    await client.create_index("strict", fields={"year": "number", "open": "bool"})
    with pytest.raises(InvalidFieldError, match=said) as caught:
        await client.search_index("strict", "a", filters=[condition])
    assert caught.value.field == field


async def test_each_comparison_of_filters(client: AsyncClient) -> None:
    """Numbers, texts, lists of texts and truths are compared; what has no such field is in none but NOT_EQUAL."""
    await client.create_index("filtered", fields={"year": "number", "tags": "text", "open": "bool"})
    known: dict[str, dict[str, Any]] = {
        "a": {"year": 1999, "tags": ["x", "y"], "open": True},
        "b": {"year": 2020.5, "tags": "y", "open": False},
        "c": {},
    }
    await client.add_documents("filtered", [document(name, "Same words.", metadata=of) for name, of in known.items()])
    for condition, wanted in (
        (("year", "=", 1999), "a"),
        (("year", "!=", 1999), "bc"),
        (("year", "in", [1999, 2020.5]), "ab"),
        (("year", "<", 2000), "a"),
        (("year", "<=", 2020.5), "ab"),
        (("year", ">", 1999), "b"),
        (("year", ">=", 1999), "ab"),
        (("tags", "=", "y"), "ab"),
        (("tags", "in", ["x"]), "a"),
        (("tags", ">", "x"), "ab"),
        (("open", "=", True), "a"),
    ):
        assert "".join(await found(client, "filtered", "words", filters=[condition])) == wanted, condition


async def test_files_become_texts(client: AsyncClient) -> None:
    """HTML is added as what a reader sees, in the call or as a blob."""
    await client.create_index("files")
    page = b"<html><body><h1>Oak</h1><p>It has acorns.</p></body></html>"
    blob = await client.put_blob(page)
    files = [DocumentFile(format="html", data=page), DocumentFile(format="html", blob=blob.digest)]
    await client.add_documents("files", [IndexDocument(id=str(n), file=file) for n, file in enumerate(files)])
    for name in "01":
        assert (await client.get_document("files", name)).text == "Oak\nIt has acorns."


async def test_an_index_is_its_tenants(client: AsyncClient) -> None:
    """Another tenant does not find it, and may have one of the same name."""
    await client.create_index("mine")
    async with AsyncClient(client.address, tenant="other") as other:
        with pytest.raises(IndexNotFoundError):
            await other.search_index("mine", "a")
        await other.create_index("mine", chunk_size=50)
        assert [each.spec.name async for each in other.list_indexes()] == ["mine"]
    with pytest.raises(IndexNotFoundError, match="did you mean 'mine'"):
        await client.search_index("mien", "a")


async def test_small_segments_become_one(tmp_path: Path) -> None:
    """Beyond so many segments some are made one, without what was deleted; all others are found as before."""
    async with kernel(tmp_path, indexes={"segments": 3}) as client:
        await client.create_model("fake", str(write_fake_model(tmp_path, "fake")))
        segments = 0
        for name, model in (("words", ""), ("vectors", "fake")):
            await client.create_index(name, embedding_model=model)
            for number in range(8):
                await client.add_documents(name, [document(f"d{number}", f"Text {number} of {name}.")])
                if number % 2:
                    assert await client.delete_documents(name, [f"d{number - 1}"]) == 1
            index = await client.get_index(name)
            assert (index.documents, index.segments <= 4) == (4, True)
            for mode in ("lexical", "hybrid") if model else ("lexical",):
                assert sorted(await found(client, name, "text", count=20, mode=mode)) == ["d1", "d3", "d5", "d7"]
            segments += index.segments * (2 if model else 1)
        blobs = [each async for each in client.list_blobs()]
        assert len(blobs) == segments


async def test_another_model_is_noticed(tmp_path: Path) -> None:
    """A new version that gives other vectors is refused for searches by vectors and additions; words find as before."""
    async with kernel(tmp_path) as client:
        await client.create_model("made", str(write_fake_model(tmp_path, "made")))
        await client.create_index("made", embedding_model="made")
        await client.add_documents("made", documents())
        assert await found(client, "made", "acorns", mode="vector")
        await client.update_model("made", source=str(write_fake_model(tmp_path, "other", embedding_size=2)))
        with pytest.raises(InvalidFieldError, match="vectors of 2 numbers and those of index 'made' have 3"):
            await client.search_index("made", "acorns")
        with pytest.raises(InvalidFieldError):
            await client.add_documents("made", documents())
        assert await found(client, "made", "acorns", mode="lexical") == ["oak"]


async def test_bounds_are_told(tmp_path: Path) -> None:
    """What is too much is refused with the setting, and the index stays as it was."""
    async with kernel(tmp_path, indexes={"add_bytes": 1000, "chunks": 5, "tenant_count": 1}) as client:
        await client.create_index("small", chunk_size=32)
        for text, bound in (("a" * 1001, "add_bytes"), ("A sentence of some words is it. " * 6, "chunks")):
            with pytest.raises(LimitExceededError) as caught:
                await client.add_documents("small", [document("a", text)])
            assert caught.value.metadata["bound"] == f"indexes.{bound}"
        with pytest.raises(LimitExceededError):
            await client.create_index("more")
        assert (await client.get_index("small")).version == 0


async def test_who_goes_in_the_middle_has_added_nothing(tmp_path: Path) -> None:
    """A call that is given up while vectors are made leaves the index as it was, and so does a kernel that ends."""
    slow = str(write_fake_model(tmp_path, "slow", step_s=0.05))
    many = [document(f"d{number}", "Text. " * 200) for number in range(40)]
    async with kernel(tmp_path) as client:
        await client.create_model("slow", slow)
        await client.create_index("slow", embedding_model="slow", chunk_size=100)
        begun = asyncio.Event()
        adding = asyncio.create_task(client.add_documents("slow", many, tell=lambda *_: begun.set()))
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        adding.cancel()
        await asyncio.wait((adding,))
        assert (await client.get_index("slow")).version == 0
        begun.clear()
        adding = asyncio.create_task(client.add_documents("slow", many, tell=lambda *_: begun.set()))
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
    adding.cancel()
    await asyncio.wait((adding,))
    async with kernel(tmp_path) as client:
        assert (await client.get_index("slow")).version == 0
        assert (await client.add_documents("slow", many[:1])).index.documents == 1


async def test_nothing_is_kept_in_memory(tmp_path: Path) -> None:
    """Where the store is memory there are no indexes, and the error names the setting."""
    async with kernel_here(tmp_path) as made, AsyncClient(made.addresses[0]) as client:
        with pytest.raises(StoreUnavailableError, match=r"store\.url is memory:"):
            await client.create_index("a")


async def test_indexes_from_the_command_line(client: AsyncClient, tmp_path: Path) -> None:
    """Files, lines and conditions: an index is made, filled, searched, asked, shown and removed."""

    async def inferd(*words: object) -> Any:
        given = [*map(str, words), "--address", client.address, "--tenant", "cli"]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    async def told(*words: object) -> Any:
        done = await inferd(*words, "-o", "json")
        said = f"\n{done.stdout}\n{done.stderr}"  # the kernel of this process logs there, too
        return json.JSONDecoder().raw_decode(said, said.index("\n{") + 1)[0]

    page, lines = tmp_path / "oak.html", tmp_path / "more.jsonl"
    page.write_text("<p>The oak is a tree.</p><p>Its fruit is the acorn.</p>", encoding="utf-8")
    line = {"id": "rhine", "text": "The Rhine is a river.", "title": "Rhine", "metadata": {"year": 2020}}
    lines.write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    assert (await told("index", "create", "notes", "--field", "year=number"))["spec"]["name"] == "notes"
    assert (await told("index", "add", "notes", page, lines))["documents"] == 2
    (first,) = (await told("index", "search", "notes", "acorn"))["chunks"]
    assert (first["document_id"], first["title"]) == (str(page), "oak")
    (only,) = (await told("index", "search", "notes", "the", "--where", "year>=2020"))["chunks"]
    assert only["document_id"] == "rhine"
    wrong = await told("index", "search", "notes", "a", "--where", "yaer=1")
    assert "did you mean 'year'" in wrong["error"]["message"]
    assert [each["spec"]["name"] for each in (await told("index", "list"))["indexes"]] == ["notes"]
    assert (await told("index", "show", "notes", "rhine"))["text"] == line["text"]
    assert "2 documents" in (await inferd("index", "show", "notes")).stdout
    asked = await told("ask", "notes", "Which river?", "--model", "fake", "-k", 1)
    assert ([each["document_id"] for each in asked["passages"]], "ended" in asked) == (["rhine"], True)
    cut = await inferd("ask", "notes", "Which river?", "--model", "fake", "--most-tokens", 16)
    assert "cut off after 16 tokens" in cut.stdout
    assert "The documents have no answer." in (await inferd("ask", "notes", "xyzzy", "--model", "fake")).stdout
    lines.write_text('{"id": 1}\n', encoding="utf-8")
    assert "line 1" in (await told("index", "add", "notes", lines))["error"]["message"]
    assert (await told("index", "rm", "notes", "rhine", "nobody"))["deleted"] == 1
    assert (await told("index", "rm", "notes"))["index"] == "notes"
    assert (await told("index", "show", "notes"))["error"]["reason"] == "INDEX_NOT_FOUND"
