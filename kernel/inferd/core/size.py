"""What a value takes of the kernel's memory."""

from array import array
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from sys import getsizeof
from typing import Any

OBJECT_BYTES = 64  # of an object with a few fields, or of an entry in a tuple or a mapping with what it points to
PLAIN = frozenset((int, float, bool, type(None)))
NUMBER_BYTES = 40  # of a number in a tuple


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass; none of others."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def size_bytes(value: object) -> int:
    """About how many bytes a value takes: texts and arrays exactly, what is around them from above.

    Args:
        value: A frozen dataclass of texts, numbers, arrays, tuples, mappings, and such dataclasses.
    """
    kind: Any = type(value)
    if kind in PLAIN:
        return 8  # a reference
    if isinstance(value, str | bytes | array):
        return getsizeof(value)
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], int | float):
            return OBJECT_BYTES + NUMBER_BYTES * len(value)
        return OBJECT_BYTES + sum(map(size_bytes, value))
    if isinstance(value, Mapping):
        return OBJECT_BYTES + sum(map(size_bytes, value)) + sum(map(size_bytes, value.values()))
    return OBJECT_BYTES + sum([size_bytes(getattr(value, name)) for name in _names(kind)])
