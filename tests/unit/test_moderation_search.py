"""Searching whole texts: what it costs, and what is found."""

from __future__ import annotations

import random
from typing import Any

import pytest

from inferd.core.moderation import ModerationAction as Action
from inferd.moderation import search as searching
from inferd.moderation.rules import Rule
from inferd.moderation.screen import Ruling, Screen, search

MAIL = r"[a-z0-9]{1,24}@[a-z0-9]{1,24}\.[a-z]{2,6}"


def test_a_text_with_many_matches_is_read_in_time_by_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with a match at each word is read once and not from its beginning for each match."""
    read = 0
    whole = searching._characters

    def counted(text: bytes, start: int, end: int) -> int:
        nonlocal read
        read += end - start
        return whole(text, start, end)

    monkeypatch.setattr(searching, "_characters", counted)
    text = "ann@exämple.org bob@example.org " * 300
    ruling = Ruling([Rule(name="mail", patterns=(MAIL,), action=Action.FLAG)])
    found = search(ruling, text)
    assert {text[each.start : each.end] for each in found if text[each.start - 1 : each.start] in (" ", "")} == {
        "ann@exämple.org",
        "bob@example.org",
    }
    assert read <= 6 * len(text.encode())


def test_a_text_that_is_refused_is_searched_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the first match that refuses a text, nothing of it is folded or searched."""
    taken = 0
    push = Screen.push

    def counted(self: Screen, text: str, **options: Any) -> Any:
        nonlocal taken
        taken += len(text)
        return push(self, text, **options)

    monkeypatch.setattr(Screen, "push", counted)
    ruling = Ruling([Rule(name="mail", patterns=(MAIL,))])
    assert search(ruling, "ann@example.org " * 10_000)[0].start == 0
    assert taken < 10_000


def test_what_was_found_before_is_not_gone_through_again() -> None:
    """However many parts a text has, each match in it is held against its rule's action a few times."""
    asked = 0

    class Counted(tuple[Rule, ...]):
        __slots__ = ()

        def __getitem__(self, at: Any) -> Any:
            nonlocal asked
            asked += 1
            return super().__getitem__(at)

    ruling = Ruling([Rule(name="b", words=("b",), action=Action.FLAG)])
    ruling.rules = Counted(ruling.rules)
    assert len(search(ruling, "b " * 20_000)) == 20_000
    assert asked <= 60_000


def test_what_is_allowed_hides_what_lies_inside_of_it_only() -> None:
    """What many matches of a rule that allows leave is what none of them contains."""
    draw = random.Random(7)
    rules = [Rule(name="a", words=("ab", "bab", "aab"), action=Action.ALLOW), Rule(name="f", words=("b", "ba"))]
    for _ in range(50):
        text = "".join(draw.choice("ab") for _ in range(40))
        allowed = [(n, n + len(w)) for w in rules[0].words for n in range(40) if text.startswith(w, n)]
        wanted = {
            (n, n + len(w))
            for w in rules[1].words
            for n in range(40)
            if text.startswith(w, n) and not any(a <= n and n + len(w) <= e for a, e in allowed)
        }
        found = Screen(Ruling(rules)).push(text, final=True).found
        assert {(each.start, each.end) for each in found} == wanted


@pytest.mark.parametrize("unseen", ["\x1c", "\x1d", "\x1e", "\x1f", "\x07"])
def test_separators_that_show_nothing_split_no_word(unseen: str) -> None:
    """A word with a control character in it that Python takes for white space is found."""
    assert search(Ruling([Rule(name="r", words=("yellow",))]), f"yel{unseen}low")


@pytest.mark.parametrize("text", ["|kill|", "kill™", "a |kill| b"])
def test_a_word_stands_alone_beside_a_sign_that_looks_as_a_letter(text: str) -> None:
    """What is no letter or digit is none beside a whole word either, whatever it is folded to and wherever split."""
    ruling = Ruling([Rule(name="r", words=("kill",), whole_words=True)])
    assert search(ruling, text)
    screen = Screen(ruling)
    assert [each for character in text for each in screen.push(character).found] + screen.push("", final=True).found
    assert not search(ruling, text.replace("|", "l").replace("™", "tm"))


@pytest.mark.parametrize(
    "written",
    [
        "\u0442error",
        "\u0422\u0415RROR",
        "\u0442\u0435\u0433\u0433or",
        "\u1d1b\u1d07\u0280\u0280\u1d0f\u0280",
        "\U0001f1f9\U0001f1ea\U0001f1f7\U0001f1f7\U0001f1f4\U0001f1f7",
        "\U0001f163\U0001f154RROR",
        "te\u027dr\u0275r",
    ],
)
@pytest.mark.parametrize("rule", [Rule(name="r", words=("terror",)), Rule(name="r", patterns=("terror",))])
def test_a_letter_is_read_as_its_other_case_and_its_name_say(rule: Rule, written: str) -> None:
    """A small letter whose large form looks as a Latin one, small capitals, hooks and dark squares hide no word."""
    assert search(Ruling([rule]), f"a {written} b")


def test_a_word_of_two_scripts_is_found_in_any_case() -> None:
    """The Latin half of a word whose other half is of another script may be large or small."""
    ruling = Ruling([Rule(name="r", words=("Covid-\u0447\u0443\u0436\u043e\u0439",))])
    for text in ("covid-\u0427\u0423\u0416\u041e\u0419", "COVID-\u0447\u0443\u0436\u043e\u0419"):
        assert search(ruling, text)


def test_a_search_is_given_up_between_its_parts() -> None:
    """Whoever waits no more ends it, in the fast look over a whole text as in the exact one behind."""

    class GivenUpError(Exception):
        """Nobody waits."""

    for words, most in ((("never",), 2), (("lorem",), 4)):
        left = [most]

        def go_on(left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise GivenUpError

        ruling = Ruling([Rule(name="r", words=words, patterns=("x{1,9}y",), action=Action.FLAG)])
        with pytest.raises(GivenUpError):
            search(ruling, "lorem ipsum " * 5000, go_on)
