"""Looking for control tokens takes time in proportion to how long a text is, whatever it says."""

import random
from itertools import islice
from typing import Any

import pytest

from inferd.engine.text import control
from inferd.engine.text.control import ControlTokens, Prompt, marks
from inferd.engine.text.rendering import Renderer, TemplateTexts
from inferd.engine.text.sandbox import make_environment
from inferd.engine.work import ChatInput, Message

TEXTS = {
    "tokens": "<|user|>",
    "beginnings": "<|use",
    "heads": "<|",
    "firsts": "<",
    "escapes": "\\udb80\\udc00",
    "escapes of halves": "\\udb80",
    "private": "\U000f0000",
    "entities": "&#983040;",
}


class Counted(frozenset[str]):
    """A set that counts what is looked up."""

    looked = 0

    def __contains__(self, item: object) -> bool:
        Counted.looked += 1
        return super().__contains__(item)


def compose(tokens: list[str], content: str) -> Prompt:
    """The prompt of a turn that says a content."""
    texts = TemplateTexts(source="<|user|>{{ messages[0].content }}", added=dict.fromkeys(tokens, True))
    return Renderer(make_environment, texts).compose(ChatInput((Message("user", content),)))


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each character few tokens are looked up, however many there are."""
    text = TEXTS[name] * (20_000 // len(TEXTS[name]))
    tokens = ["<|user|>", *(f"<|r{number}|>" for number in range(1000))]
    made = control._Finder.__init__

    def count(finder: Any, words: Any) -> None:
        made(finder, words)
        finder._words = Counted(finder._words)

    monkeypatch.setattr(control._Finder, "__init__", count)
    Counted.looked = 0
    prompt = compose(tokens, text)
    assert Counted.looked <= 20 * len(text) + 200
    assert prompt.text == f"<|user|>{text}"
    assert prompt.own is None or prompt.own == ((0, "<|user|>"),)


def test_marks_are_nowhere() -> None:
    """A character that is said, or that JSON or HTML would make of what is said, is no mark."""
    private = [chr(0xF0000 + number) for number in range(8)]
    said = [private[0], "\\uDB80\\udc01", "&#983042;", "&#xf0003;", "&#X0F0004;", "\\u0000\\udb80\\udc05", "&#0983046"]
    assert next(marks(said)) == private[7]
    every = "".join(f"&#{code};" for code in range(0xF0000, 0xF0000 + 60_000))
    assert [ord(mark) for mark in islice(marks([every]), 2)] == [0xF0000 + 60_000, 0xF0000 + 60_001]


def test_thousands_of_tokens_in_one_text() -> None:
    """Each of very many tokens in a text is plain text."""
    tokens = [f"<|t{number}|>" for number in range(5000)]
    text = "".join(tokens)
    assert compose(["<|user|>", *tokens], text) == Prompt(f"<|user|>{text}", ((0, "<|user|>"),), frozenset(tokens))


@pytest.mark.parametrize("seed", range(20))
def test_few_tokens_and_many_are_found_alike(seed: int) -> None:
    """How many tokens there are changes nothing of which is found first: the longest that begins there."""
    draw = random.Random(seed)
    some = ["<|a|>", "<|a|>b", "<", "<<", "ab", "<|b|>"]
    few = ControlTokens(dict.fromkeys(some, True), [])
    many = ControlTokens(dict.fromkeys([*some, *(f"<|r{number}|>" for number in range(100))], True), [])
    text = "".join(draw.choice(["<", "|", "a", "b", "<|a|>", "x"]) for _ in range(100))
    assert list(few.find_folded(text)) == list(many.find_folded(text))
    assert all(few.find(text, at) == many.find(text, at) for at in range(100))
