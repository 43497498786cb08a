"""What the parser of every format works with: the reader, the sink, and the tools that were offered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from inferd.http.tools.json_text import follow, read_json
from inferd.http.tools.reader import BrokenError, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.http.tools.reader import Steps
    from inferd.http.tools.schema import Tools
    from inferd.http.tools.sink import Sink

MOST_KEY: Final = 1024
"""Characters of a key or an attribute."""
MOST_UNSTREAMED: Final = 1 << 20
"""Characters of arguments that cannot go out as they come: they come before the name, or in another notation."""

_NAME_KEYS: Final = frozenset({"name", "tool_name", "function_name", "function"})
_ARGUMENT_KEYS: Final = frozenset({"arguments", "parameters", "args"})
_ID_KEYS: Final = frozenset({"id", "tool_call_id"})


Ends: TypeAlias = "Mapping[str, tuple[str, ...]]"
"""What may end a passage, and what follows each then."""


class Parse:
    """One text on its way through the parser of a format."""

    __slots__ = ("reader", "sink", "tools")

    def __init__(self, reader: Reader, sink: Sink, tools: Tools) -> None:
        self.reader = reader
        self.sink = sink
        self.tools = tools

    def content(self, *markers: str, say: Callable[[str], None] | None = None) -> Steps[str]:
        """All up to one of the markers is content, or what `say` makes of it; the marker is recorded and taken.

        Returns:
            The marker; "" where the text ends without one.
        """
        say = say or self.sink.content
        while True:
            text, marker = yield from self.reader.until(*markers)
            say(text)
            if marker:
                self.reader.record()
                return self.reader.take(len(marker))
            if not text:
                return ""

    def collect(self, *markers: str, most: int = MOST_UNSTREAMED) -> Steps[tuple[str, str]]:
        """Take all up to one of the markers, and that.

        Returns:
            What came before it, and the marker.

        Raises:
            BrokenError: None comes, or not soon enough.
        """
        pieces: list[str] = []
        size = 0
        while True:
            text, marker = yield from self.reader.until(*markers)
            pieces.append(text)
            size += len(text)
            if size > most or not (text or marker):
                raise BrokenError
            if marker:
                self.reader.take(len(marker))
                return "".join(pieces), marker

    def attempt(self, call: Steps[None]) -> Steps[bool]:
        """Read what may be a call, and was recorded from its begin; False where it is none, and was content.

        Calls that were complete before it broke stay calls: they are content no more.
        """
        try:
            yield from call
        except BrokenError:
            self.sink.broken(self.reader.recorded(), cut=self.reader.cut)
            return False
        self.reader.recorded()
        return True

    def arguments(self, text: str) -> None:
        """A piece of the open call's arguments, which was the last that was taken."""
        if self.sink.arguments(text):
            self.reader.record()

    def complete(self) -> None:
        """The open call is whole; what was read of it is no content."""
        self.sink.complete()
        self.reader.record()

    def passage(self, ends: Ends, say: Callable[[str], object]) -> Steps[str]:
        """Say all up to the first of the ends, and take that.

        Args:
            ends: What may end it, and what has to follow each then, or "" for nothing at all: an end that is followed
                by something else is a part of it. Nothing has to follow one that names nothing.
            say: Given the pieces of it.

        Returns:
            The end; "" where the text is over without one.
        """
        while True:
            text, end = yield from self.reader.until(*ends)
            say(text)
            if not end:
                if not text:
                    return ""
                continue
            self.reader.take(len(end))
            if not ends[end] or (yield from self.reader.comes(*ends[end])):
                return end
            say(end)

    def json_arguments(self) -> Steps[None]:
        """A JSON object, which is the arguments of the open call.

        Raises:
            BrokenError: It is none.
        """
        if (yield from self.reader.ahead(1)) != "{":
            raise BrokenError
        yield from follow(self.reader, self.arguments)

    def call_object(self, *, known: bool = False, named: bool = True) -> Steps[None]:
        """A JSON object that says which tool is called with what; the call is open then.

        Args:
            known: Whether it is a call only where the tool is one that was offered.
            named: Whether a tool may be called without `arguments`.

        Raises:
            BrokenError: It is none.
        """
        envelope = _Envelope(self, known=known)
        yield from envelope.read()
        envelope.close(bare=named)

    def scalar(self, most: int) -> Steps[Any]:
        """A JSON value that is read as a whole."""
        return (yield from read_json(self.reader, most=most))


class _Envelope:
    """{"name": …, "arguments": {…}}, with its keys in any order, others between them, or within "function"."""

    def __init__(self, parse: Parse, *, known: bool) -> None:
        self._parse = parse
        self._known = known
        self._name = ""
        self._id = ""
        self._early: str | None = None  # arguments that came before the name
        self._open = False

    def read(self) -> Steps[None]:
        reader = self._parse.reader
        yield from reader.expect("{")
        yield from reader.skip()
        while True:
            if (yield from reader.ahead(1)) != '"':
                raise BrokenError
            key = yield from self._parse.scalar(MOST_KEY)
            yield from reader.skip()
            yield from reader.expect(":")
            yield from reader.skip()
            yield from self._member(key, (yield from reader.ahead(1)))
            yield from reader.skip()
            if (yield from reader.expect(",", "}")) == "}":
                return
            yield from reader.skip()

    def _member(self, key: str, sign: str) -> Steps[None]:
        if key == "function" and sign == "{":
            yield from self.read()
        elif key in _NAME_KEYS and sign == '"' and not self._name:
            self._name = yield from self._parse.scalar(MOST_KEY)
            if self._known and self._name not in self._parse.tools:
                raise BrokenError
        elif key in _ID_KEYS and sign == '"':
            self._id = yield from self._parse.scalar(MOST_KEY)
        elif key in _ARGUMENT_KEYS and not self._open and self._early is None:
            yield from self._arguments(sign)
        elif self._known and key != "type":
            raise BrokenError
        else:
            yield from follow(self._parse.reader, lambda _: None, most=MOST_UNSTREAMED)

    def _arguments(self, sign: str) -> Steps[None]:
        if sign == "{" and self._name:
            self._begin()
            yield from self._parse.json_arguments()
            return
        pieces: list[str] = []
        yield from follow(self._parse.reader, pieces.append, most=MOST_UNSTREAMED)
        text = "".join(pieces)
        self._early = text if sign == "{" else _object_within(text)

    def _begin(self) -> None:
        self._parse.sink.begin(self._name, self._id)
        self._open = True

    def close(self, *, bare: bool) -> None:
        if self._open:
            return
        if self._early is None and not bare:
            raise BrokenError
        self._begin()
        self._parse.arguments(self._early or "{}")


def _object_within(text: str) -> str:
    """The JSON object that is written as a JSON string, or stands for none.

    Raises:
        BrokenError: There is none.
    """
    try:
        value = json.loads(text)
        if value is None or value == "":
            return "{}"
        if isinstance(value, str) and isinstance(json.loads(value), dict):
            return value
    except (ValueError, RecursionError):
        pass
    raise BrokenError
