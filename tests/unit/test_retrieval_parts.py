"""Parts of retrieval: where texts are cut, which words they have, and segments that are read in their place."""

import json
import random
from array import array
from contextlib import nullcontext
from itertools import pairwise
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferd.core.citations import AnswerReader, cite
from inferd.core.document_index import Found, Index, IndexSpec, Segment, merged_next
from inferd.errors import InvalidFieldError
from inferd.runtime.front.index_adding import check_model
from inferd.shared import Memory, Part
from inferd_retrieval.cutting import chunks, sentences
from inferd_retrieval.segments import Document, build
from inferd_retrieval.segments import Segment as Built
from inferd_retrieval.words import words

TEXT = "The oak is a tree. Does it have acorns? Yes!\nA new line. 今日は晴れ。明日は雨。"


def built(*texts: str) -> Built:
    documents = [Document(f"d{n}", "", text, {"n": n}, json.dumps({"n": n})) for n, text in enumerate(texts)]
    spans = [(n, *span) for n, text in enumerate(texts) for span in chunks(text, 40, 0)]
    return Built(memoryview(b"".join(build(documents, spans, ["n"]))))


def test_sentences_are_found() -> None:
    """Sentences end behind their marks, of scripts without spaces too, and lines end them."""
    assert [TEXT[a:b] for a, b in sentences(TEXT)] == [
        *("The oak is a tree.", "Does it have acorns?", "Yes!", "A new line."),
        *("今日は晴れ。", "明日は雨。"),
    ]


@given(
    text=st.text(alphabet="ab .!?\n\u3002é", max_size=400),
    size=st.integers(min_value=4, max_value=60),
    data=st.data(),
)
def test_chunks_have_all_of_a_text(text: str, size: int, data: st.DataObject) -> None:
    """Every letter but white space is in a chunk, none is too long, and they rise."""
    overlap = data.draw(st.integers(min_value=0, max_value=size // 2 - 1))
    found = chunks(text, size, overlap)
    assert all(0 < end - start <= size for start, end in found)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(found))
    covered = {place for start, end in found for place in range(start, end)}
    assert all(place in covered or letter.isspace() for place, letter in enumerate(text))


def test_a_line_without_an_end_is_cut_in_time_that_grows_as_it_does() -> None:
    """Eight times the text takes about eight times as long, not 64 times."""
    text, took = "word " * 50_000, list[float]()
    for given_text in (text, text * 8):
        began = process_time()
        assert len(chunks(given_text, 32, 0)) > len(given_text) // 32
        took.append(process_time() - began)
    assert took[1] < 24 * took[0]


def test_chunks_overlap_by_whole_sentences() -> None:
    """The next chunk begins with a sentence that begins within the overlap."""
    text = "One two. Three four. Five six. Seven eight."
    assert [text[a:b] for a, b in chunks(text, 22, 13)] == [
        "One two. Three four.",
        "Three four. Five six.",
        "Five six. Seven eight.",
    ]


def test_words_are_folded() -> None:
    """Case and width count for nothing; Han and kana are pairs of characters."""
    assert words("\uff21\uff22\uff23 Straße naïve") == ["abc", "strasse", "naïve"]
    assert words("東京都x") == ["東京", "京都", "x"]


def test_a_segment_tells_what_it_was_built_of() -> None:
    """Documents, chunks, words and fields come back, also those with letters of several bytes."""
    segment = built("Ölfarbe is nice. It is.", "日本語のテキスト。", "Plain words.")
    assert segment.documents == 3
    assert segment.document(1).text == "日本語のテキスト。"
    assert segment.find("d2") == 2
    assert segment.find("d9") == -1
    assert segment.field("n") == [0, 1, 2]
    assert segment.text(0) == "Ölfarbe is nice. It is."
    found, counts = segment.postings("is")
    assert (found.tolist(), counts.tolist()) == ([0], [2])
    assert segment.postings("nothing")[0].tolist() == []
    with pytest.raises(ValueError, match="does not begin as one"):
        Built(memoryview(b"no segment of any kind"))


def test_an_answer_is_read_as_it_is_written() -> None:
    """However the JSON is cut, the pieces of the answer are the answer; letters of two numbers come whole."""
    answer = 'A "quoted"\n\\ answer, 🐋 and ü'
    for ascii_only in (True, False):
        written = json.dumps({"answered": True, "answer": answer, "quotes": ["answer"]}, ensure_ascii=ascii_only)
        chance = random.Random(7)
        for _ in range(50):
            reader, said, at = AnswerReader(), "", 0
            while at < len(written):
                size = chance.randint(1, 5)
                said += reader.feed(written[at : at + size])
                at += size
            assert said == answer
            assert reader.value()["quotes"] == ["answer"]


def passage(text: str, start: int = 100) -> Found:
    return Found(document_id="d", title="", metadata="", start=start, end=start + len(text), text=text, score=1.0)


def test_a_citation_is_the_text_of_its_document() -> None:
    """A quotation is looked up letter by letter, then but for white space; what is nowhere is none."""
    passages = [passage("Nothing."), passage("The oak\n is  a tree.")]
    found = cite("oak is a tree", passages)
    assert found is not None
    assert (found.passage, found.start, found.end, found.quote) == (1, 104, 119, "oak\n is  a tree")
    assert cite("the oak", passages) is None
    assert cite("  ", passages) is None


def segment(size_bytes: int) -> Segment:
    return Segment(digest="0", size_bytes=size_bytes, documents=1, chunks=1)


def test_small_segments_are_merged_first() -> None:
    """Those of about a size become one, and never more bytes than may be at once."""
    assert merged_next(tuple(map(segment, (100, 1, 1, 1, 1))), 1000) == (1, 2, 3, 4)
    assert merged_next(tuple(map(segment, (100, 100, 100))), 150) == ()
    assert merged_next((segment(1),), 1000) == ()


def test_documents_are_copied_as_often_as_sizes_double() -> None:
    """A thousand additions with eight segments at most copy each document few times."""
    segments: list[Segment] = []
    copied = 0
    for _ in range(1000):
        if len(segments) >= 8:
            places = merged_next(tuple(segments), 1 << 30)
            size = sum(segments[place].size_bytes for place in places)
            copied += size
            segments = [segment(size), *(each for place, each in enumerate(segments) if place not in places)]
        segments.append(segment(1))
    assert len(segments) <= 8
    assert copied / 1000 < np.log2(1000) * 2


@pytest.mark.parametrize(("now", "same"), [((0.6, 0.8), True), ((0.62, 0.785), True), ((0.8, 0.6), False)])
async def test_a_model_is_known_by_a_vector_that_it_made(now: tuple[float, ...], *, same: bool) -> None:
    """A vector that is nearly the one that is kept is of the same model; another one is refused, with both numbers."""

    class Tasks:
        async def whole(self, *_: Any) -> Any:
            return {"title": "Oak", "text": "A tree."}

        async def embed(self, _: Any, __: str, text: str) -> Any:
            assert text == "Oak\nA tree."
            return array("f", now)

    data = array("f", (0.6, 0.8, 1.0, 0.0)).tobytes()
    part = Part(Memory.of(data), 0, len(data))
    index = Index(spec=IndexSpec(name="i", model="m"), created=0.0, updated=0.0, width=2)
    tasks: Any = Tasks()
    asker: Any = None
    with nullcontext() if same else pytest.raises(InvalidFieldError, match=r"cosine of 0\.960 .* 0\.99 is the least"):
        await check_model(index, tasks, asker, [part, part])
