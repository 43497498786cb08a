"""pyarrow, imported when the first table is, and not before; tables as parts of datasets and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from inferd_api.v1.dataset_pb2 import ColumnStatistics, DatasetColumn
from inferd_client.data.parcels import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PART_BYTES: Final = 2 << 20  # of a part, about: what a client holds is some times as much
PART_ROWS: Final = 1 << 16  # at most
MOST_VALUE: Final = 64  # characters of a text that is the least or the most of a column


def library(name: str = "pyarrow") -> Any:
    """pyarrow, or a module of it.

    Raises:
        ModuleNotFoundError: It is not installed; the message says how it is.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'datasets are read and written with pyarrow, which is not installed; fix: pip install "inferd[data]"',
            name=error.name,
        ) from None


@dataclass(frozen=True, slots=True)
class Made:
    """A part of a dataset.

    Attributes:
        data: A stream of Arrow's IPC format.
        rows: How many.
        statistics: Of each column.
    """

    data: bytearray
    rows: int
    statistics: tuple[ColumnStatistics, ...]


class Cutter:
    """Makes parts of batches of rows: of the same rows in the same batches the same parts.

    Args:
        schema: Of all of them.
    """

    def __init__(self, schema: Any) -> None:
        self._pa = library()
        self._schema = schema
        self._batches: list[Any] = []
        self._rows = self._bytes = 0
        self._any = False

    def add(self, batch: Any) -> Iterator[Made]:
        """More rows; the parts that are whole with them."""
        at = 0
        while at < batch.num_rows:
            each = max(1, batch.nbytes // batch.num_rows)
            room = max(1, min(PART_ROWS - self._rows, (PART_BYTES - self._bytes) // each))
            piece = batch.slice(at, room)
            at += piece.num_rows
            self._batches.append(piece)
            self._rows += piece.num_rows
            self._bytes += each * piece.num_rows
            if self._bytes + each > PART_BYTES or self._rows >= PART_ROWS:
                yield self._cut()

    def end(self) -> Iterator[Made]:
        """What is left; a part without rows where there were none at all, so that a dataset has its schema."""
        if self._batches or not self._any:
            yield self._cut()

    def _cut(self) -> Made:
        self._any = True
        table = self._pa.Table.from_batches(self._batches, self._schema)
        self._batches, self._rows, self._bytes = [], 0, 0
        return made(table)


def made(table: Any) -> Made:
    """A part that has the rows of a table, as one batch, so that its bytes are those of its rows alone."""
    pa = library()
    whole = table.combine_chunks().replace_schema_metadata(None)
    measured = pa.MockOutputStream()
    _write(whole, measured)
    data = bytearray(measured.size())  # as large as it will be: one that grows takes twice that, and is copied
    with pa.FixedSizeBufferWriter(pa.py_buffer(data)) as sink:
        _write(whole, sink)
    return Made(data, whole.num_rows, tuple(_known(each) for each in whole.columns))


def _write(table: Any, sink: Any) -> None:
    with library().ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def read(part: bytes, rows: int | None = None) -> Any:
    """The table of a part, checked: what is in it may have been made by anybody of the tenant.

    Args:
        part: Its bytes.
        rows: How many it is said to have; None for any number.

    Raises:
        ValueError: It is none, or has another number of rows, or is compressed.
    """
    pa = library()
    if (has := rows_of(part)) != rows and rows is not None:
        raise ValueError(f"a part of the dataset has {has} rows, and the dataset says {rows}: make it anew")
    try:
        with pa.ipc.open_stream(pa.BufferReader(part)) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(f"a part of the dataset is no table of Arrow: {error}") from None
    return table


def columns_of(schema: Any) -> list[DatasetColumn]:
    """The columns of a schema, for the wire."""
    return [DatasetColumn(name=field.name, type=str(field.type)) for field in schema]


def batches_of(table: Any) -> Iterable[Any]:
    """The rows of a table, a few at a time."""
    batches: Iterable[Any] = table.to_batches(max_chunksize=PART_ROWS)
    return batches


def _known(column: Any) -> ColumnStatistics:
    """What there is to know of the values of a column."""
    pa, pc = library(), library("pyarrow.compute")
    known = ColumnStatistics(nulls=column.null_count)
    kind = column.type
    if column.null_count == len(column):
        return known
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        _set_numbers(known, column, pc)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        found = pc.min_max(column).as_py()
        known.least_json, known.most_json = (
            json.dumps(found[name][:MOST_VALUE], ensure_ascii=False) for name in ("min", "max")
        )
        known.sum = float(pc.sum(pc.utf8_length(column)).as_py())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        known.sum = float(pc.sum(pc.list_value_length(column)).as_py())
    return known


def _set_numbers(known: ColumnStatistics, column: Any, pc: Any) -> None:
    """Of numbers; those that are infinite or none (NaN) have no place in JSON, and are told of no column."""
    found = pc.min_max(column).as_py()
    total = float(pc.sum(pc.cast(column, "float64")).as_py())
    if total - total != 0:  # infinite, or NaN
        return
    known.least_json, known.most_json = json.dumps(found["min"]), json.dumps(found["max"])
    known.sum = total
