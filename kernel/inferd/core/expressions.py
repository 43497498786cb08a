"""The closed language of pipelines: references to values, and texts with references in them.

Nothing of it calls anything: a reference names a value and a way into it. `{{` and `}}` stand for braces in texts.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from inferd.errors import InvalidFieldError, LimitExceededError, present

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ITEM, INDEX, INPUT = "item", "index", "input"
RESERVED: Final = frozenset({ITEM, INDEX, INPUT, "and", "or", "not", "in", "true", "false", "null", "length"})
FILTERS: Final = ("join", "lines", "json")
NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(
    rf"\s*(?P<root>{NAME})(?P<path>(?:\.{NAME}|\[(?:\d{{1,9}}|{INDEX}|'[^']*')\])*)\s*(?:\|\s*(?P<filter>{NAME})\s*)?"
)
_PART = re.compile(rf"\.(?P<key>{NAME})|\[(?:(?P<number>\d+)|(?P<index>{INDEX})|'(?P<quoted>[^']*)')\]")
_PLAIN = re.compile(r"(?:[^{}]++|\{\{|\}\})++")  # up to a reference
_UNREAD: Any = object()


class Index:
    """In a way into a value: the place of the item that is at hand."""

    def __repr__(self) -> str:
        return f"[{INDEX}]"


AT_INDEX = Index()
Step = str | int | Index


@dataclass(frozen=True, slots=True)
class Reference:
    """A value by name, a way into it, or how many it has.

    Attributes:
        root: `input`, `item`, `index`, or the name of a step.
        path: Keys of objects and numbers of lists.
        counts: Whether it stands for the length of that.
    """

    root: str
    path: tuple[Step, ...] = ()
    counts: bool = False

    def __str__(self) -> str:
        """As it is written."""
        ways = (
            f".{each}" if isinstance(each, str) else f"[{each}]" if isinstance(each, int) else "[index]"
            for each in self.path
        )
        written = self.root + "".join(ways)
        return f"length({written})" if self.counts else written


class Value:
    """A JSON value, read when it is looked into, or written when that is asked for. One writer: itself.

    Args:
        raw: Its JSON; None where `data` is it.
    """

    __slots__ = ("_data", "_raw")

    def __init__(self, raw: str | None, data: Any = _UNREAD) -> None:
        self._raw = raw
        self._data = data

    @classmethod
    def of(cls, data: Any) -> Value:
        """A value that is at hand."""
        return cls(None, data)

    @property
    def raw(self) -> str:
        """Its JSON."""
        if self._raw is None:
            self._raw = write_json(self._data)
        return self._raw

    @property
    def data(self) -> Any:
        """What it is.

        Raises:
            InvalidFieldError: It is no JSON.
        """
        if self._data is _UNREAD:
            self._data = read_json(present(self._raw), "a value of the pipeline")
        return self._data

    @property
    def text(self) -> str:
        """In a text: a text as it is, nothing for null, all else as JSON."""
        if self.raw[:1] == '"':
            read: str = self.data
            return read
        return "" if self.raw == "null" else self.raw


NULL = Value("null", None)


def write_json(data: Any) -> str:
    """As values are written: without spaces, in Unicode."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def bytes_of(text: str) -> int:
    """How many bytes of UTF-8 a text has."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def read_json(raw: str, what: str) -> Any:
    """JSON that somebody gave.

    Raises:
        InvalidFieldError: It is none, as RFC 8259 has it, or nested too deeply.
    """
    try:
        read = json.loads(raw, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in raw.lower():  # else there is no half a character, which no text can have
            write_json(read).encode()
    except RecursionError:
        raise InvalidFieldError(f"{what} is nested too deeply to be read") from None
    except UnicodeEncodeError as error:
        raise InvalidFieldError(f"{what} has half a character, \\u{ord(error.object[error.start]):04x}") from None
    except ValueError as error:
        raise InvalidFieldError(f"{what} is no JSON: {error}") from None
    return read


def _finite(number: str) -> float:
    if math.isinf(read := float(number)):
        raise ValueError(f"{number[:40]} is larger than a number can be")
    return read


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def walk(value: Any, path: Sequence[Step], index: int, told: str) -> Any:
    """What stands at a way into a value.

    Raises:
        InvalidFieldError: There is nothing.
    """
    for step in path:
        if isinstance(step, str):
            if not isinstance(value, dict) or step not in value:
                has = (
                    f"an object with {', '.join(map(repr, list(value)[:8])) or 'nothing'}"
                    if isinstance(value, dict)
                    else kind_of(value)
                )
                raise InvalidFieldError(f"{told}: there is no {step!r}, it is {has}")
            value = value[step]
        else:
            at = index if isinstance(step, Index) else step
            if not isinstance(value, list) or at >= len(value):
                has = f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)
                raise InvalidFieldError(f"{told}: there is no [{at}], it is {has}")
            value = value[at]
    return value


def length_of(value: Any, told: str) -> int:
    """How many characters, items or members it has; null has none.

    Raises:
        InvalidFieldError: It is a number, true or false.
    """
    if value is None:
        return 0
    if isinstance(value, (str, list, dict)):
        return len(value)
    raise InvalidFieldError(f"{told}: {kind_of(value)} has no length")


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


# Texts.


def references_in(text: str) -> int:
    """How many references a text has, if it is one; without reading it."""
    return text.count("{") - 2 * text.count("{{")


class Part(NamedTuple):
    """A reference in a text, and how it is written there."""

    reference: Reference
    filter: str


@dataclass(frozen=True)
class Template:
    """A text with references in it.

    Attributes:
        parts: Texts and references, in their order.
    """

    parts: tuple[str | Part, ...]

    @classmethod
    def read(cls, text: str, field: str) -> Template:
        """Read one.

        Raises:
            InvalidFieldError: A brace is left open, or what is between braces is no reference.
        """
        parts: list[str | Part] = []
        at = 0
        while at < len(text):
            if (plain := _PLAIN.match(text, at)) is not None:
                parts.append(plain[0].replace("{{", "{").replace("}}", "}"))
                if (at := plain.end()) == len(text):
                    break
            begin = at
            found = _REFERENCE.match(text, begin + 1) if text[begin] == "{" else None
            if found is None or text[found.end() : found.end() + 1] != "}":
                near = text[begin : begin + 40]
                raise InvalidFieldError(
                    f"{field} has {near!r} at character {begin}, which is no reference; write one like {{item.text}} or"
                    " {parts | join}, and {{ or }} for a brace",
                    field=field,
                )
            if (filter_ := found["filter"] or "") and filter_ not in FILTERS:
                raise InvalidFieldError(
                    f"{field} has the filter {filter_!r}; there are {', '.join(FILTERS)}", field=field
                )
            parts.append(Part(Reference(found["root"], read_path(found["path"])), filter_))
            at = found.end() + 1
        return cls(tuple(parts))

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """All of them."""
        return tuple(part.reference for part in self.parts if isinstance(part, Part))

    @property
    def alone(self) -> Reference | None:
        """The reference that it is, with nothing around it and no filter; else None."""
        if len(self.parts) == 1 and isinstance(part := self.parts[0], Part) and not part.filter:
            return part.reference
        return None

    def text(self, found: Mapping[Reference, Value], most_bytes: int, field: str) -> str:
        """As a text.

        Raises:
            LimitExceededError: It is longer than that.
            InvalidFieldError: What is to be joined is no list.
        """
        written, size = [], 0
        for part in self.parts:
            text = part if isinstance(part, str) else _written(part, found[part.reference])
            size += len(text)
            if size > most_bytes:
                break
            written.append(text)
        made = "".join(written)
        if size > most_bytes or (size * 4 > most_bytes and len(made.encode(errors="replace")) > most_bytes):
            raise LimitExceededError(
                f"{field} becomes longer than limits.prompt_bytes, which is {most_bytes}; make shorter items of"
                " it, or raise that setting of the kernel",
                metadata={"bound": "limits.prompt_bytes", "limit": str(most_bytes)},
                field=field,
            )
        return made


def read_path(text: str) -> tuple[Step, ...]:
    """A way into a value, as it is written behind its root."""
    path: list[Step] = []
    for found in _PART.finditer(text):
        if found["number"] is not None:
            path.append(int(found["number"]))
        else:
            path.append(AT_INDEX if found["index"] else found["key"] if found["key"] is not None else found["quoted"])
    return tuple(path)


def _written(part: Part, value: Value) -> str:
    if part.filter == "json":
        return value.raw
    if not part.filter:
        return value.text
    if not isinstance(items := value.data, list):
        raise InvalidFieldError(f"{part.reference} is {kind_of(items)}; only a list can be joined")
    texts = (each if isinstance(each, str) else write_json(each) for each in items if each is not None)
    return ("\n\n" if part.filter == "join" else "\n").join(texts)
