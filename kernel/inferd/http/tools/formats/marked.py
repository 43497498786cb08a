"""Calls in notations of their own: Gemma 4, and the elements of Kimi K3."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Final

from inferd.http.tools.formats.elements import Members
from inferd.http.tools.parse import MOST_KEY
from inferd.http.tools.reader import BrokenError
from inferd.http.tools.schema import json_of
from inferd.http.tools.sink import quoted

if TYPE_CHECKING:
    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps

# Gemma 4: <|tool_call>call:name{key:<|"|>text<|"|>,other:3}<tool_call|>.

_GEMMA, _GEMMA_END, _QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_DEEPEST: Final = 32


def gemma(p: Parse) -> Steps[None]:
    """The parser of Gemma 4."""
    while (yield from p.content(_GEMMA)):
        yield from p.attempt(_gemma(p))


def _gemma(p: Parse) -> Steps[None]:
    yield from p.reader.skip()
    yield from p.reader.expect("call:")
    name, _ = yield from p.collect("{", most=MOST_KEY)
    p.sink.begin(name.strip())
    yield from _object(p, 0)
    yield from p.reader.skip()
    yield from p.reader.expect(_GEMMA_END)
    p.complete()


def _object(p: Parse, depth: int) -> Steps[None]:
    """What follows the brace."""
    p.arguments("{")
    yield from p.reader.skip()
    keys: set[str] = set()
    while not (yield from p.reader.literal("}")):
        key = yield from _key(p)
        if key in keys:
            raise BrokenError
        p.arguments(f'{", " if keys else ""}"{quoted(key)}": ')
        keys.add(key)
        yield from p.reader.skip()
        yield from _value(p, depth)
        yield from p.reader.skip()
        if (yield from p.reader.expect(",", "}")) == "}":
            break
        yield from p.reader.skip()
    p.arguments("}")


def _key(p: Parse) -> Steps[str]:
    for quote in (_QUOTE, '"'):
        if (yield from p.reader.literal(quote)):
            key, _ = yield from p.collect(quote, most=MOST_KEY)
            yield from p.reader.skip()
            yield from p.reader.expect(":", "=")
            return key
    key, _ = yield from p.collect(":", most=MOST_KEY)
    return key.strip()


def _value(p: Parse, depth: int) -> Steps[None]:
    if depth > _DEEPEST:
        raise BrokenError
    opened = yield from p.reader.literal(_QUOTE, "{", "[")
    if opened == _QUOTE:
        p.arguments('"')
        if not (yield from p.passage({_QUOTE: ()}, lambda text: p.arguments(quoted(text)))):
            raise BrokenError
        p.arguments('"')
    elif opened == "{":
        yield from _object(p, depth + 1)
    elif opened == "[":
        yield from _array(p, depth)
    else:
        yield from _plain(p)


def _array(p: Parse, depth: int) -> Steps[None]:
    p.arguments("[")
    yield from p.reader.skip()
    first = True
    while not (yield from p.reader.literal("]")):
        if not first:
            p.arguments(", ")
        first = False
        yield from _value(p, depth + 1)
        yield from p.reader.skip()
        if (yield from p.reader.expect(",", "]")) == "]":
            break
        yield from p.reader.skip()
    p.arguments("]")


def _plain(p: Parse) -> Steps[None]:
    """A number or a word; any other text is a string."""
    pieces = ""
    while True:
        text, marker = yield from p.reader.until(",", "}", "]", _GEMMA_END)
        pieces += text
        if len(pieces) > MOST_KEY or not (text or marker):
            raise BrokenError
        if marker:
            break
    word = pieces.strip()
    p.arguments(json_of(word, frozenset()) or f'"{quoted(word)}"')


# Kimi K3: <|open|>call tool="name" index="1"<|sep|>, an element for each argument, <|close|>call<|sep|>.

_OPEN, _CLOSE, _SEP = "<|open|>", "<|close|>", "<|sep|>"
_ATTRIBUTE: Final = re.compile(r'([\w-]+)="([^"]*)"')


def xtml(p: Parse) -> Steps[None]:
    """The parser of Kimi K3."""
    while marker := (yield from p.content(*_STARTS)):
        if marker == f"{_OPEN}call ":
            yield from p.attempt(_xtml_call(p))
        p.reader.recorded()


_STARTS: Final = (
    *(f"{_OPEN}{name}{_SEP}" for name in ("response", "tools")),
    *(f"{_CLOSE}{name}{_SEP}" for name in ("response", "tools", "message")),
    f"{_OPEN}call ",
)


def _xtml_call(p: Parse) -> Steps[None]:
    said = yield from _attributes(p)
    name = said.get("tool", "")
    p.sink.begin(name)
    members = Members(p, name)
    argument, whole, end = f"{_OPEN}argument ", f"{_OPEN}json ", f"{_CLOSE}call{_SEP}"
    while True:
        yield from p.reader.skip()
        found = yield from p.reader.expect(argument, whole, end)
        if found == end:
            members.close()
            break
        said = yield from _attributes(p)
        if found == whole:
            yield from p.json_arguments()
            yield from p.reader.expect(f"{_CLOSE}json{_SEP}")
            yield from p.reader.expect(end)
            break
        ends = {f"{_CLOSE}argument{_SEP}": (argument, end)}
        yield from members.value(said.get("key", ""), ends, text=said.get("type") == "string")
    p.complete()


def _attributes(p: Parse) -> Steps[dict[str, str]]:
    text, _ = yield from p.collect(_SEP, most=MOST_KEY)
    return {name: unescape(value) for name, value in _ATTRIBUTE.findall(text)}
