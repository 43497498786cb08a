"""A JSON value (RFC 8259) that comes in pieces, followed without keeping it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from inferd.http.tools.reader import SPACES, BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.http.tools.reader import Reader, Steps

DEEPEST: Final = 64
"""Most objects and arrays within each other in the arguments of a call."""
LONGEST_SCALAR: Final = 1024
"""Characters of a number."""

_TEXT: Final = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE: Final = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_ESCAPE_HEAD: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SPACE: Final = re.compile(f"[{SPACES}]+")

_VALUE, _KEY_OR_END, _KEY, _COLON, _VALUE_OR_END, _NEXT_OR_END, _STRING, _KEY_STRING, _DONE = range(9)


class JsonText:
    """Which characters go on with a value. Control characters inside strings, which JSON forbids, are escaped.

    Attributes:
        done: Whether the value is whole; of a number at the top that is known with what follows it.
        broken: Whether the character behind those that were taken cannot stand there.
    """

    __slots__ = ("_closers", "_state", "broken", "done")

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._state = _VALUE
        self.done = False
        self.broken = False

    def take(self, text: str, at: int, *, ended: bool) -> tuple[int, str]:
        """Follow the value from a place in a text as far as it goes.

        Returns:
            Where what was taken ends; less than the text has where more is needed to tell. And what it says.
        """
        said: list[str] = []
        while at < len(text) and not self.done and not self.broken:
            end, piece = self._step(text, at, ended=ended)
            if end == at:
                break
            said.append(piece)
            at = end
        return at, "".join(said)

    def _step(self, text: str, at: int, *, ended: bool) -> tuple[int, str]:
        if self._state in (_STRING, _KEY_STRING):
            return self._in_string(text, at, ended=ended)
        if space := _SPACE.match(text, at):
            return space.end(), space.group()
        sign = text[at]
        if self._state in (_VALUE, _VALUE_OR_END):
            return self._value(text, at, sign, ended=ended)
        if self._state == _COLON and sign == ":":
            self._state = _VALUE
        elif self._state in (_KEY, _KEY_OR_END) and sign == '"':
            self._state = _KEY_STRING
        elif self._state in (_KEY_OR_END, _NEXT_OR_END) and sign == self._closers[-1]:
            self._close()
        elif self._state == _NEXT_OR_END and sign == ",":
            self._state = _KEY if self._closers[-1] == "}" else _VALUE
        else:
            return self._break(at)
        return at + 1, sign

    def _value(self, text: str, at: int, sign: str, *, ended: bool) -> tuple[int, str]:
        if sign == '"':
            self._state = _STRING
        elif sign in "{[" and len(self._closers) < DEEPEST:
            self._closers.append("}" if sign == "{" else "]")
            self._state = _KEY_OR_END if sign == "{" else _VALUE_OR_END
        elif sign == "]" and self._state == _VALUE_OR_END:
            self._close()
        elif found := _SCALAR.match(text, at):
            return self._scalar(text, found, ended=ended)
        else:
            return self._break(at)
        return at + 1, sign

    def _scalar(self, text: str, found: re.Match[str], *, ended: bool) -> tuple[int, str]:
        word, at = found.group(), found.start()
        if len(word) > LONGEST_SCALAR:
            return self._break(at)
        if found.end() == len(text) and not ended:
            return at, ""  # it may go on
        if word not in ("true", "false", "null") and not _NUMBER.fullmatch(word):
            return self._break(at)
        self._end_value()
        return found.end(), word

    def _in_string(self, text: str, at: int, *, ended: bool) -> tuple[int, str]:
        if found := _TEXT.match(text, at) or _ESCAPE.match(text, at):
            return found.end(), found.group()
        sign = text[at]
        if sign == '"':
            if self._state == _STRING:
                self._end_value()
            else:
                self._state = _COLON
            return at + 1, sign
        if sign == "\\":
            return (at, "") if _ESCAPE_HEAD.match(text, at) and not ended else self._break(at)
        return at + 1, json.dumps(sign)[1:-1]

    def _close(self) -> None:
        self._closers.pop()
        self._end_value()

    def _end_value(self) -> None:
        self.done = not self._closers
        self._state = _NEXT_OR_END if self._closers else _DONE

    def _break(self, at: int) -> tuple[int, str]:
        self.broken = True
        return at, ""


def follow(reader: Reader, say: Callable[[str], object], *, most: int | None = None) -> Steps[None]:
    """Take a JSON value and say it as it comes.

    Args:
        reader: Of which it comes next.
        say: Given its pieces.
        most: Characters that it may have.

    Raises:
        BrokenError: It is none, too long, or breaks off.
    """
    value, size = JsonText(), 0
    while True:
        text, at, ended = reader.buffer()
        end, said = value.take(text, at, ended=ended)
        reader.take(end - at)
        size += len(said)
        if most is not None and size > most:
            raise BrokenError
        say(said)
        if value.done:
            return
        if value.broken or not (yield from reader.more()):
            raise BrokenError


def read_json(reader: Reader, *, most: int) -> Steps[Any]:
    """Take a JSON value of at most so many characters.

    Raises:
        BrokenError: As of `follow`.
    """
    pieces: list[str] = []
    yield from follow(reader, pieces.append, most=most)
    try:
        return json.loads("".join(pieces))
    except (ValueError, RecursionError) as error:  # an integer with too many digits
        raise BrokenError from error
