"""The wire format of protobuf, read without any library: fields of a message inside a buffer.

Source: protobuf.dev/programming-guides/encoding. Only what ONNX files need of it.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10


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
        key, at = _read_varint(data, at, end)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError(f"a field at byte {at} has the number 0")
        if kind == BYTES:
            size, at = _read_varint(data, at, end)
            if size > end - at:
                raise ValueError(f"field {number} at byte {at} has {size} bytes, but {end - at} are left")
            yield Field(number, at, at + size)
            at += size
        elif kind == VARINT:
            value, at = _read_varint(data, at, end)
            yield Field(number, value, 0)
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
            if at > end:
                raise ValueError(f"field {number} is cut off at byte {end}")
        else:
            raise ValueError(f"field {number} at byte {at} is of the unknown kind {kind}")


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
