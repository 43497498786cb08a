"""Where the parts of a text lie that an explanation is about: words, sentences, whole texts. Pure.

Offsets are bytes of UTF-8. The parts of a text cover all of it, so that nothing is left when all are taken out: a word
has the white space before it, which is where most vocabularies put it, and a sentence the white space behind it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from inferd.errors import InvalidFieldError


class SpanUnit(Enum):
    """What a text is cut into; the values are those of `inferd.v1.SpanUnit`."""

    WORD = 1
    SENTENCE = 2
    MESSAGE = 3


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A part of a text.

    Attributes:
        text: The text, by its place among those of the input.
        begin: Its first byte.
        end: The byte behind its last one.
    """

    text: int
    begin: int
    end: int


_UNSPACED: Final = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, Chinese characters: words are not told
)
_WORD: Final = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_END: Final = re.compile(r"(?:[.!?\u2026]+[\"')\]\u201d\u2019]*\s+|[\u3002\uff01\uff1f]+\s*|\n\s*)")
"""What ends a sentence; by rules, so that "e.g. this" is two."""


def split(text: str, unit: SpanUnit) -> list[tuple[int, int]]:
    """The parts of a text, in bytes from begin to end, one behind the other; none of one without words."""
    if not text.strip():
        return []
    match unit:
        case SpanUnit.WORD:
            ends = [found.end() for found in _WORD.finditer(text)]
        case SpanUnit.SENTENCE:
            ends = [found.end() for found in _END.finditer(text) if text[: found.start()].strip()]
        case SpanUnit.MESSAGE:
            ends = []
    if not ends or ends[-1] < len(text):  # what is left is of the last one, where it says nothing itself
        ends = [*ends[:-1], len(text)] if ends and not text[ends[-1] :].strip() else [*ends, len(text)]
    return _in_bytes(text, ends)


def _in_bytes(text: str, ends: Sequence[int]) -> list[tuple[int, int]]:
    parts, begin, at = [], 0, 0
    for end in ends:
        size = len(text[begin:end].encode())
        parts.append((at, at + size))
        begin, at = end, at + size
    return parts


def check_spans(spans: Sequence[Span], texts: Sequence[str]) -> None:
    """Refuse parts that somebody named and that are none.

    Raises:
        InvalidFieldError: One lies outside its text, cuts a character, has nothing, or lies over another one.
    """
    before: dict[int, tuple[int, int]] = {}  # by text: where the last one ends, and its number
    encoded = [text.encode() for text in texts]
    for number, span in sorted(enumerate(spans), key=lambda each: each[1]):
        field = f"spec.spans[{number}]"
        if span.text >= len(encoded):
            raise InvalidFieldError(f"{field} is of text {span.text}; the input has {len(encoded)} texts", field=field)
        data = encoded[span.text]
        if not span.begin < span.end <= len(data):
            raise InvalidFieldError(
                f"{field} is from byte {span.begin} to {span.end}; it must have one byte at least, and its text has "
                f"{len(data)}",
                field=field,
            )
        if any(_cuts(data, at) for at in (span.begin, span.end)):
            raise InvalidFieldError(
                f"{field} is from byte {span.begin} to {span.end}, which cuts a character; give bounds of characters",
                field=field,
            )
        end, other = before.get(span.text, (0, 0))
        if span.begin < end:
            raise InvalidFieldError(
                f"{field} begins at byte {span.begin}, before spec.spans[{other}] ends at {end}", field=field
            )
        before[span.text] = span.end, number


def _cuts(data: bytes, at: int) -> bool:
    """Whether a character of UTF-8 goes on there."""
    return at < len(data) and data[at] >> 6 == 0b10  # noqa: PLR2004 - RFC 3629


def without(text: str, spans: Sequence[Span]) -> str:
    """A text without some of its parts, which lie one behind the other."""
    data, kept, at = text.encode(), [], 0
    for span in spans:
        kept.append(data[at : span.begin])
        at = span.end
    return b"".join([*kept, data[at:]]).decode()
