"""Questions over 200 real documents: how often the right one is among the first five, and that citations are real."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from inferd.testing.kernel import kernel_here
from inferd_client import AsyncClient
from inferd_client.indexes import document

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1500)]  # hundreds of vectors

FUNCTIONS = {"modules": ("inferd_retrieval.plugin",), "packages": (), "calls": 2}
DOCUMENTS = 200
FIRST = 5
QUESTIONS_AT_ONCE = 8
MASKED = 3  # of the rarest words of a sentence
LEAST_WORDS = 8  # of one that is a question
WORD = re.compile(r"[A-Za-z']+")
ANSWERED = 12  # questions that a language model answers


@pytest.fixture(scope="module")
def news(news_folder: Path) -> dict[str, tuple[str, str]]:
    """Pieces of news, as many of each of five subjects: title and text, by a name; none twice."""
    found: dict[str, tuple[str, str]] = {}
    for subject in sorted(each.name for each in news_folder.iterdir() if each.is_dir()):
        texts: dict[str, tuple[str, str]] = {}
        for file in sorted((news_folder / subject).glob("*.txt")):
            title, _, text = file.read_text(encoding="latin-1").strip().partition("\n")
            texts.setdefault(title, (f"{subject}/{file.stem}", text.strip()))
        for title, (name, text) in list(texts.items())[: DOCUMENTS // 5]:
            found[name] = title, text
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    tmp_path_factory: pytest.TempPathFactory, news: dict[str, tuple[str, str]], minilm: Path, smollm2: Path
) -> AsyncIterator[AsyncClient]:
    """A client of a kernel that has the texts of the news, without their titles, in an index with vectors."""
    folder = tmp_path_factory.mktemp("news")
    store = {"url": f"sqlite:{folder}/kept/store"}
    async with (
        kernel_here(folder, store=store, functions=FUNCTIONS) as kernel,
        AsyncClient(kernel.addresses[0]) as made,
    ):
        await made.create_model("minilm", str(minilm))
        await made.create_model("smollm2", str(smollm2))
        await made.create_index("news", embedding_model="minilm")
        await made.add_documents("news", [document(name, text) for name, (_, text) in news.items()])
        yield made


async def recall(client: AsyncClient, questions: list[tuple[str, str]], mode: str) -> float:
    """How many of some questions find their document among the first five."""
    gate = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def ask(question: str, name: str) -> bool:
        async with gate:
            chunks = await client.search_index("news", question, count=20, mode=mode)
        return name in [*dict.fromkeys(each.document_id for each in chunks)][:FIRST]

    return sum(await asyncio.gather(*(ask(*each) for each in questions))) / len(questions)


def masked(news: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Of each text the sentence that is most its own, without its rarest words."""
    having = Counter(word for _, text in news.values() for word in set(map(str.lower, WORD.findall(text))))
    found = []
    for name, (_, text) in news.items():
        sentences = [WORD.findall(each) for each in re.split(r"(?<=[.!?])\s+", text)]
        long = [each for each in sentences if len(each) >= LEAST_WORDS] or sentences
        chosen = min(long, key=lambda words: sum(sorted(having[word.lower()] for word in words)[:MASKED]))
        rare = sorted(chosen, key=lambda word: having[word.lower()])[:MASKED]
        found.append((" ".join(word for word in chosen if word not in rare), name))
    return found


async def test_recall_is_that_of_words_or_above(client: AsyncClient, news: dict[str, tuple[str, str]]) -> None:
    """By headlines, and by sentences without their rarest words, both ways together find no less than words alone."""
    for what, questions in (
        ("headlines", [(title, name) for name, (title, _) in news.items()]),
        ("masked sentences", masked(news)),
    ):
        found = {mode: await recall(client, questions, mode) for mode in ("lexical", "vector", "hybrid")}
        print(what, len(questions), {mode: round(value, 3) for mode, value in found.items()})  # noqa: T201 - figures
        assert len(questions) >= DOCUMENTS
        assert found["hybrid"] >= found["lexical"] >= 0.5


async def test_every_citation_is_a_real_span(client: AsyncClient, news: dict[str, tuple[str, str]]) -> None:
    """What a small model cites is the text of a document that was found, letter by letter."""
    cited = 0
    for title, _ in [*news.values()][:: DOCUMENTS // ANSWERED][:ANSWERED]:
        *_, last = [each async for each in client.answer_question("news", title, model="smollm2", count=3)]
        for each in last.ended.citations:
            text = (await client.get_document("news", each.document_id)).text
            assert text == news[each.document_id][1]
            assert text[each.start : each.end] == each.quote != ""
        assert last.ended.dropped_quotes == 0
        cited += len(last.ended.citations)
    print("citations", cited)  # noqa: T201 - likewise
    assert cited
