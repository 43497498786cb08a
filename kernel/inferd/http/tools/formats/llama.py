"""Calls of Llama: bare JSON objects (3.1 to 3.3), and Python's notation (3.2, 4)."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any, Final

from inferd.http.tools.formats.named import function
from inferd.http.tools.formats.tagged import calls
from inferd.http.tools.parse import MOST_KEY, MOST_UNSTREAMED
from inferd.http.tools.reader import BrokenError
from inferd.http.tools.sink import quoted

if TYPE_CHECKING:
    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps

_TAG: Final = "<|python_tag|>"


def llama_json(p: Parse) -> Steps[None]:
    """The parser of Llama 3: an object is a call where it names a tool that was offered."""
    while marker := (yield from p.content(_TAG, "{", "<function=")):
        yield from p.attempt(_llama_json(p, marker))


def _llama_json(p: Parse, marker: str) -> Steps[None]:
    if marker == "<function=":
        yield from function(p)
        return
    if marker == _TAG:
        yield from p.reader.skip()
        if (yield from p.reader.ahead(1)) not in ("{", "["):
            yield from _call(p)
            return
    else:
        p.reader.give_back(marker)
    yield from calls(p, known=marker != _TAG)
    while True:
        yield from p.reader.skip()
        if not (yield from p.reader.literal(";")):
            return
        yield from p.reader.skip()
        yield from calls(p, known=marker != _TAG)


# [f(a=1, b="x"), g()], with <|python_start|> and <|python_end|> around it or not.

_START, _END = "<|python_start|>", "<|python_end|>"
_NAME: Final = re.compile(r"[\w.-]*")
_NUMBER: Final = re.compile(r"[-+.\w]*")
_WORDS: Final = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_DEEPEST: Final = 32


def pythonic(p: Parse) -> Steps[None]:
    """The parser of lists of calls in Python's notation."""
    while marker := (yield from p.content(_START, _TAG, "[")):
        yield from p.attempt(_list(p, marker))


def _list(p: Parse, marker: str) -> Steps[None]:
    tagged = marker != "["
    if tagged:
        yield from p.reader.skip()
        if (yield from p.reader.ahead(1)) == "{":
            yield from calls(p)
            return
        yield from p.reader.expect("[")
    yield from p.reader.skip()
    while True:
        yield from _call(p, known=not tagged)
        yield from p.reader.skip()
        if (yield from p.reader.expect(",", "]")) == "]":
            break
        yield from p.reader.skip()
    if tagged:
        yield from p.reader.skip()
        yield from p.reader.literal(_END)


def _call(p: Parse, *, known: bool = False) -> Steps[None]:
    name = yield from p.reader.word(_NAME, most=MOST_KEY)
    if known and name not in p.tools:
        raise BrokenError
    p.sink.begin(name)
    yield from p.reader.expect("(")
    yield from p.reader.skip()
    keys: set[str] = set()
    while not (yield from p.reader.literal(")")):
        key = yield from p.reader.word(_NAME, most=MOST_KEY)
        yield from p.reader.skip()
        yield from p.reader.expect("=")
        yield from p.reader.skip()
        if not key or key in keys:
            raise BrokenError
        p.arguments(f'{", " if keys else "{"}"{quoted(key)}": ')
        keys.add(key)
        yield from _value(p, 0)
        yield from p.reader.skip()
        if (yield from p.reader.expect(",", ")")) == ")":
            break
        yield from p.reader.skip()
    p.arguments("}" if keys else "{}")
    p.complete()


def _value(p: Parse, depth: int) -> Steps[None]:
    """A Python literal, which goes out as JSON."""
    sign = yield from p.reader.ahead(1)
    if depth > _DEEPEST:
        raise BrokenError
    if sign in ("'", '"'):
        p.arguments(f'"{quoted((yield from _string(p)))}"')
    elif sign in ("[", "("):
        yield from _sequence(p, depth)
    elif sign == "{":
        yield from _mapping(p, depth)
    else:
        word = yield from p.reader.word(_NUMBER, most=MOST_KEY)
        p.arguments(_WORDS.get(word) or _number(word))


def _number(word: str) -> str:
    try:
        value: Any = ast.literal_eval(word)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return word if _is_json(word) else json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise BrokenError


def _is_json(word: str) -> bool:
    try:
        json.loads(word, parse_constant=ast.literal_eval)
    except ValueError:
        return False
    return True


def _sequence(p: Parse, depth: int) -> Steps[None]:
    close = "]" if p.reader.take(1) == "[" else ")"
    p.arguments("[")
    yield from p.reader.skip()
    first = True
    while not (yield from p.reader.literal(close)):
        if not first:
            p.arguments(", ")
        first = False
        yield from _value(p, depth + 1)
        yield from p.reader.skip()
        if (yield from p.reader.expect(",", close)) == close:
            break
        yield from p.reader.skip()
    p.arguments("]")


def _mapping(p: Parse, depth: int) -> Steps[None]:
    p.reader.take(1)
    p.arguments("{")
    yield from p.reader.skip()
    first = True
    while not (yield from p.reader.literal("}")):
        if (yield from p.reader.ahead(1)) not in ("'", '"'):
            raise BrokenError
        key = yield from _string(p)
        p.arguments(f'{"" if first else ", "}"{quoted(key)}": ')
        first = False
        yield from p.reader.skip()
        yield from p.reader.expect(":")
        yield from p.reader.skip()
        yield from _value(p, depth + 1)
        yield from p.reader.skip()
        if (yield from p.reader.expect(",", "}")) == "}":
            break
        yield from p.reader.skip()
    p.arguments("}")


def _string(p: Parse) -> Steps[str]:
    """A Python string, whole."""
    quote = yield from p.reader.expect("'''", '"""', "'", '"')
    if len(quote) == 1 and (yield from p.reader.ahead(2)) == quote * 2:
        quote = p.reader.take(2) + quote
    pieces: list[str] = []
    size = 0
    while True:
        text, marker = yield from p.reader.until(quote, "\\")
        pieces.append(text)
        size += len(text)
        if size > MOST_UNSTREAMED or not (text or marker):
            raise BrokenError
        if marker == "\\":
            if len((yield from p.reader.ahead(2))) < 2:  # noqa: PLR2004 - the sign and what it escapes
                raise BrokenError
            pieces.append(p.reader.take(2))
            size += 2
        elif marker:
            p.reader.take(len(marker))
            break
    return _unescaped("".join(pieces))


_ESCAPE: Final = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(\n|.))", re.DOTALL
)
_SIGNS: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": "", "\\": "\\"}


def _unescaped(text: str) -> str:
    """What Python's escapes in a string say; pairs of surrogates, as JSON has them, are characters.

    Raises:
        BrokenError: They say no characters.
    """

    def sign(found: re.Match[str]) -> str:
        octal, *hexes, plain = found.groups()
        if plain is not None:
            return _SIGNS.get(plain, plain if plain in "'\"" else found.group())
        return chr(int(octal, 8) if octal else int(next(filter(None, hexes)), 16))

    try:
        return _ESCAPE.sub(sign, text).encode("utf-16", "surrogatepass").decode("utf-16")
    except ValueError as error:
        raise BrokenError from error
