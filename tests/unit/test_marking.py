"""Marking what clients say takes time in proportion to how long it is, whatever it says."""

import random
import re

import pytest

from inferd.engine.control import ControlTokens, Marks, Prompt

TOKENS = ("<|user|>", "<|assistant|>", "<|end|>", "<<<<<<<<<<<<<<<<", "</s>", "[INST]", "ab")
LITERALS = ("<|user|>", "system", "<|", "</think>", "\n\n", " [", "<<", "aa")
TEXTS = {
    "tokens": "<|user|>",
    "beginnings": "<|en",
    "heads": "<|",
    "firsts": "<",
    "firsts of all": "<[a",
    "literals": "system",
    "a literal's": "aa",
    "words": "word ",
    "escapes": "\\udb80\\udc00",
    "escapes of halves": "\\udb80",
    "private": "\U000f0000",
}


class Counted(frozenset[str]):
    """A set that counts what is looked up."""

    looked = 0

    def __contains__(self, item: object) -> bool:
        Counted.looked += 1
        return super().__contains__(item)


def controls() -> ControlTokens:
    return ControlTokens(dict.fromkeys(TOKENS, True), LITERALS)


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each character few beginnings of tokens are looked up, however long tokens are and whatever is left out."""
    counting = controls()
    monkeypatch.setattr(counting, "beginnings", Counted(counting.beginnings))
    text = TEXTS[name] * (20_000 // len(TEXTS[name]))
    marks = Marks(counting, [text])
    Counted.looked = 0
    marked = marks.mark(text)
    assert Counted.looked <= 8 * len(text) + 200
    assert marks.read(marked).text == text


def ends_open(tokens: tuple[str, ...], text: str) -> bool:
    """Whether a text ends with the beginning of a token, found by trying all."""
    return any(text.endswith(token[:end]) for token in tokens for end in range(1, len(token)))


@pytest.mark.parametrize("seed", range(200))
def test_where_a_text_could_be_completed(seed: int) -> None:
    """A mark is where a beginning of a token ends and the template may leave something out, or the text ends."""
    draw = random.Random(seed)
    text = "x" + "".join(
        draw.choice(["<", "|", "a", "b", "<|us", "system", "[IN", "x", "<|end|", "</", "aa"]) for _ in range(30)
    )
    text = text.lower()
    marks = Marks(controls(), [text])
    found = {at for at, _ in marks._cuts(text) if at}
    folded = tuple(token.lower() for token in TOKENS)
    dropped = {at for literal in LITERALS if literal.strip() for at in _places(literal, text)}
    assert found == {at for at in dropped | {len(text)} if ends_open(folded, text[:at])}


def _places(literal: str, text: str) -> list[int]:
    return [found.start() for found in re.finditer(f"(?={re.escape(literal)})", text)]


def test_thousands_of_tokens_in_one_text() -> None:
    """A text with each of very many tokens is read back, and all of them are plain text."""
    tokens = [f"<|t{number}|>" for number in range(5000)]
    many = ControlTokens(dict.fromkeys(tokens, True), [])
    text = "".join(tokens)
    marks = Marks(many, [text])
    used = marks._used
    assert marks.read(marks.mark(text)) == Prompt(text, (), frozenset(tokens))
    assert len(used) == 1 + 2 * len(tokens)


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
