"""Patterns are written as people write, and texts are folded."""

from __future__ import annotations

import pytest

from inferd.core.moderation import ModerationSpaces as Spaces
from inferd.errors import InvalidFieldError
from inferd.moderation.checks import check_rule
from inferd.moderation.rules import Rule
from inferd.moderation.screen import Ruling, search


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("blöd", ["blöd", "BLÖD", "blod"]),
        ("blo\u0308d", ["blöd"]),
        ("stra(ß|xx)e{1,2}", ["straße", "STRASSE", "straßee"]),
        ("caf[éx]", ["café", "CAFE"]),
        ("жопа", ["жопа", "ЖОПА"]),
        ("[жопа]{4}", ["жопа"]),
        ("한{1,2}국", ["한국", "한한국"]),
        ("[一-三]x", ["丁x"]),
        ("a\\+[b\\]c-e]\\\\", ["a+]\\", "a+d\\"]),
        ("a\u00a0b", ["a b", "a\n\nb"]),
        ("№1", ["№1", "no1"]),
    ],
)
def test_a_pattern_finds_what_it_is_written_with(pattern: str, texts: list[str]) -> None:
    """A pattern with characters that texts are folded to others of finds these texts."""
    rule = Rule(name="r", patterns=(pattern,))
    check_rule(rule)
    for text in texts:
        assert [(each.start, each.end) for each in search(Ruling([rule]), text)][:1] == [(0, len(text))], text


@pytest.mark.parametrize(
    ("pattern", "spaces", "fix"),
    [
        ("[д-ю]{4}", Spaces.RUNS, "name its characters one by one"),
        ("a\\nb", Spaces.RUNS, "write ' ' or"),
        ("a\nb", Spaces.RUNS, "write ' ' or"),
        ("a  b", Spaces.RUNS, "write one"),
        ("a b", Spaces.NONE, "leave it out"),
        ("[ßx]", Spaces.RUNS, "write "),
        ("bl\\xf6d", Spaces.RUNS, "write 'ö'"),
        ("[bx\\366]l", Spaces.RUNS, "write 'ö'"),
        ("a\\x0ab", Spaces.RUNS, "write ' ' or"),
        ("o\u0308?x", Spaces.RUNS, "leave it out"),
    ],
)
def test_a_pattern_that_finds_nothing_is_refused(pattern: str, spaces: Spaces, fix: str) -> None:
    """What is in no folded text is refused in a pattern, with what to write for it."""
    with pytest.raises(InvalidFieldError, match=fix):
        check_rule(Rule(name="r", patterns=(pattern,), spaces=spaces))
