"""Texts as rules see them: whatever looks the same is the same, and each folded character knows where it comes from."""

from __future__ import annotations

import json
import re
import unicodedata
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.core.moderation import ModerationSpaces as Spaces

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_JOINED_SCRIPT: Final = "\u0900"
"""From here on there are scripts whose vowels are marks of combining class 0; below, such a mark is of no word."""
BRAILLE_BLANK: Final = "\u2800"
_SEPARATORS: Final = "\x1c\x1d\x1e\x1f"
_UNSEEN: Final = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Default_Ignorable_Code_Point of Unicode: what shows nothing."""


class Letter(NamedTuple):
    """What a character becomes.

    Attributes:
        text: In its place; "" for nothing.
        whole: It stands for one letter though it has become several: no match begins or ends inside of it.
        mark: It is a mark that only belongs to a word in some scripts.
        space: It is white space.
        sign: It is no letter or digit though it has become some: a word may stand alone beside it.
    """

    text: str
    whole: bool = False
    mark: bool = False
    space: bool = False
    sign: bool = False


def _is_unseen(character: str) -> bool:
    code = ord(character)
    if any(first <= code <= last for first, last in _UNSEEN):
        return True
    category = unicodedata.category(character)
    return category == "Cf" or (category == "Cc" and not is_white(character))


def is_white(character: str) -> bool:
    """Whether it is white space; separators of files and records are none, which show nothing."""
    return (character.isspace() and character not in _SEPARATORS) or character == BRAILLE_BLANK


def _is_mark(character: str) -> bool:
    """Whether it is a mark on top of, below, or around another character."""
    return unicodedata.combining(character) != 0 or unicodedata.category(character) == "Me"


def _bare(text: str) -> str:
    """Compatibility forms taken apart, without marks and what shows nothing."""
    taken_apart = unicodedata.normalize("NFKD", text)
    return "".join(c for c in taken_apart if not _is_mark(c) and not _is_unseen(c))


class _Looks:
    """As what a character looks, by the table of Unicode's TR39: its skeleton.

    Args:
        cased: Whether the large and the small form of a letter are one, too, where it is no Latin one.
    """

    def __init__(self, *, cased: bool = False) -> None:
        self._parents: dict[str, str] = {}
        self._several: dict[str, str] = {}  # what looks as several characters together: "m" as "rn"
        table = json.loads(files("confusable_homoglyphs").joinpath("confusables.json").read_text("utf-8"))
        for told, others in table.items():
            one = told.strip(_DIRECTION)
            for each in others if len(one) == 1 else ():
                other = each["c"].strip(_DIRECTION)
                if len(other) > 1 and len(bare := _bare(other)) == 1:
                    other = bare  # with a mark
                if len(other) == 1:
                    self._unite(one, other)
                elif other:  # in the table only what is looked up is one character
                    self._several[one] = other
        for code in _CASED if cased else ():
            large = chr(code)
            if len(small := large.casefold()) == 1 and small != large and not is_latin(large):
                self._unite(large, small)

    def _unite(self, one: str, other: str) -> None:
        first, second = sorted((self._find(one), self._find(other)), key=_standing)
        if first != second:
            self._parents[second] = first

    def _find(self, character: str) -> str:
        while (parent := self._parents.get(character, character)) != character:
            character = parent
        return character

    def __contains__(self, character: str) -> bool:
        return character in self._parents or character in self._several

    def of(self, text: str) -> str:
        """As what a text looks, character by character."""
        return "".join(_bare(self._several.get(c) or self._find(c)) for c in text)


def _standing(character: str) -> tuple[bool, bool, bool, str]:
    """Who stands for those that look alike: the least one; of "I", "l" and "1" it is "l", of "O" and "0" it is "O"."""
    return (not character.isascii(), not character.islower(), not character.isalpha(), character)


@cache
def _looks(*, cased: bool = False) -> _Looks:
    return _Looks(cased=cased)


def is_latin(character: str) -> bool:
    """Whether it is of the Latin script, or of none."""
    return character.isascii() or unicodedata.name(character, "LATIN").startswith("LATIN")


class By(Enum):
    """In which order what looks alike and what differs in case becomes one.

    LOOKS: As what it looks first, then case: the large Greek eta is "h", and "I" or "l" or "1" is one.
    CASE: Both at once, as words of other scripts need, whose large letters look as Latin ones: the large and the small
        eta are one, and "H" and "n", as which they look, with them.
    DIGITS: Case first, and what is beyond ASCII and looks as ASCII is that: within ASCII nothing becomes one, so that
        digits stay digits. For patterns.
    """

    LOOKS = "looks"
    CASE = "case"
    DIGITS = "digits"


MOST_KNOWN: Final = 1 << 16  # characters whose folding is remembered
_DIRECTION: Final = "\u200e\u200f"
_CASED: Final = range(0x370, 0x1E944)  # where letters are that have two forms, but for Latin ones
BY_CONTEXT: Final = "\uffff"  # no character; in place of a mark that only belongs to some words
_TURNS: Final = 3  # until nothing changes any more: "M" is "m", which looks as "rn"
_ONE: Final = str.maketrans({"i": "l"})  # since "I" looks as "l"
_LETTER: Final = re.compile(
    r"(?:LATIN (?:SMALL |CAPITAL )?LETTER|(?:CROSSED )?NEGATIVE (?:CIRCLED|SQUARED) LATIN CAPITAL LETTER"
    r"|REGIONAL INDICATOR SYMBOL LETTER)(?: [A-Z]+)* ([A-Z])(?: WITH .+)?"
)
"""Names of characters that are read as a letter of ASCII: small capitals, with a hook, turned, in a dark square."""


class Table(dict[int, str]):
    """What `str.translate` makes of characters, each by itself, as a folding has it; made as they come.

    Args:
        folding: The folding.
    """

    def __init__(self, folding: Folding) -> None:
        super().__init__()
        self._folding = folding

    def __missing__(self, code: int) -> str:
        if len(self) >= MOST_KNOWN:
            self.clear()
        letter = self._folding.of(chr(code))
        into = self[code] = BY_CONTEXT if letter.mark else letter.text
        return into


class Folding:
    """How single characters are folded, by one of the orders of `By`.

    Attributes:
        single: What is known of characters that become one character, whatever stands around them.
        table: For what is folded at once, but for white space, and marks, which are `BY_CONTEXT`.
    """

    def __init__(self, by: By) -> None:
        self._by = by
        self._known: dict[str, Letter] = {}
        self.single: dict[str, str] = {}
        self.table = Table(self)

    def of(self, character: str) -> Letter:
        """What a character becomes."""
        found = self._known.get(character)
        if found is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
                self.single.clear()
            found = self._known[character] = self._fold(character)
            if len(found.text) == 1 and not (found.mark or found.space or found.sign):
                self.single[character] = found.text
        return found

    def _fold(self, character: str) -> Letter:
        if is_white(character):
            return Letter(" ", space=True)
        if _is_unseen(character) or _is_mark(character):
            return Letter("")
        bare = _bare(character)
        mark = unicodedata.category(character)[0] == "M"
        if self._by is By.DIGITS:
            text = "".join(map(_ascii, _bare(bare.casefold())))
            return Letter(text, mark=mark and not text.isascii())
        looks, size = _looks(cased=self._by is By.CASE), len(bare)
        if len(spelled := character.casefold()) > 1 and spelled.isascii():
            bare = spelled  # the German "ß" is "ss", though it looks as another letter
        elif character in looks:
            bare = looks.of(character)  # before it is taken apart: U+037A looks as "i", and is a space and a mark
        bare = self._turned(looks, bare)
        if self._by is By.LOOKS and not bare.isascii() and (read := _read_as(character)):
            bare = self._turned(looks, read)
        mark = mark and not bare.isascii()  # some look as letters
        sign = not mark and bare.isalnum() and not character.isalnum()
        return Letter(bare.translate(_ONE), whole=len(bare) > size, mark=mark, sign=sign)

    def _turned(self, looks: _Looks, text: str) -> str:
        for _ in range(_TURNS):
            text = _bare(looks.of(text))
            text = text.casefold() if self._by is By.LOOKS else text
        return text


def _ascii(character: str) -> str:
    """As what it is read in ASCII, if it is; else itself."""
    return character if character.isascii() else _read_as(character) or character


def _read_as(character: str) -> str:
    """The letter or digit of ASCII, small, as which a character beyond it is read; "" for none.

    That is as it looks; else as its other case does: the large Cyrillic te is "T", so the small one is read as "t";
    else as it is named.
    """
    for form in (character, character.upper(), character.lower()):
        shown = _looks().of(form)
        if shown.isascii() and shown.isalnum():
            return shown.casefold()
    named = _LETTER.fullmatch(unicodedata.name(character, ""))
    return "" if named is None else named[1].lower()


_RUNS: Final = re.compile("  +")
FOLDED_CHARS: Final = 1 << 18  # are folded at once: some hundredths of a second


@cache
def folding(by: By) -> Folding:
    """The folding that all share; its table is made when it is first asked for."""
    return Folding(by)


class Folded:
    """A text that comes in parts, folded, and where each folded character comes from. One writer: itself.

    Args:
        by: In which order.
        spaces: What becomes of white space.

    Attributes:
        text: What is folded and was not dropped.
        origins: Of each of its characters, which one of the text it comes from, counted from 0.
        starts: Of each, whether a match may begin there.
        ends: Of each, whether one may end there.
        taken: Characters of the text so far.
        before: The folded character before `text`; "" at the beginning, " " for a sign.
        signs: Of each, whether it comes from what is no letter or digit.
    """

    __slots__ = ("_folding", "_last", "_spaces", "before", "ends", "origins", "signs", "starts", "taken", "text")

    def __init__(self, by: By, spaces: Spaces) -> None:
        self._folding = folding(by)
        self._spaces = spaces
        self._last = ""  # the last folded character
        self.text = ""
        self.origins: list[int] = []
        self.starts = bytearray()
        self.ends = bytearray()
        self.signs = bytearray()
        self.taken = 0
        self.before = ""

    def push(self, text: str) -> None:
        """Take what comes next."""
        single, parts, origins = self._folding.single, [], self.origins
        signs: list[int] = []
        joined: list[int] = []  # places in which no match begins, and before which none ends
        last, taken = self._last, self.taken
        for character in text:
            if (into := single.get(character)) is not None:
                parts.append(into)
                origins.append(taken)
                last = into
            elif into := self._rare(letter := self._folding.of(character), last):
                if letter.whole:
                    joined += range(len(origins) + 1, len(origins) + len(into))
                if letter.sign:
                    signs += range(len(origins), len(origins) + len(into))
                parts.append(into)
                origins += [taken] * len(into)
                last = into[-1]
            taken += 1
        self._last, self.taken = last, taken
        self.text += "".join(parts)
        count = len(self.text) - len(self.starts)
        self.starts += b"\1" * count
        self.ends += b"\1" * count
        self.signs += bytes(count)
        for place in signs:
            self.signs[place] = 1
        for place in joined:
            self.starts[place] = self.ends[place - 1] = 0

    def _rare(self, letter: Letter, last: str) -> str:
        """What becomes of a letter that does not always become one character."""
        if letter.space:
            drops = self._spaces is Spaces.NONE or (self._spaces is Spaces.RUNS and last == " ")
            return "" if drops else letter.text
        return "" if letter.mark and last < FIRST_JOINED_SCRIPT else letter.text

    def drop(self, count: int) -> None:
        """Forget the first so many folded characters."""
        if count:
            self.before = " " if self.signs[count - 1] else self.text[count - 1]
            self.text = self.text[count:]
            del self.origins[:count], self.starts[:count], self.ends[:count], self.signs[:count]

    def origin(self, place: int) -> int:
        """Which character of the text a folded one comes from; behind the last one: how many there are."""
        return self.origins[place] if place < len(self.origins) else self.taken


def fold(text: str, by: By, spaces: Spaces) -> str:
    """A whole text, folded."""
    folded = Folded(by, spaces)
    folded.push(text)
    return folded.text


def gone_on() -> None:
    """Nothing is given up."""


def fold_fast(text: str, by: By, spaces: Spaces, go_on: Callable[[], None] = gone_on) -> str | None:
    """A whole text, folded, without knowing where it comes from; None where that has to be gone through.

    Args:
        text: It.
        by: In which order.
        spaces: What becomes of white space.
        go_on: Called from time to time; raises where that is to be given up.
    """
    table, parts = folding(by).table, []
    for at in range(0, len(text), FOLDED_CHARS):
        go_on()
        parts.append(text[at : at + FOLDED_CHARS].translate(table))
    folded = "".join(parts)
    if BY_CONTEXT in folded:
        return None
    match spaces:
        case Spaces.EACH:
            return folded
        case Spaces.RUNS:
            return _RUNS.sub(" ", folded)
        case Spaces.NONE:
            return folded.replace(" ", "")


def warm() -> None:
    """Have the tables ready: they take a second to make."""
    for by in By:
        fold("a", by, Spaces.RUNS)


def is_silent(character: str) -> bool:
    """Whether a character is nothing by itself: a mark on the one before, or what shows nothing."""
    return not folding(By.DIGITS).of(character).text
