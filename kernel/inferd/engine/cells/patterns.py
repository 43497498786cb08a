"""Regular expressions as llguidance takes them: it knows nothing that looks around, and not all spellings of RE2.

What looks around (word boundaries, anchors in the middle, lookaheads) matches no characters of its own: without it, an
expression matches all that it matched, and more. Other spellings are written in one that means the same.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from inferd.errors import present

_NOTHING: Final = "(?:)"  # and not "": a quantifier may come behind it
_LOOKS_AROUND: Final = re.compile(r"\(\?<?[=!]")
_REPEATS: Final = re.compile(r"\{[0-9]+(,[0-9]*)?\}")
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<not>[pP])\{\^(?P<name>\w+)\}|(?P<octal>0[0-7]{0,2}|[1-7][0-7]{1,2})|.?)", re.DOTALL
)


class Weakened(NamedTuple):
    """An expression that matches all that another one matches.

    Attributes:
        source: It.
        exact: It matches nothing else.
    """

    source: str
    exact: bool


def weaken(source: str, *, anchors: bool = False) -> Weakened:
    """An expression without what llguidance does not know, as far as it can be left out; the rest is as it was.

    Args:
        source: In the syntax of RE2, or with lookaheads and lookbehinds.
        anchors: Leave those at the begin and the end out, too.
    """
    parts: list[str] = []
    at, exact = 0, True
    while at < len(source):
        taken, part = _next(source, at, anchors=anchors)
        exact = exact and part != _NOTHING
        parts.append(part)
        at += taken
    return Weakened("".join(parts), exact)


def _next(source: str, at: int, *, anchors: bool) -> tuple[int, str]:
    """How many characters come next that belong together, and how they are written."""
    match source[at]:
        case "\\":
            return _escape(source, at, anchors=anchors)
        case "[":
            size = _class_size(source, at)
            return size, _ESCAPE.sub(_spell, source[at : at + size])
        case "^" | "$" as anchor:
            outside = at == 0 if anchor == "^" else at + 1 == len(source)
            return 1, anchor if outside and not anchors else _NOTHING
        case "{":
            found = _REPEATS.match(source, at)
            return (len(found[0]), found[0]) if found else (1, "\\{")
        case "(" if _LOOKS_AROUND.match(source, at):
            return _group_size(source, at), _NOTHING
        case character:
            return 1, character


def _escape(source: str, at: int, *, anchors: bool) -> tuple[int, str]:
    """The same of what a backslash begins, outside classes."""
    two = source[at : at + 2]
    if two in ("\\b", "\\B"):
        return 2, _NOTHING
    if two in ("\\A", "\\z"):
        outside = at == 0 if two == "\\A" else at + 2 == len(source)
        return 2, two if outside and not anchors else _NOTHING
    if two == "\\Q":
        text, _, _ = source[at + 2 :].partition("\\E")
        return len(text) + (4 if source.startswith("\\E", at + 2 + len(text)) else 2), re.escape(text) or "(?:){1}"
    found = present(_ESCAPE.match(source, at))
    return len(found[0]), _spell(found)


def _spell(escape: re.Match[str]) -> str:
    """An escape as llguidance knows it, in classes too."""
    if escape["not"]:
        return f"\\{escape['not'].swapcase()}{{{escape['name']}}}"
    return f"\\x{{{int(escape['octal'], 8):x}}}" if escape["octal"] else escape[0]


def _class_size(source: str, at: int) -> int:
    """Characters of a class; all that come where it has no end."""
    end = at + 1
    end += source.startswith("^", end)
    end += source.startswith("]", end)  # a bracket there is one of its characters
    while end < len(source) and source[end] != "]":
        if source.startswith("[:", end) and (close := source.find(":]", end)) >= 0:
            end = close + 2
        else:
            end += 2 if source[end] == "\\" else 1
    return min(end + 1, len(source)) - at


def _group_size(source: str, at: int) -> int:
    """Characters of a group; all that come where it has no end."""
    depth, end = 0, at
    while end < len(source):
        character = source[end]
        if character == "[":
            end += _class_size(source, end)
            continue
        depth += (character == "(") - (character == ")")
        end += 2 if character == "\\" else 1
        if depth == 0:
            break
    return min(end, len(source)) - at
