"""The wire format of protobuf, read without any library: fields of a message inside a buffer.

Source: protobuf.dev/programming-guides/encoding. Only what ONNX files need of it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
MAX_KEY = (1 << 32) - 1  # libraries drop the bits above, so that they would see another field
_NUMBERS = re.compile(
    b"(?:[\x08\x10\x18\x20\x28\x30\x38\x40\x48\x50\x58\x60\x68\x70\x78][\x80-\xff]{0,9}[\x00-\x7f]"
    b"|[\x0d\x15\x1d\x25\x2d\x35\x3d\x45\x4d\x55\x5d\x65\x6d\x75\x7d].{4}"
    b"|[\x09\x11\x19\x21\x29\x31\x39\x41\x49\x51\x59\x61\x69\x71\x79].{8}){1,4096}",
    re.DOTALL,
)
"""Fields 1 to 15 that hold numbers, many at once: graphs of trees have millions of them."""


class Field(NamedTuple):
    """A field: its number; its value, or where its bytes begin; and where they end, 0 for a number."""

    number: int
    value: int
    end: int


def read_fields(data: memoryview, begin: int, end: int) -> Iterator[Field]:
    """The fields of a message in data[begin:end], in order.

    Raises:
        ValueError: It is damaged.
    """
    at = begin
    while at < end:
        each, at = _read_field(data, at, end)
        yield each


def read_contents(data: memoryview, begin: int, end: int, numbers: frozenset[int]) -> Iterator[Field]:
    """Of the fields of a message those of these numbers that hold bytes; it goes quickly over all others.

    Raises:
        ValueError: It is damaged.
    """
    at, skip = begin, _NUMBERS.match
    while at < end:
        key = data[at]
        if key & 7 == BYTES and 7 < key < 128 and at + 1 < end and data[at + 1] < 128:  # noqa: PLR2004 - a byte each
            first = at + 2
            at = first + data[at + 1]
            if at > end:
                raise ValueError(f"field {key >> 3} at byte {first} has {at - first} bytes, but {end - first} are left")
            if key >> 3 in numbers:
                yield Field(key >> 3, first, at)
        elif found := skip(data, at, end):
            at = found.end()
        else:
            each, at = _read_field(data, at, end)
            if each.end and each.number in numbers:
                yield each


def read_numbers(data: memoryview, field: Field) -> Iterator[int]:
    """The signed numbers of a repeated field: one alone, or all of a packed one."""
    if not field.end:
        yield signed(field.value)
        return
    at = field.value
    while at < field.end:
        value, at = _read_varint(data, at, field.end)
        yield signed(value)


def signed(value: int) -> int:
    """A varint as int64."""
    return value - (1 << 64) if value >> 63 else value


def read_text(data: memoryview, field: Field) -> str:
    """The text of a field; what is no UTF-8 is replaced."""
    return bytes(data[field.value : field.end]).decode(errors="replace")


def _read_field(data: memoryview, at: int, end: int) -> tuple[Field, int]:
    """A field, and where the next one begins."""
    key, at = _read_varint(data, at, end)
    number, kind = key >> 3, key & 7
    if not number or key > MAX_KEY:
        raise ValueError(f"a field at byte {at} has the number {number}; it must be from 1 to {MAX_KEY >> 3}")
    if kind == BYTES:
        size, at = _read_varint(data, at, end)
        if size > end - at:
            raise ValueError(f"field {number} at byte {at} has {size} bytes, but {end - at} are left")
        return Field(number, at, at + size), at + size
    if kind == VARINT:
        value, at = _read_varint(data, at, end)
        return Field(number, value, 0), at
    if kind in (FIXED32, FIXED64):
        at += 4 if kind == FIXED32 else 8
        if at > end:
            raise ValueError(f"field {number} is cut off at byte {end}")
        return Field(number, 0, 0), at
    raise ValueError(f"field {number} at byte {at} is of the unknown kind {kind}")


def _read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for count in range(min(MAX_VARINT_BYTES, end - at)):
        byte = data[at + count]
        value |= (byte & 127) << (7 * count)
        if byte < 128:  # noqa: PLR2004 - the last one
            return value & ((1 << 64) - 1), at + count + 1
    raise ValueError(f"a number at byte {at} does not end")


def write_field(number: int, content: bytes | int) -> bytes:
    """A field: a number that is not negative, or bytes, which may be a text or a message."""
    if isinstance(content, int):
        return _write_varint(number << 3 | VARINT) + _write_varint(content)
    return _write_varint(number << 3 | BYTES) + _write_varint(len(content)) + content


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
