"""The metadata of a GGUF file: typed values by key."""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from inferd.plugin import UnsupportedModelError
from inferd_weights.cursor import Cursor


class Kind(IntEnum):
    """Kinds of values, numbered as in the file."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


_FORMATS: Mapping[Kind, str] = {
    Kind.U8: "<B",
    Kind.I8: "<b",
    Kind.U16: "<H",
    Kind.I16: "<h",
    Kind.U32: "<I",
    Kind.I32: "<i",
    Kind.F32: "<f",
    Kind.BOOL: "<?",
    Kind.U64: "<Q",
    Kind.I64: "<q",
    Kind.F64: "<d",
}
_INTEGERS = frozenset({Kind.U8, Kind.I8, Kind.U16, Kind.I16, Kind.U32, Kind.I32, Kind.U64, Kind.I64})
_NUMBERS = _INTEGERS | {Kind.F32, Kind.F64}
_LARGEST = 1 << 64  # of a whole number of a file


@dataclass(frozen=True, slots=True)
class Value:
    """One value. `item` is the kind of an array's items, whose `content` is a list of text or a numpy array."""

    kind: Kind
    content: Any
    item: Kind | None = None

    @property
    def type_name(self) -> str:
        """For errors."""
        return f"array of {self.item.name}" if self.item is not None else self.kind.name


def read_value(cursor: Cursor, key: str) -> Value:
    """Read a kind and its value.

    Raises:
        LoadError: An unknown kind, a nested array, or bytes that are not there.
    """
    kind, what = _read_kind(cursor, f"type of {key!r}"), f"value of {key!r}"
    if kind is Kind.STRING:
        return Value(kind, cursor.text(what))
    if kind is not Kind.ARRAY:
        form = struct.Struct(_FORMATS[kind].replace("<", cursor.order))
        return Value(kind, form.unpack(cursor.take(form.size, what))[0])
    item = _read_kind(cursor, f"item type of {key!r}")
    if item is Kind.ARRAY:
        raise cursor.error(what, "is an array of arrays; only flat arrays are supported")
    if item is Kind.STRING:
        count = cursor.count(f"length of {key!r}", item_bytes=4 if cursor.short else 8)
        return Value(kind, cursor.texts(count, what), item)
    dtype = np.dtype(_FORMATS[item])
    count = cursor.count(f"length of {key!r}", item_bytes=dtype.itemsize)
    raw = np.frombuffer(cursor.take(count * dtype.itemsize, what), dtype.newbyteorder(cursor.order))
    return Value(kind, raw.astype(dtype, copy=False), item)


def _read_kind(cursor: Cursor, what: str) -> Kind:
    number = cursor.u32(what)
    if number > max(Kind):
        raise cursor.error(what, f"is {number}; the known types are 0 to {max(Kind)}: the file is corrupt or newer")
    return Kind(number)


class Metadata(Mapping[str, Value]):
    """Values by key, with a checked read for each type that models need.

    A read of a key that is absent gives `default`, unless that is None; then it raises. Every read raises LoadError
    when the value has another type or lies outside its bounds, naming the key, the value and what is expected.

    Attributes:
        path: The file.
        used: Keys that were read, also those that are not there.
    """

    def __init__(self, path: Path, values: Mapping[str, Value]) -> None:
        self.path = path
        self.used: set[str] = set()
        self._values = values

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def content(self, key: str) -> Any:
        """What a key holds, unchecked; None where it is missing."""
        value = self._values.get(key)
        self.used.add(key)
        return None if value is None else value.content

    def error(self, key: str, why: str) -> UnsupportedModelError:
        """The error of a key."""
        return UnsupportedModelError(f"{self.path}: metadata {key!r} {why}")

    def integer(self, key: str, default: int | None = None, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """A whole number within bounds."""
        number = int(self._read(key, default, _INTEGERS, "a whole number"))
        if not minimum <= number <= maximum:
            raise self.error(key, f"is {number}; it must be from {minimum} to {maximum}")
        return number

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above zero."""
        given = self._read(key, default, _NUMBERS, "a number")
        number = math.inf if isinstance(given, int) and abs(given) > _LARGEST else float(given)
        if not (math.isfinite(number) and number > 0):
            raise self.error(key, f"is {number}; it must be a finite number above 0")
        return number

    def flag(self, key: str, default: bool | None = None) -> bool:  # noqa: FBT001 - a default, as in the other reads
        """True or false."""
        return bool(self._read(key, default, {Kind.BOOL}, "true or false"))

    def text(self, key: str, default: str | None = None) -> str:
        """Text."""
        return str(self._read(key, default, {Kind.STRING}, "text"))

    def texts(self, key: str) -> list[str]:
        """An array of texts."""
        texts: list[str] = self._read_array(key, {Kind.STRING}, "texts")
        return texts

    def integers(self, key: str) -> list[int]:
        """An array of whole numbers."""
        numbers: list[int] = self._read_array(key, _INTEGERS, "whole numbers").tolist()
        return numbers

    def numbers(self, key: str) -> list[float]:
        """An array of finite numbers."""
        array = self._read_array(key, _NUMBERS, "numbers")
        if not np.isfinite(array).all():
            raise self.error(key, f"has {array[~np.isfinite(array)][0]}; its numbers must be finite")
        numbers: list[float] = array.tolist()
        return numbers

    def _read(self, key: str, default: Any, kinds: frozenset[Kind] | set[Kind], expected: str) -> Any:
        value = self._values.get(key)
        self.used.add(key)
        if value is None:
            if default is None:
                raise self.error(key, "is missing; the file is not complete")
            return default
        if value.kind not in kinds:
            raise self.error(key, f"is of type {value.type_name}; it must be {expected}")
        return value.content

    def _read_array(self, key: str, items: frozenset[Kind] | set[Kind], expected: str) -> Any:
        content = self._read(key, None, {Kind.ARRAY}, f"an array of {expected}")
        if self._values[key].item not in items:
            raise self.error(key, f"is an {self._values[key].type_name}; it must be an array of {expected}")
        return content
