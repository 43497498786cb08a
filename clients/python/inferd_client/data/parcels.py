"""What the messages of Arrow's IPC format say of themselves, before anything of them is unpacked."""

from __future__ import annotations

import struct
from importlib import import_module
from typing import Final

HEADER_TYPE, HEADER = 1, 2  # fields of a Message, see Message.fbs of Arrow
DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # types of a header
DATA = 1  # field of a DictionaryBatch: a RecordBatch
LENGTH, COMPRESSION = 0, 3  # fields of a RecordBatch

_WORD: Final = struct.Struct("<I")
_OFFSET: Final = struct.Struct("<i")
_SHORT: Final = struct.Struct("<H")
_LONG: Final = struct.Struct("<q")


def rows_of(part: bytes) -> int:
    """How many rows a stream says that it has.

    Raises:
        ValueError: It is none, or what is in it is compressed, of which nobody knows how large it is.
    """
    pa = import_module("pyarrow")
    rows = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(part)):
            rows += _rows(message.metadata.to_pybytes())
    except (pa.ArrowException, struct.error, IndexError) as error:
        raise ValueError(f"a part of the dataset is no table of Arrow: {error}") from None
    return rows


def _rows(flat: bytes) -> int:
    """Of one message."""
    message = _WORD.unpack_from(flat, 0)[0]
    at = _field(flat, message, HEADER_TYPE)
    kind = flat[at] if at else 0
    if kind not in {DICTIONARY_BATCH, RECORD_BATCH}:
        return 0
    batch = _table(flat, message, HEADER)
    if kind == DICTIONARY_BATCH:
        batch = _table(flat, batch, DATA)
    if _field(flat, batch, COMPRESSION):
        raise ValueError("a part of the dataset is compressed; parts of datasets are written without compression")
    at = _field(flat, batch, LENGTH)
    return _LONG.unpack_from(flat, at)[0] if at and kind == RECORD_BATCH else 0


def _field(flat: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 where it has its default."""
    layout = table - _OFFSET.unpack_from(flat, table)[0]
    at = 4 + 2 * number
    if layout < 0 or at >= _SHORT.unpack_from(flat, layout)[0]:
        return 0
    offset: int = _SHORT.unpack_from(flat, layout + at)[0]
    return table + offset if offset else 0


def _table(flat: bytes, table: int, number: int) -> int:
    """Where a table is that is a field of another one."""
    at = _field(flat, table, number)
    there: int = at + _WORD.unpack_from(flat, at)[0]
    return there
