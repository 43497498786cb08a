"""Patterns in the spelling that folded texts have, so that what they are written with can be found."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from inferd.core.moderation import ModerationSpaces as Spaces
from inferd.errors import InvalidFieldError
from inferd.moderation.folds import By, folding, is_white

REPEATS: Final = "*+?{"
ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|.)", re.DOTALL)
ESCAPED_SPACES: Final = frozenset("tnrfv")
MOST_RANGE: Final = 1 << 12  # characters of a range that are looked at; of a wider one its ends
PLAIN: Final = 0x80  # characters below are ASCII


def fold_pattern(pattern: str, spaces: Spaces, field: str = "") -> str:
    """A pattern whose characters beyond ASCII are folded as texts are; what cannot be is refused, as it finds nothing.

    Raises:
        InvalidFieldError: In no text that is folded there is what it asks for.
    """
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "[":
            end = _class_end(pattern, at)
            parts.append(_fold_class(pattern[at:end], field))
        elif character == "\\":
            escape = ESCAPE.match(pattern, at)
            end = len(pattern) if escape is None else escape.end()
            _check_escapes(pattern[at:end], field, white=True)
            parts.append(pattern[at:end])
        else:
            end = at + 1
            parts.append(_fold_one(character, pattern[end : end + 1], field))
        at = end
    folded = "".join(parts)
    if spaces is Spaces.NONE and any(part == " " for part in parts):
        raise InvalidFieldError(f"{field} has a space, and the rule's spaces are 'none'; leave it out", field=field)
    if spaces is Spaces.RUNS and any(each == " " == following for each, following in pairwise(parts)):
        raise InvalidFieldError(
            f"{field} has two spaces on end, and the rule's spaces are 'runs', so there is one; write one, or have "
            "the rule's spaces be 'each'",
            field=field,
        )
    return folded


def _fold_one(character: str, behind: str, field: str) -> str:
    if character.isascii():
        if is_white(character) and character != " ":
            raise _white(character, field)
        return character
    into = folding(By.DIGITS).of(character).text
    if not into and behind and behind in REPEATS:
        raise InvalidFieldError(
            f"{field} repeats {character!r} (U+{ord(character):04X}), which is left out of texts; leave it out, too",
            field=field,
        )
    return f"(?:{into})" if len(into) > 1 else _quoted(into)


def _quoted(into: str) -> str:
    return f"\\{into}" if into.isascii() and into and not into.isalnum() and into != " " else into


def _white(character: str, field: str) -> InvalidFieldError:
    return InvalidFieldError(
        f"{field} has {character!r}, and white space of texts is ' '; write ' ' or \\s for it", field=field
    )


def _check_escapes(written: str, field: str, *, white: bool) -> None:
    """Refuse escapes of characters that texts do not have; of white space too, where it stands by itself."""
    for found in ESCAPE.finditer(written):
        hexed, octal = found.groups()
        code = int(hexed, 16) if hexed else int(octal, 8) if octal else 0
        if code >= PLAIN:
            raise InvalidFieldError(f"{field} has {found[0]!r}; write {chr(code)!r} for it", field=field)
        if white and (found[0][1:] in ESCAPED_SPACES or (is_white(chr(code)) and chr(code) != " ")):
            raise _white(found[0], field)


def _class_end(pattern: str, at: int) -> int:
    """Behind the class that begins there; the first character of one may be a bracket."""
    at += 1
    if pattern[at : at + 1] == "^":
        at += 1
    first = at
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _fold_class(written: str, field: str) -> str:
    """A class, with each of its characters folded that becomes one; ranges have to be their own folding."""
    _check_escapes(written, field, white=False)
    letters = folding(By.DIGITS)
    parts: list[str] = []
    for at, character in enumerate(written):
        is_end = written[at + 1 : at + 2] == "-" and written[at + 2 : at + 3] not in ("", "]")
        if is_end and not (character + written[at + 2]).isascii():
            _check_range(character, written[at + 2], field)
        if character.isascii() or is_end or (at > 1 and written[at - 1] == "-" and written[at - 2] not in "[^"):
            parts.append(character)
            continue
        into = letters.of(character).text
        if len(into) != 1:
            fix = f"write (?:{into}|[…])" if into else "leave it out"
            raise InvalidFieldError(
                f"{field} has a class with {character!r}, which is {into!r} in texts: {fix}", field=field
            )
        parts.append(_quoted(into))
    return "".join(parts)


def _check_range(first: str, last: str, field: str) -> None:
    letters = folding(By.DIGITS)
    codes = range(ord(first), ord(last) + 1)
    for code in codes if len(codes) <= MOST_RANGE else (codes[0], codes[-1]):
        into = letters.of(chr(code)).text
        if code >= PLAIN and into not in (chr(code), chr(code).casefold()):
            raise InvalidFieldError(
                f"{field} has the range {first}-{last}, and {chr(code)!r} in it is {into!r} in texts; name its "
                "characters one by one, or write \\S",
                field=field,
            )
