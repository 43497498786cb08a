"""How much longer the parts of a `tokenizer.json` may make a text: a few lines can make gigabytes of a letter."""

from __future__ import annotations

import base64
import binascii
from math import inf, prod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SIZE_BYTES: Final = 4  # of the number before the trie of a table of SentencePiece, which its texts follow


def steps_of(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in parts of a tokenizer, as its file has them."""
    if isinstance(value, dict):
        yield value
        yield from steps_of(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from steps_of(item)


def growth(steps: Iterable[dict[str, Any]]) -> float:
    """How many times as long a text may be behind steps, at most; infinity where they do not say it."""
    return prod(map(_growth, steps))


def _growth(step: dict[str, Any]) -> float:
    match step.get("type"):
        case "Precompiled":
            return _longest(step.get("precompiled_charsmap"))
        case "ByteLevel":
            return 2  # a letter of two bytes for a byte
        case "Prepend":
            return 1 + _bytes(step.get("prepend"))  # in front of each part of a text
        case "Replace":
            pattern = step.get("pattern")
            found = pattern.get("String") if isinstance(pattern, dict) else None
            least = _bytes(found) if isinstance(found, str) else 0  # what a pattern finds may be empty
            written = _bytes(step.get("content"))
            return max(1.0, written / least) if least else 1 + written
        case _:
            return 1  # some times at most, by tables of the library


def _bytes(text: Any) -> int:
    return len(str(text or "").encode("utf-8", "surrogatepass"))


def _longest(table: Any) -> float:
    """Bytes of the longest text that a table of SentencePiece may put in the place of a character."""
    try:
        data = base64.b64decode(table)
    except (TypeError, ValueError, binascii.Error):
        return inf
    begin = _SIZE_BYTES + int.from_bytes(data[:_SIZE_BYTES], "little")
    return max(1, *map(len, data[begin:].split(b"\0"))) if begin < len(data) else inf
