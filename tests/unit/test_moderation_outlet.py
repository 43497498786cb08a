"""What may be shown of an output under rules: nothing of what is found, and all else, however it is split."""

from __future__ import annotations

import random
import time
import unicodedata

import pytest
from amounts import examples
from confusable_homoglyphs import confusables

from inferd.core.moderation import ModerationAction as Action
from inferd.core.moderation import ModerationSpaces
from inferd.engine.moderation.inquiry import Inquiry
from inferd.engine.moderation.outlet import OneLogprob, Outlet, Released
from inferd.errors import InvalidFieldError
from inferd.moderation.rules import Classifier, Rule, read_rules, write_rules
from inferd.moderation.screen import Ruling, Screen, search
from inferd.moderation.search import width

WORDS = ("forbidden", "kill all", "hemmung", "idiot", "слово", "ηλιος", "größe")
PATTERNS = (r"\b\d{4}[ -]?\d{4}[ -]?\d{4}\b", r"secret-[a-z]{3,8}\d")
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\U000e0061\u202e"
MARKS = "\u0301\u0308\u0323\u0336\u20dd"
EVASIONS = examples(1000)
PIECES: list[str | bytes] = [bytes([n]) for n in range(256)]
"""Each token is one byte: a text can be split nowhere else."""


def feed(outlet: Outlet, text: str, sizes: list[int] | None = None) -> Released:
    """Put a text through, split into tokens of one byte, some at once; all that was shown."""
    data, shown, at, turn = text.encode(), Released(), 0, 0
    decoder = __import__("codecs").getincrementaldecoder("utf-8")("replace")
    while at < len(data):
        size = 1 if sizes is None else sizes[turn % len(sizes)]
        some = data[at : at + size]
        at, turn = at + size, turn + 1
        _join(shown, outlet.push(list(some), decoder.decode(some), final=False))
        if shown.closed:
            return shown
    _join(shown, outlet.push([], decoder.decode(b"", final=True), final=True))
    return shown


def _join(shown: Released, more: Released) -> None:
    shown.text += more.text
    if shown.computed is not None or more.computed is not None:
        before = shown.token_ids if shown.computed is None else shown.computed
        shown.computed = [*before, *(more.token_ids if more.computed is None else more.computed)]
    shown.token_ids += more.token_ids
    shown.spans += more.spans
    shown.flagged += more.flagged
    shown.stopped = shown.stopped or more.stopped
    shown.closed = more.closed


def outlet_of(*rules: Rule, told: list[int] | None = None, stop: tuple[str, ...] = (), begun: str = "") -> Outlet:
    encode = lambda text: list(text.encode())  # noqa: E731 - as an encoder is given
    return Outlet(Ruling(rules), PIECES, encode=encode, told=told or (), stop=stop, begun=begun)


def _twins(character: str) -> list[str]:
    """What looks as a character, one code point each; and the small form of what looks as its large one alone."""
    small = {twin.lower() for twin in _single(_alike(character.upper()))} if character.isascii() else set()
    own = {twin for twin in small if any(each[0].isascii() or len(each.casefold()) > 1 for each in _alike(twin))}
    return _single(_alike(character)) + _single(sorted(small - own))


def _alike(character: str) -> list[str]:
    found = confusables.is_confusable(character, greedy=True) or []
    return [h["c"] for each in found for h in each["homoglyphs"]]


def _single(texts: list[str]) -> list[str]:
    return [text for text in texts if len(text) == 1 and not text.isspace()]


def evade(word: str, rng: random.Random, twins: dict[str, list[str]]) -> str:
    """A word written otherwise."""
    return "".join(_write(character, rng, twins) for character in word)


def _write(character: str, rng: random.Random, twins: dict[str, list[str]]) -> str:
    """A character written otherwise, or as it is."""
    ways = [character, character + rng.choice(MARKS), character + rng.choice(UNSEEN) * rng.randint(1, 3)]
    ways += [character.upper()] if len(character.upper()) == 1 else []
    ways += [rng.choice(alike)] if (alike := twins.setdefault(character, _twins(character))) else []
    ways += [chr(ord(character) + 0xFEE0)] if "!" <= character <= "~" else []
    return rng.choice(ways if character != " " else ["\u2003", "  ", "\n", "\t \u00a0", " "])


def test_evasions_show_nothing_of_what_is_found() -> None:
    """Whatever a word is written with, and at whichever byte it is split, no byte of it is shown, and all around is."""
    rng, twins = random.Random(20), {}
    ruling = Ruling([Rule(name="words", words=WORDS, action=Action.REDACT, replacement="#")])
    for _ in range(EVASIONS):
        word = evade(rng.choice(WORDS), rng, twins)
        before, behind = rng.choice(["so ", "x.", "", "<<"]), rng.choice([" so", ".x", "", ">>"])
        text = before + word + behind
        data = text.encode()
        at = rng.randrange(len(before.encode()), len(before.encode()) + len(word.encode()) + 1)
        outlet = Outlet(ruling, [data[:at], data[at:]], encode=lambda _: [2])  # two tokens
        first = data[:at].decode(errors="ignore")
        shown = outlet.push([0], first)
        assert f"{before}#".startswith(shown.text), (word, at)
        rest = outlet.push([1], text[len(first) :], final=True)
        assert shown.text + rest.text == f"{before}#{behind}", (word, [unicodedata.name(c, "?") for c in word])
        assert shown.token_ids + rest.token_ids in ([2], [0, 1], [0, 2], [2, 1], [2, 2])


@pytest.mark.parametrize("rule", [WORDS[0], WORDS[1], WORDS[4]])
def test_a_word_is_found_though_each_of_its_bytes_is_a_token(rule: str) -> None:
    """One byte a token: nothing of the word is shown, not even its ids, and the text around it is as it was."""
    shown = feed(outlet_of(Rule(name="r", words=(rule,), action=Action.REDACT)), f"a {rule.upper()} b")
    assert shown.text == "a [removed] b"
    assert bytes(shown.token_ids) == b"a [removed] b"
    assert bytes(shown.computed or ()) == f"a {rule.upper()} b".encode()
    assert shown.spans == {"r": 1}


def test_what_is_told_does_not_depend_on_the_split() -> None:
    """Random texts under words, patterns, whole words and exceptions are cut the same way whichever way they come."""
    rng = random.Random(7)
    rules = (
        Rule(name="a", words=("aba", "bab", "abacus"), action=Action.REDACT, replacement="1"),
        Rule(name="b", words=("ca",), whole_words=True, action=Action.REDACT, replacement="2"),
        Rule(name="c", patterns=("a[bc]{1,3}d", "c{2,4}"), action=Action.REDACT, replacement="3"),
        Rule(name="d", words=("cabac",), action=Action.ALLOW),
    )
    for _ in range(100):
        text = "".join(rng.choice("aabbccd  é") for _ in range(rng.randint(1, 60)))
        whole = feed(outlet_of(*rules), text, [1000])
        for sizes in (None, [rng.randint(1, 5) for _ in range(7)]):
            split = feed(outlet_of(*rules), text, sizes)
            assert (split.text, split.spans) == (whole.text, whole.spans), text
            assert bytes(split.computed if split.computed is not None else split.token_ids) == text.encode()


def test_the_text_before_a_stop_stays_and_nothing_follows() -> None:
    """A rule that stops ends the output before its match; what was shown stays."""
    shown = feed(outlet_of(Rule(name="end", words=("forbidden",))), "all fine, forBIDden, more")
    assert (shown.text, shown.stopped and shown.stopped.name, shown.closed) == ("all fine, ", "end", True)


def test_a_pattern_holds_no_more_back_than_its_longest_match() -> None:
    """Card numbers are cut, though digits are no letters here; text is held for 14 characters and no longer."""
    outlet = outlet_of(Rule(name="card", patterns=PATTERNS[:1], action=Action.REDACT, replacement="#"))
    shown = feed(outlet, "my card 4111 1111-1111 is. 41111111111 is none")
    assert shown.text == "my card # is. 41111111111 is none"
    outlet = outlet_of(Rule(name="card", patterns=PATTERNS[:1], action=Action.REDACT))
    assert outlet.push(list(b"x" * 50), "x" * 50).text == "x" * 36


def test_ids_of_a_held_stop_string_are_held_too() -> None:
    """Where a stop string holds text back before it comes here, the tokens of that text are not shown before it is."""
    outlet = outlet_of(Rule(name="r", words=("hate",), action=Action.REDACT), stop=("hab",))
    assert outlet.push(list(b"xha"), "x").token_ids == list(b"x")
    shown = outlet.push(list(b"te!"), "hate!", final=True)
    assert (shown.text, bytes(shown.token_ids)) == ("[removed]!", b"[removed]!")


def test_an_output_goes_on_behind_what_was_told() -> None:
    """In another engine the text goes on without a gap and without a repetition, also where a stop string held some."""
    rule = Rule(name="r", words=("hate",), action=Action.REDACT)
    outlet = outlet_of(rule, told=list(b"so ha"), stop=("hab",))  # it will come with what disproves the stop string
    shown = outlet.push(list(b" ha"), "ha ha")
    assert shown.text == " "
    assert outlet.push(list(b"te"), "te", final=True).text == "[removed]"


def test_logprobs_go_with_their_tokens() -> None:
    """How likely a held token was is told with it, and of a cut one never."""
    outlet = outlet_of(Rule(name="r", words=("hat",), action=Action.REDACT))
    likely = [OneLogprob(n, -1.0) for n in b"a hat b"]
    shown = outlet.push(list(b"a hat b"), "a hat b", logprobs=likely, final=True)
    assert [each.token_id for each in shown.logprobs] == list(b"a ") + list(b" b")


def test_what_is_flagged_is_shown_and_told_with_what_stands_around_it() -> None:
    """A flag cuts nothing."""
    shown = feed(outlet_of(Rule(name="look", words=("odd",), action=Action.FLAG)), "an odd thing")
    assert (shown.text, [each.rule for each in shown.flagged]) == ("an odd thing", ["look"])
    assert "odd" in shown.flagged[0].excerpt


def test_a_classifier_holds_each_window_until_it_has_answered() -> None:
    """Nothing of a window is shown before its answer; a finding cuts it, and no answer ends the output."""
    rule = Rule(name="c", action=Action.REDACT, classifier=Classifier(model="m", labels=("bad",), window_chars=10))
    ruling = Ruling([rule])

    def make() -> Outlet:
        return Outlet(ruling, PIECES, encode=lambda text: list(text.encode()), inquiry=Inquiry(ruling))

    outlet = make()
    assert outlet.push(list(b"0123456789abc"), "0123456789abc").text == ""
    (first,) = outlet.asks()
    assert (first.start, first.end, first.text) == (0, 10, "0123456789")
    assert outlet.hear(first, found=False).text == "01234567"  # the next window begins with the rest
    assert outlet.push([], "", final=True).text == ""
    (last,) = outlet.asks()
    assert (last.start, last.end, last.text) == (8, 13, "89abc")
    shown = outlet.hear(last, found=True)
    assert (shown.text, shown.closed) == ("[removed]", True)
    outlet = make()
    outlet.push(list(b"0123456789"), "0123456789")
    assert outlet.hear(outlet.asks()[0], found=False).text == "01234567"
    shown = outlet.push([], "", final=True)  # and no next one comes
    assert (shown.text, shown.closed) == ("89", True)
    outlet = make()
    outlet.push(list(b"0123456789"), "0123456789")
    shown = outlet.hear(outlet.asks()[0], found=False, failed="it is dead")
    assert (shown.text, shown.closed, shown.failed) == ("", True, "it is dead")


@pytest.mark.parametrize("pattern", ["a+", "a.*b", "a{2,}"])
def test_a_pattern_without_a_bound_is_wider_than_any_window(pattern: str) -> None:
    """How long a match can be is measured on the pattern."""
    assert width(pattern) > 1 << 16
    assert width("a{2,5}|[bc]d?") == 5
    with pytest.raises(InvalidFieldError, match="matches an empty text"):
        width("a*")


def test_rules_are_read_as_they_were_written() -> None:
    """A rule that was kept is the same rule."""
    rules = [
        Rule(name="a", words=("x",), patterns=("y",), action=Action.FLAG),
        Rule(name="b", classifier=Classifier(model="m", labels=("l",))),
    ]
    assert read_rules(write_rules(rules)) == rules


def test_a_long_text_is_searched_in_time() -> None:
    """A prompt of a megabyte takes a second or two, not a minute."""
    began = time.perf_counter()
    found = search(
        Ruling([Rule(name="r", words=WORDS, patterns=PATTERNS)]), "lorem ipsum dolor " * 5_000 + "idi0t idiot"
    )
    assert len(found) == 2
    assert time.perf_counter() - began < 30


def test_a_whole_text_is_searched_as_one_that_comes_in_parts() -> None:
    """The fast way over a whole text misses nothing that the slow way finds, whatever it is written with."""
    rng, twins = random.Random(3), {}
    for spaces in ModerationSpaces:
        ruling = Ruling([Rule(name="r", words=WORDS, patterns=PATTERNS, spaces=spaces)])
        for _ in range(100):
            text = f"x {evade(rng.choice(WORDS), rng, twins)} secret-ab{rng.choice('c1')}1"
            assert search(ruling, text) == Screen(ruling).push(text, final=True).found


@pytest.mark.parametrize("sizes", [None, [4], [1000]])
def test_what_is_cut_out_leaves_no_match_behind(sizes: list[int] | None) -> None:
    """Nothing in the place of a word puts no other one together, of this rule or another: the output ends before it."""
    yellow = Rule(name="yellow", words=("yellow",), action=Action.REDACT, replacement="")
    shown = feed(outlet_of(yellow), "a yelyellowlow b", sizes)
    assert (shown.text, shown.stopped and shown.stopped.name) == ("a yel", "yellow")
    shown = feed(outlet_of(yellow, Rule(name="end", words=("kill",))), "a kiyellowll b", sizes)
    assert (shown.text, shown.stopped and shown.stopped.name) == ("a ki", "end")
    shown = feed(outlet_of(yellow, Rule(name="end", patterns=("k.ll",))), "a yelyellowfin yellow b", sizes)
    assert (shown.text, shown.stopped) == ("a yelfin  b", None)
    told = Rule(name="told", words=("gone",), action=Action.REDACT, replacement="(gone)")
    assert feed(outlet_of(told), "a gone b", sizes).text == "a (gone) b"


@pytest.mark.parametrize("sizes", [None, [3], [1000]])
def test_what_turns_the_direction_is_left_out_where_a_rule_cuts(sizes: list[int] | None) -> None:
    """A text that is shown in the order in which it is searched; a rule that only flags changes nothing."""
    text = "so \u202etah\u202c \u2067ror\u200fter\u2069 hat\u202e!"
    shown = feed(outlet_of(Rule(name="cut", words=("hat",), action=Action.REDACT, replacement="#")), text, sizes)
    assert (shown.text, bytes(shown.token_ids)) == ("so tah rorter #!", b"so tah rorter #!")
    assert bytes(shown.computed or ()) == text.encode()
    assert shown.spans == {"cut": 1}
    assert feed(outlet_of(Rule(name="look", words=("hat",), action=Action.FLAG)), text, sizes).text == text


@pytest.mark.parametrize("sizes", [None, [2], [1000]])
def test_a_match_that_the_prompt_has_begun_is_cut(sizes: list[int] | None) -> None:
    """Of a word or a pattern that begins in what the output goes on behind, no byte of the output is shown."""
    word = Rule(name="w", words=("yellow",), action=Action.REDACT, replacement="#")
    card = Rule(name="p", patterns=(r"\d{4}-\d{4}",), action=Action.REDACT, replacement="#")
    assert feed(outlet_of(word, begun="so yel"), "low is", sizes).text == "# is"
    assert feed(outlet_of(word, begun="so yel"), "lo is", sizes).text == "lo is"
    assert feed(outlet_of(card, begun="so 4111"), "-1111 is", sizes).text == "# is"
    assert feed(outlet_of(word, card, begun="yellow 4111-1111 "), "is", sizes).text == "is"
    stops = Rule(name="s", words=("yellow",))
    shown = feed(outlet_of(stops, begun="so yel"), "low is", sizes)
    assert (shown.text, shown.stopped) == ("", stops)
    alone = Rule(name="a", words=("low",), whole_words=True, action=Action.REDACT, replacement="#")
    assert feed(outlet_of(alone, begun="so yel"), "low is", sizes).text == "# is", "as the output alone is shown"
