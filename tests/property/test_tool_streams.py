"""How a text is cut into pieces does not matter to the parsers of tool calls."""
# ruff: noqa: RUF001 - markers as models write them

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_texts import FAMILIES, TOOLS, Family

from inferd.http.tools.deltas import Arguments, CallBegun, CallEnded, Content, Delta, Reasoning
from inferd.http.tools.formats.table import FORMATS
from inferd.http.tools.parser import parser_for

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>[]{}|\"'`\\&"), max_size=12)
TEXTS = st.one_of(WORDS, st.sampled_from(['a "quote"', "back\\slash", "}{][", "line\nline", "ü\u2028é", "</b> & <b>"]))
PLAIN = st.text(st.characters(categories=["L", "Zs"], exclude_characters="\u00a0"), min_size=1, max_size=20).map(
    str.strip
)
NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False, width=32))
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=5,
)
ARGUMENTS = st.fixed_dictionaries(
    {"city": TEXTS},
    optional={
        "days": st.integers(),
        "exact": st.booleans(),
        "places": st.lists(VALUES, max_size=3),
        "filters": st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    },
)
CALLS = st.one_of(st.tuples(st.just("get_weather"), ARGUMENTS), st.just(("now", {})))


def parsed(form: str, pieces: list[str], *, held: int = 4096, prompt_end: str = "") -> list[Delta]:
    """What comes of a text in pieces, joined."""
    numbers = iter(range(10**6))
    parser = parser_for(form, TOOLS, held_chars=held, prompt_end=prompt_end, make_id=lambda: f"id{next(numbers)}")
    found: list[Delta] = []
    for piece in pieces:
        found += parser.feed(piece)
    return told([*found, *parser.finish()])


def told(deltas: list[Delta]) -> list[Delta]:
    """The same with neighbours of one kind joined, and calls that go out beside each other told one by one."""
    out: list[Any] = []
    for delta in deltas:
        last = out[-1] if out else None
        if type(delta) is type(last) and isinstance(delta, Content | Reasoning | Arguments):
            out[-1] = type(delta)(*((last.index,) if isinstance(delta, Arguments) else ()), last.text + delta.text)
        else:
            out.append(delta)
    return out


def cut(text: str, places: list[int]) -> list[str]:
    """A text cut at places."""
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[first:last] for first, last in pairwise(at)]


def calls_of(deltas: list[Delta]) -> list[tuple[str, Any]]:
    """The calls, each of which is whole."""
    begun = [delta for delta in deltas if isinstance(delta, CallBegun)]
    texts = {b.index: "".join(d.text for d in deltas if isinstance(d, Arguments) and d.index == b.index) for b in begun}
    assert [d.index for d in deltas if isinstance(d, CallEnded) and d.complete] == [b.index for b in begun]
    return [(b.name, json.loads(texts[b.index])) for b in begun]


def text_of(deltas: list[Delta], kind: type[Content | Reasoning]) -> str:
    """All of one kind."""
    return "".join(delta.text for delta in deltas if isinstance(delta, kind))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.form)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_what_a_model_says_comes_out_however_it_is_cut(family: Family, data: st.DataObject) -> None:
    """Contents, thoughts and calls with their arguments are those that the text says, in pieces of any size."""
    calls = data.draw(st.lists(CALLS, max_size=family.most))
    thought = data.draw(st.one_of(st.just(""), PLAIN)) if family.think else ""
    content = data.draw(st.one_of(st.just(""), PLAIN))
    text = f"{family.think[0]}{thought}{family.think[1]}" if family.think and thought else ""
    text += content + (family.glue if content and calls else "") + (family.calls(calls) if calls else "")
    held = data.draw(st.sampled_from([0, 7, 4096]))
    whole = parsed(family.form, [text], held=held)
    assert (text_of(whole, Content), text_of(whole, Reasoning)) == (content, thought)
    assert json.dumps(calls_of(whole)) == json.dumps([[name, given] for name, given in calls])
    assert parsed(family.form, cut(text, data.draw(st.lists(st.integers(0, 9999), max_size=30))), held=held) == whole
    assert parsed(family.form, list(text), held=held) == whole


MARKS = sorted({mark for each in FORMATS.values() for signs in each.signs for mark in signs})
BITS = st.one_of(
    st.sampled_from(MARKS),
    st.sampled_from(["{", "}", '"', "\\", "[", "]", ":", ",", "\n", "```json", "</tool_call>", "</think>", "<think>"]),
    st.sampled_from(
        ['{"name": "now", "arguments": {', '"a": 1', '"name"', "get_weather", "<tool_call>", "now(", "a=1)"]
    ),
    st.sampled_from(
        ["<|end|>", "<|call|>", "<｜tool▁call▁end｜>", "</arg_value>", "</parameter>", "</function>", "]]", "}}"]
    ),
    TEXTS,
)


@pytest.mark.parametrize("form", sorted(FORMATS))
@settings(max_examples=12, deadline=None)
@given(
    bits=st.lists(BITS, max_size=14),
    places=st.lists(st.integers(0, 9999), max_size=20),
    held=st.sampled_from([0, 9, 4096]),
)
def test_what_is_wrong_comes_out_the_same_however_it_is_cut(
    form: str, bits: list[str], places: list[int], held: int
) -> None:
    """Of a text that is no answer of its format, the same comes out in pieces of any size, and whole calls are JSON."""
    text = "".join(bits)
    whole = parsed(form, [text], held=held)
    assert parsed(form, cut(text, places), held=held) == whole
    assert parsed(form, list(text), held=held) == whole
    for index in {delta.index for delta in whole if isinstance(delta, CallEnded) and delta.complete}:
        said = "".join(delta.text for delta in whole if isinstance(delta, Arguments) and delta.index == index)
        assert isinstance(json.loads(said), dict)
