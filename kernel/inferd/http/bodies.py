"""Bodies of JSON: read once, within bounds, and nothing in them that no JSON or no UTF-8 has. Pure."""

from __future__ import annotations

import json
import math
import re
from json import scanner
from typing import TYPE_CHECKING, Any, Final

from inferd.http.problems import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_LISTS: Final = 100_000  # lists and objects of a line of a batch, and where no setting says otherwise
MOST_PATH: Final = 80  # characters of where something stands
TEXTS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")
"""What half a character looks like in JSON, and half of each that is written as two."""


def parse(body: bytes, most_depth: int, most_lists: int = MOST_LISTS, *, yields: bool = False) -> Mapping[str, Any]:
    """A body of JSON; {} for an empty one.

    Args:
        body: Its bytes.
        most_depth: How deep it may be.
        most_lists: How many lists and objects it may have.
        yields: Whether other threads have their turn meanwhile, for which it takes some ten times as long: C reads a
            body of a million values without giving up the lock of the interpreter.

    Raises:
        Refusal: It is no JSON object, too deep, has too many parts, or holds what no JSON or no UTF-8 has.
    """
    if not body.strip():
        return {}
    _check_lists(body, most_lists)
    odd: list[str] = []

    def read_float(text: str) -> float:
        if math.isinf(number := float(text)):
            odd.append(text)
        return number

    def read_constant(name: str) -> float:
        odd.append(name)
        return math.nan

    try:
        text = body.decode("utf-8-sig")
        decoder = json.JSONDecoder(parse_float=read_float, parse_constant=read_constant)
        if yields:
            decoder.scan_once = scanner.py_make_scanner(decoder)  # type: ignore[attr-defined] # json's own, in Python
        said = decoder.decode(text)
    except (ValueError, RecursionError) as error:  # that of Unicode is a ValueError, too
        known = isinstance(error, json.JSONDecodeError)
        why = str(error) if known else "it is no JSON in UTF-8, too deep, or has a number of thousands of digits"
        raise Refusal(f"the body cannot be read as JSON: {why}", code="INVALID_FIELD") from None
    if not isinstance(said, dict):
        raise Refusal(f'the body is a JSON {type(said).__name__}; it must be an object, as {{"model": …}}')
    _check_depth(said, most_depth)
    if odd or HALF.search(text):
        check_values(said)
    return said


def check_values(said: Mapping[str, Any]) -> None:
    """Refuse numbers without an end, and halves of characters, wherever they are.

    Raises:
        Refusal: There is one; it names where.
    """
    for path, value in _values(said):
        if isinstance(value, float) and not math.isfinite(value):
            raise Refusal(f"{path} is no number that JSON has, or too large a one", param=path)
        if isinstance(value, str) and not _is_text(value):
            raise Refusal(f"{path} holds half a character (a lone surrogate), which no UTF-8 has", param=path)


def _values(said: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All names and values that are no lists and no objects, each with where it stands."""
    left: list[tuple[str, Any]] = [("", said)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                shown = name if _is_text(name) else ascii(name)[1:-1]
                here = f"{path}.{shown}"[-MOST_PATH:].lstrip(".")
                yield here, name
                left.append((here, inner))
        elif isinstance(value, list):
            left.extend((f"{path}[{index}]", inner) for index, inner in enumerate(value))
        else:
            yield path, value


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_lists(body: bytes, most: int) -> None:
    """Before anything is made of it: a list of few bytes in a body is one of many in memory."""
    for _ in range(2):
        if (found := body.count(b"[") + body.count(b"{")) <= most:
            return
        body = TEXTS.sub(b"", body)
    raise Refusal(
        f"the body has {found} lists and objects, over the {most} of http.body_lists; send less", code="LIMIT_EXCEEDED"
    )


def _check_depth(said: Any, most: int) -> None:
    level: list[Any] = [said]
    for _ in range(most):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise Refusal(f"the body has lists and objects more than {most} deep (http.body_depth)", code="LIMIT_EXCEEDED")
