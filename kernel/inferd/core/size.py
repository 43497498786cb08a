"""What a value takes of the kernel's memory."""

from array import array
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from sys import getsizeof
from typing import Any

OBJECT_BYTES = 64  # of an object with a few fields, or of an entry in a tuple or a mapping with what it points to
NUMBER_BYTES = 40  # of a number in a tuple


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def size_bytes(value: object) -> int:
    """About how many bytes a value takes: texts and arrays exactly, what is around them from above.

    Args:
        value: A frozen dataclass of texts, numbers, arrays, tuples, mappings, and such dataclasses.
    """
    match value:
        case str() | bytes() | array():
            return getsizeof(value)
        case tuple() | list() if value and isinstance(value[0], int | float):
            return OBJECT_BYTES + NUMBER_BYTES * len(value)
        case tuple() | list():
            return OBJECT_BYTES + sum(map(size_bytes, value))
        case Mapping():
            return OBJECT_BYTES + sum(size_bytes(key) + size_bytes(each) for key, each in value.items())
        case _ if is_dataclass(value):
            parts = [getattr(value, name) for name in _names(value.__class__)]
            return OBJECT_BYTES + sum(map(size_bytes, parts))
    return 8  # a reference to what others hold, too
