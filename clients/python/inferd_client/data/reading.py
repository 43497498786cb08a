"""Files and rows of a program as batches of Arrow: some megabytes at a time, however large they are."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from io import RawIOBase
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from inferd_client.data.arrow import library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_BYTES: Final = 4 << 20  # of a file that is read at once
BATCH_ROWS: Final = 1000  # of a program, and of Parquet
FORMS: Final = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text",
    ".arrow": "arrow", ".arrows": "arrow", ".ipc": "arrow", ".feather": "arrow",
}  # fmt: skip
"""What files are, by the ends of their names."""
LONG: Final = re.compile(rb"[0-9]{19}")
LEAST, MOST, MOST_DIGITS = -(1 << 63), (1 << 63) - 1, 40
"""Whole numbers of a column, and how many digits of one are looked at."""


def form_of(path: Path, form: str = "") -> str:
    """What a file is.

    Raises:
        ValueError: Its name does not say, or there is no such form.
    """
    found = form or FORMS.get(path.suffix.lower(), "")
    known = [*dict.fromkeys(FORMS.values())]
    if found not in known:
        why = f"{form!r} is none" if form else f"the name of {path.name!r} says not which"
        raise ValueError(f"files are {', '.join(known)}, and {why}; name one of them")
    return found


def digest_of(path: Path) -> str:
    """The digest of a file, as it goes into the lineage of what is made of it."""
    with path.open("rb") as file:
        return f"sha256:{file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def opened(path: Path, form: str, types: Mapping[str, str]) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema of a file, and its batches, until the block ends.

    Args:
        path: The file.
        form: What it is.
        types: Types of columns by their names, where those that are found are not meant.

    Raises:
        ValueError: It is not what it should be; the message says where.
        OSError: It cannot be read.
    """
    pa = library()
    wanted = {name: type_of(written) for name, written in types.items()}
    with path.open("rb") as file:
        try:
            schema, batches = _open(file, form, wanted)
            yield schema, _told(batches, path)
        except pa.ArrowException as error:
            raise ValueError(f"{path} is not {form}: {error}") from None


def type_of(written: str) -> Any:
    """A type of Arrow by its name.

    Raises:
        ValueError: There is none.
    """
    try:
        return library().type_for_alias(written)
    except ValueError:
        raise ValueError(f"{written!r} is no type; write one of Arrow's, as string, int64, double or bool") from None


def _told(batches: Iterable[Any], path: Path) -> Iterator[Any]:
    pa, count = library(), 0
    rest = iter(batches)
    while True:
        try:
            batch = next(rest, None)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, behind row {count}: {error}") from None
        if batch is None:
            return
        count += batch.num_rows
        yield batch


def _open(file: Any, form: str, types: Mapping[str, Any]) -> tuple[Any, Iterable[Any]]:
    pa = library()
    if form in {"csv", "tsv"}:
        csv = library("pyarrow.csv")
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            parse_options=csv.ParseOptions(delimiter="," if form == "csv" else "\t", newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
        return reader.schema, reader
    if form == "jsonl":
        return _open_jsonl(file, types)
    if form == "parquet":
        parquet = library("pyarrow.parquet").ParquetFile(file)
        return parquet.schema_arrow, parquet.iter_batches(batch_size=BATCH_ROWS)
    if form == "text":
        schema = pa.schema([("text", pa.string())])
        return schema, _texts(file, schema)
    try:
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        reader = pa.ipc.open_stream(file)
        return reader.schema, reader
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _open_jsonl(file: Any, types: Mapping[str, Any]) -> tuple[Any, Iterable[Any]]:
    """JSON Lines: the columns and types are those of the first megabytes; what is of another kind later is refused."""
    arrow_json = library("pyarrow.json")
    pa = library()
    known = pa.schema([*types.items()]) if types else None
    reader = arrow_json.open_json(
        WholeNumbers(file, {name: kind for name, kind in types.items() if _takes_long(kind)}),
        read_options=arrow_json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=arrow_json.ParseOptions(explicit_schema=known, unexpected_field_behavior="infer"),
    )
    return reader.schema, reader


def _takes_long(kind: Any) -> bool:
    """Whether a column of this type has whole numbers of more than 63 bits, or floats as was asked for."""
    pa = library()
    return bool(pa.types.is_floating(kind) or pa.types.is_uint64(kind))


class WholeNumbers(RawIOBase):
    """JSON Lines as they are read, refused where a whole number is beyond what a column of such has.

    Arrow would make a column of floats of it, and another number. Lines are looked at closely that have digits enough.

    Args:
        file: Their bytes.
        others: Columns whose types take such numbers, or are Arrow's to refuse.
    """

    def __init__(self, file: Any, others: Container[str] = ()) -> None:
        self._file, self._others, self._line, self._rest = file, others, 1, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, into: Any) -> int:
        """The next bytes.

        Raises:
            ValueError: There is such a number; the message names the line.
        """
        data = self._file.read(len(into))
        into[: len(data)] = data
        whole, _, rest = (self._rest + data).rpartition(b"\n") if data else (self._rest, b"", b"")
        self._rest = rest
        if LONG.search(whole):
            for number, line in enumerate(whole.split(b"\n"), self._line):
                if LONG.search(line):
                    _check_numbers(line, number, self._others)
        self._line += whole.count(b"\n") + bool(whole)
        return len(data)


def _check_numbers(line: bytes, number: int, others: Container[str]) -> None:
    try:
        row = json.loads(line, parse_int=lambda digits: int(digits[:MOST_DIGITS]))
    except (ValueError, RecursionError):
        return  # which Arrow tells of
    left = [value for name, value in row.items() if name not in others] if isinstance(row, dict) else []
    wrong: list[int] = []
    while left:
        value = left.pop()
        if isinstance(value, int) and not LEAST <= value <= MOST:
            wrong.append(value)
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if wrong:
        raise ValueError(
            f"line {number} has the whole number {wrong[0]}, and those of a column have 64 bits; write it as a text, in"
            " quotation marks"
        )


def _texts(file: Any, schema: Any) -> Iterator[Any]:
    """A row for each line."""
    pa = library()
    while lines := file.readlines(BLOCK_BYTES):
        yield pa.record_batch([pa.array([line.rstrip(b"\r\n").decode() for line in lines])], schema)


def of_program(source: Any, types: Mapping[str, str]) -> tuple[Any, Iterator[Any]]:
    """The schema and the batches of a table, of batches, or of dictionaries, one for each row.

    Raises:
        TypeError: It is none of these.
        ValueError: There are no rows, or one is of another kind than the first thousand.
    """
    pa = library()
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        return source.schema, iter(source.to_batches() if isinstance(source, pa.Table) else source)
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        raise TypeError(f"{type(source).__name__} is no source of rows; give a file, a table or dictionaries")
    rest = iter(source)
    first = list(islice(rest, BATCH_ROWS))
    if not first:
        raise ValueError("there are no rows; a dataset has the columns of its first ones")
    try:
        schema = pa.Table.from_pylist(first).schema
    except OverflowError as error:
        raise ValueError(
            f"one of the first {len(first)} rows has a whole number of more than 64 bits: {error}"
        ) from None
    for name, written in types.items():
        place = schema.get_field_index(name)
        if place < 0:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(schema.names)}")
        schema = schema.set(place, pa.field(name, type_of(written)))
    return schema, _of_rows(chain([first], iter(lambda: list(islice(rest, BATCH_ROWS)), [])), schema)


def _of_rows(batches: Iterable[list[dict[str, Any]]], schema: Any) -> Iterator[Any]:
    pa, names, count = library(), set(schema.names), 0
    for some in batches:
        for number, row in enumerate(some, start=count):
            if unknown := {*row} - names:
                raise ValueError(f"row {number} has {min(unknown)!r}, and those before it {', '.join(names)}")
        try:
            yield pa.RecordBatch.from_pylist(some, schema)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(f"rows {count} to {count + len(some) - 1} are not as those before: {error}") from None
        count += len(some)
