"""A place in the bytes of a file. Nothing is read, and no memory is taken, before the file is known to hold it."""

import struct
from mmap import mmap
from pathlib import Path
from typing import Literal

from inferd.plugin import LoadError

_U32 = {"<": struct.Struct("<I"), ">": struct.Struct(">I")}
_U64 = {"<": struct.Struct("<Q"), ">": struct.Struct(">Q")}


class Cursor:
    """Reads forward through `data`, the bytes of the file at `path`.

    Every read takes `what`, the name of the field for the error, and raises LoadError with the field, its offset and
    both numbers when the file ends before it.

    Attributes:
        offset: The byte that is read next.
        short: Lengths and counts have four bytes, as in version 1 of GGUF.
        order: Of the bytes of numbers: "<" where the last of them counts most, or ">".
    """

    def __init__(self, path: Path, data: mmap) -> None:
        self.path = path
        self.offset = 0
        self.short = False
        self.order: Literal["<", ">"] = "<"
        self._field_offset = 0
        self._data = data

    def error(self, what: str, why: str) -> LoadError:
        """The error of the field that was read last."""
        return LoadError(f"{self.path}: {what} at byte {self._field_offset} {why}")

    def take(self, size_bytes: int, what: str) -> bytes:
        """The next `size_bytes` bytes."""
        self._field_offset = self.offset
        self._require(size_bytes, what)
        self.offset += size_bytes
        return self._data[self._field_offset : self.offset]

    def u32(self, what: str) -> int:
        """The next four bytes as an unsigned number."""
        return int(_U32[self.order].unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """The next eight bytes as an unsigned number."""
        return int(_U64[self.order].unpack(self.take(8, what))[0])

    def size(self, what: str) -> int:
        """A length or a count."""
        return self.u32(what) if self.short else self.u64(what)

    def count(self, what: str, *, item_bytes: int) -> int:
        """A number of items that follow, each at least `item_bytes` long."""
        count = self.size(what)
        self._require(count * item_bytes, f"{what} = {count}")
        return count

    def text(self, what: str) -> str:
        """A length and as many bytes of UTF-8."""
        size_bytes = self.size(what)
        self._require(size_bytes, what)
        raw = self.take(size_bytes, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error(what, f"is not UTF-8: byte {error.start} of it is 0x{raw[error.start]:02x}") from None

    def texts(self, count: int, what: str) -> list[str]:
        """So many texts, one behind the other, as `text` reads each: vocabularies have a hundred thousand."""
        form = (_U32 if self.short else _U64)[self.order]
        data, end, width, at = self._data, len(self._data), form.size, self.offset
        found: list[str] = []
        for _ in range(count):
            self.offset = at
            begin = at + width
            at = begin + form.unpack_from(data, at)[0] if begin <= end else end + 1
            if at > end:
                break
            try:
                found.append(data[begin:at].decode())
            except UnicodeDecodeError:
                break
        else:
            self.offset = at
            return found
        return [*found, self.text(what)]  # raises, and says why

    def _require(self, size_bytes: int, what: str) -> None:
        left_bytes = len(self._data) - self.offset
        if size_bytes > left_bytes:
            raise self.error(
                what,
                f"needs {size_bytes} bytes, but the file ends after {left_bytes} (of {len(self._data)}):"
                " it is cut short or corrupt; fetch it again",
            )
