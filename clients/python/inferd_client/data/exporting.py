"""Datasets into files, a part at a time."""

from __future__ import annotations

import base64
import json
import math
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from inferd_client.data.arrow import library
from inferd_client.data.reading import form_of
from inferd_client.data.tables import tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd_client import Client


def export(client: Client, name: str, target: str | os.PathLike[str] | IO[bytes], *, form: str = "") -> int:
    """Write a dataset into a file, which is there when all of it is; or into one that is open. How many rows.

    Args:
        client: Of the kernel.
        name: Of the dataset, with a version or without.
        target: The file.
        form: What it is to be: jsonl, csv, tsv, parquet or arrow. Default: as its name ends; of an open one jsonl.

    Raises:
        InferdError: There is no such dataset, or it cannot be read.
        ModuleNotFoundError: pyarrow is not installed.
        OSError, ValueError: It cannot be written, or its rows cannot be in such a file.
    """
    if not isinstance(target, str | os.PathLike):
        return _write(client, name, target, form or "jsonl")
    path = Path(target)
    kind = form_of(path, form)
    with _replaced(path) as file:
        return _write(client, name, file, kind)


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write(client: Client, name: str, file: IO[bytes], form: str) -> int:
    pa, count = library(), 0
    writer: Any = None
    try:
        for table in tables(client, name):
            if form == "jsonl":
                _lines(file, table)
            else:
                writer = writer or _writers(form)(file, table.schema)
                writer.write_table(table)
            count += table.num_rows
    except pa.ArrowException as error:
        raise ValueError(f"dataset {name!r} cannot be {form}: {error}; write jsonl, parquet or arrow") from None
    finally:
        if writer is not None:
            writer.close()
    return count


def _writers(form: str) -> Any:
    pa = library()
    if form == "parquet":
        parquet = library("pyarrow.parquet")
        return parquet.ParquetWriter
    if form == "arrow":
        return pa.ipc.new_file
    if form not in {"csv", "tsv"}:
        raise ValueError(f"{form!r} is not written; there are jsonl, csv, tsv, parquet and arrow")
    csv = library("pyarrow.csv")
    options = csv.WriteOptions(delimiter="," if form == "csv" else "\t")
    return lambda file, schema: csv.CSVWriter(file, schema, write_options=options)


def _lines(file: IO[bytes], table: Any) -> None:
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            try:
                line = json.dumps(row, ensure_ascii=False, default=written, allow_nan=False)
            except ValueError:  # there is one without end, or none at all, which JSON has not
                line = json.dumps(_finite(row), ensure_ascii=False, default=written)
            file.write(line.encode() + b"\n")


def _finite(value: Any) -> Any:
    """With null in place of numbers that JSON has not."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value


def written(value: Any) -> Any:
    """What has no form of its own in JSON: bytes as base64, times as ISO 8601 has them, others as texts."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
