"""Conditions of pipelines: they compare, in time that is linear in their length, and call nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from inferd.core.expressions import INDEX, NAME, Reference, kind_of, read_path
from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.core.expressions import Value

MOST_DEPTH: Final = 32  # of parentheses, and of `not`
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<sign>==|!=|<=|>=|<|>|\(|\))"
    rf"|(?P<path>{NAME}(?:\.{NAME}|\[(?:\d{{1,9}}|{INDEX}|'[^']*')\])*))"
)


_COMPARES: Final = ("==", "!=", "<", "<=", ">", ">=", "in")


@dataclass(frozen=True)
class Condition:
    """What holds or not.

    Attributes:
        node: The tree of it.
    """

    node: tuple[Any, ...]

    @classmethod
    def read(cls, text: str, field: str) -> Condition:
        """Read one.

        Raises:
            InvalidFieldError: It is none; tells where.
        """
        reading = _Reading(text, field)
        node = reading.either(0)
        if reading.sign:
            raise reading.wrong()
        return cls(node)

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """All of them."""
        return tuple(_references(self.node))

    def holds(self, found: Mapping[Reference, Value]) -> bool:
        """Whether it does.

        Raises:
            InvalidFieldError: It compares what has no order.
        """
        return bool(_evaluate(self.node, found))


def _references(node: tuple[Any, ...]) -> Iterator[Reference]:
    for part in node[1:]:
        if isinstance(part, Reference):
            yield part
        elif isinstance(part, tuple):
            yield from _references(part)


def _evaluate(node: tuple[Any, ...], found: Mapping[Reference, Value]) -> Any:
    match node:
        case ("value", value):
            return value
        case ("reference", reference):
            return found[reference].data
        case ("not", of):
            return not _evaluate(of, found)
        case ("and", *parts):
            return all(_evaluate(each, found) for each in parts)
        case ("or", *parts):
            return any(_evaluate(each, found) for each in parts)
        case (sign, left, right):
            return _compare(sign, _evaluate(left, found), _evaluate(right, found))
    raise AssertionError(node)


def _compare(sign: str, left: Any, right: Any) -> bool:
    if sign in ("==", "!="):
        same = left == right and isinstance(left, bool) == isinstance(right, bool)
        return same if sign == "==" else not same
    if sign == "in":
        if isinstance(right, (list, dict)) or (isinstance(right, str) and isinstance(left, str)):
            return left in right if not isinstance(right, dict) else isinstance(left, str) and left in right
        raise InvalidFieldError(f"a condition looks for {kind_of(left)} in {kind_of(right)}; in takes a text or a list")
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (left, right))
    if not numbers and not (isinstance(left, str) and isinstance(right, str)):
        raise InvalidFieldError(f"a condition has {kind_of(left)} {sign} {kind_of(right)}: they have no order")
    less, equal = bool(left < right), bool(left == right)
    return {"<": less, "<=": less or equal, ">": not less and not equal, ">=": not less}[sign]


class _Reading:
    """Reads a condition from its left to its right. One writer: itself."""

    def __init__(self, text: str, field: str) -> None:
        self._text, self._field, self._at = text, field, 0
        self.sign, self._kind, self._begin = "", "", 0
        self._next()

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            self._begin = len(self._text) - len(self._text[self._at :].lstrip())
            self.sign, self._kind = self._text[self._begin :][:20], "end" if self._begin == len(self._text) else "other"
            return
        self._kind = found.lastgroup or ""
        self.sign, self._begin, self._at = found[self._kind], found.start(self._kind), found.end()

    def wrong(self) -> InvalidFieldError:
        """What is said of what cannot be read."""
        what = f"{self.sign!r} at character {self._begin}" if self.sign else "its end"
        return InvalidFieldError(
            f"{self._field} is {self._text[:80]!r} and cannot be read from {what} on; write it like"
            " length(input) > 4000 and item.kind == 'news'",
            field=self._field,
        )

    def either(self, depth: int) -> tuple[Any, ...]:
        return self._several("or", self.both, depth)

    def both(self, depth: int) -> tuple[Any, ...]:
        return self._several("and", self._negated, depth)

    def _several(self, word: str, read: Any, depth: int) -> tuple[Any, ...]:
        if depth > MOST_DEPTH:
            raise InvalidFieldError(f"{self._field} is nested deeper than {MOST_DEPTH}", field=self._field)
        parts = [read(depth)]
        while self.sign == word and self._kind == "path":
            self._next()
            parts.append(read(depth))
        return parts[0] if len(parts) == 1 else (word, *parts)

    def _negated(self, depth: int) -> tuple[Any, ...]:
        if depth > MOST_DEPTH:
            raise InvalidFieldError(f"{self._field} is nested deeper than {MOST_DEPTH}", field=self._field)
        if self.sign == "not" and self._kind == "path":
            self._next()
            return "not", self._negated(depth + 1)
        left = self._operand(depth)
        if self.sign in _COMPARES and self._kind in ("sign", "path"):
            sign = self.sign
            self._next()
            return sign, left, self._operand(depth)
        return left

    def _operand(self, depth: int) -> tuple[Any, ...]:
        sign, kind = self.sign, self._kind
        if kind == "number":
            self._next()
            return "value", float(sign) if any(each in sign for each in ".eE") else int(sign[:400])
        if kind == "text":
            self._next()
            return "value", sign[1:-1]
        if sign == "(" and kind == "sign":
            self._next()
            inside = self.either(depth + 1)
            self._expect(")")
            return inside
        if kind != "path" or sign in ("and", "or", "not", "in"):
            raise self.wrong()
        self._next()
        if sign in ("true", "false", "null"):
            return "value", {"true": True, "false": False, "null": None}[sign]
        if sign == "length":
            self._expect("(")
            of, kind = self.sign, self._kind
            if kind != "path":
                raise self.wrong()
            self._next()
            self._expect(")")
            return "reference", _reference(of, counts=True)
        return "reference", _reference(sign)

    def _expect(self, sign: str) -> None:
        if self.sign != sign:
            raise self.wrong()
        self._next()


def _reference(written: str, *, counts: bool = False) -> Reference:
    root = re.match(NAME, written)
    name = root[0] if root else written
    return Reference(name, read_path(written[len(name) :]), counts=counts)
