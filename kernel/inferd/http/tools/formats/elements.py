"""Calls as elements with plain text in them: Qwen3-Coder, GLM, DeepSeek from V3.2 on, MiniMax, Seed.

The text of an argument is written as it is, so of what type it is has to be said by the tool's schema.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from inferd.http.tools.parse import MOST_KEY, MOST_UNSTREAMED
from inferd.http.tools.reader import BrokenError
from inferd.http.tools.schema import json_of
from inferd.http.tools.sink import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.http.tools.parse import Ends, Parse
    from inferd.http.tools.reader import Steps


class Members:
    """The arguments of a call that are said one after the other."""

    def __init__(self, p: Parse, name: str) -> None:
        self._p = p
        self._name = name
        self._keys: set[str] = set()

    def key(self, key: str) -> None:
        """The next one.

        Raises:
            BrokenError: There is one of that name.
        """
        if key in self._keys:
            raise BrokenError
        self._p.arguments(f'{", " if self._keys else "{"}"{quoted(key)}": ')
        self._keys.add(key)

    def value(self, key: str, ends: Ends, *, text: bool | None = None) -> Steps[str]:
        """What it is: plain text up to one of `ends`, which is taken.

        Args:
            key: Its name.
            ends: As of `Parse.passage`.
            text: Whether it is a string; None where that is for the tool's schema to say.

        Returns:
            The end.

        Raises:
            BrokenError: It has none, or is too long for what is no string.
        """
        self.key(key)
        if text or (text is None and self._p.tools.is_text(self._name, key)):
            self._p.arguments('"')
            end = yield from self._p.passage(ends, lambda piece: self._p.arguments(quoted(piece)))
            self._p.arguments('"' if end else "")
        else:
            pieces: list[str] = []
            end = yield from self._p.passage(ends, pieces.append)
            self._p.arguments(self._json(key, "".join(pieces), text=text) if end else "")
        if not end:
            raise BrokenError
        return end

    def _json(self, key: str, text_of: str, *, text: bool | None) -> str:
        if len(text_of) > MOST_UNSTREAMED:
            raise BrokenError
        found = json_of(text_of.strip(), frozenset()) if text is False else None
        return found or self._p.tools.written(self._name, key, text_of)

    def close(self) -> None:
        """There are no more."""
        self._p.arguments("}" if self._keys else "{}")


# Qwen3-Coder and Qwen3.5: <tool_call><function=name><parameter=key>value</parameter></function></tool_call>.

_AFTER: Final = ("<parameter=", "</function>")
_LINED: Final = {"\n</parameter>": (), "\n<parameter=": (), "\n</function>": (), "</parameter>": _AFTER}
_PLAIN: Final = {"</parameter>": _AFTER, "<parameter=": (), "</function>": ()}


def functions_of(opens: tuple[str, ...], close: str) -> Callable[[Parse], Steps[None]]:
    """The parser of calls as <function=…> elements within others.

    Args:
        opens: What may stand before a call.
        close: What stands behind it then.
    """

    def parse(p: Parse) -> Steps[None]:
        while marker := (yield from p.content(*opens, "<function=")):
            yield from p.attempt(_functions(p, marker, close))

    return parse


def _functions(p: Parse, marker: str, close: str) -> Steps[None]:
    while True:
        if marker != "<function=":
            yield from p.reader.skip()
            yield from p.reader.expect("<function=")
        yield from _function(p, close)
        yield from p.reader.skip()
        if (yield from p.reader.literal(close)) or not (yield from p.reader.literal("<function=")):
            return
        marker = "<function="


def _function(p: Parse, close: str) -> Steps[None]:
    name, _ = yield from p.collect(">", most=MOST_KEY)
    name = name.strip()
    p.sink.begin(name)
    members = Members(p, name)
    marker = yield from _next(p, close)
    while marker == "<parameter=":
        key, _ = yield from p.collect(">", most=MOST_KEY)
        key = key.strip()
        lined = bool((yield from p.reader.literal("\n")))
        marker = (yield from members.value(key, _LINED if lined else _PLAIN)).removeprefix("\n")
        if marker == "</parameter>":
            marker = yield from _next(p, close)
    members.close()
    p.complete()


def _next(p: Parse, close: str) -> Steps[str]:
    yield from p.reader.skip()
    return (yield from p.reader.expect("<parameter=", "</function>", close))


# GLM: <tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>.


def glm(p: Parse) -> Steps[None]:
    """The parser of GLM from 4.5 on."""
    while (yield from p.content("<tool_call>")):
        yield from p.attempt(_glm(p))


def _glm(p: Parse) -> Steps[None]:
    name = (yield from _glm_name(p)).strip()
    p.sink.begin(name)
    members = Members(p, name)
    marker = ""
    while marker != "</tool_call>":
        yield from p.reader.skip()
        if (yield from p.reader.expect("<arg_key>", "</tool_call>")) != "<arg_key>":
            break
        key, _ = yield from p.collect("</arg_key>", most=MOST_KEY)
        yield from p.reader.skip()
        yield from p.reader.expect("<arg_value>")
        # A model may forget to end its last value.
        marker = yield from members.value(key.strip(), {"</arg_value>": (), "</tool_call>": ("<tool_call>", "")})
    members.close()
    p.complete()


def _glm_name(p: Parse) -> Steps[str]:
    pieces = ""
    while True:
        text, marker = yield from p.reader.until("<arg_key>", "</tool_call>", "\n")
        pieces += text
        if len(pieces) > MOST_KEY or not (text or marker):
            raise BrokenError
        if marker and (pieces.strip() or marker != "\n"):
            return pieces
        p.reader.take(len(marker))


# DeepSeek V3.2, V4 and V4.1, and MiniMax: <invoke name="…"><parameter name="…">value</parameter></invoke>.

_ATTRIBUTE: Final = re.compile(r'([\w-]+)="([^"]*)"')


class Invokes:
    """The parser of calls as `invoke` elements.

    Args:
        opens: What stands before the calls.
        closes: What stands behind them; as many.
        before: What the names of elements begin with, for each of them.
    """

    def __init__(self, opens: tuple[str, ...], closes: tuple[str, ...], before: tuple[str, ...]) -> None:
        self._opens = opens
        self._closes = dict(zip(opens, closes, strict=True))
        self._before = dict(zip(opens, before, strict=True))

    def __call__(self, p: Parse) -> Steps[None]:
        """Parse a text."""
        while marker := (yield from p.content(*self._opens)):
            yield from p.attempt(self._calls(p, marker))

    def _calls(self, p: Parse, marker: str) -> Steps[None]:
        before = self._before[marker]
        while True:
            yield from p.reader.skip()
            found = yield from p.reader.expect(f"<{before}invoke", self._closes[marker])
            if found == self._closes[marker]:
                return
            yield from _invoke(p, before, self._closes[marker])


def _invoke(p: Parse, before: str, close: str) -> Steps[None]:
    head, _ = yield from p.collect(">", most=MOST_KEY)
    name = dict(_ATTRIBUTE.findall(head)).get("name", "")
    p.sink.begin(name)
    members = Members(p, name)
    parameter, end, over = f"<{before}parameter", f"</{before}parameter>", f"</{before}invoke>"
    ends = {end: (), over: (f"<{before}invoke", close)}  # a model may forget to end its last value
    marker = ""
    while not head.endswith("/") and marker != over:
        yield from p.reader.skip()
        if (yield from p.reader.expect(parameter, over)) != parameter:
            break
        attributes, _ = yield from p.collect(">", most=MOST_KEY)
        said = dict(_ATTRIBUTE.findall(attributes))
        if "name" not in said:
            raise BrokenError
        text = {"true": True, "false": False}.get(said.get("string", ""))
        marker = yield from members.value(said["name"], ends, text=text)
    members.close()
    p.complete()
