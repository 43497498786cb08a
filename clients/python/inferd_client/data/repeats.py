"""Rows whose text stands before already, left out: with a bounded memory, however many rows there are."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from inferd_api.v1.dataset_pb2 import DatasetLineage
from inferd_client.data.arrow import Cutter, library
from inferd_client.data.tables import Writer, named, source_of, tables

if TYPE_CHECKING:
    from inferd_api.v1.dataset_pb2 import Dataset
    from inferd_client import Client
    from inferd_client.data.tables import Progress

CACHE_KIB: Final = 32 << 10  # of what is remembered of rows; the rest is in a temporary file
DIGEST_BYTES: Final = 16
SEEN: Final = "CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID"


def deduplicate(
    client: Client,
    name: str,
    *,
    column: str,
    into: str,
    retention_s: float | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Make a dataset of another one without the rows whose text stands in one before; the first of them stays.

    Case and white space do not count. Texts that are nearly the same are found by the function `deduplicate`, among as
    many as one call is given. Rows with null all stay.

    Args:
        client: Of the kernel.
        name: Of the source, with a version or without.
        column: With the texts.
        into: The name of the new dataset.
        retention_s: As `add`.
        progress: As `add`.

    Raises:
        InferdError: There is no such dataset, or the new one cannot be kept.
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: There is no such column, or it has no texts.
    """
    pa = library()
    base, version = named(name)
    source = client.get_dataset(base, version=version)
    types = {each.name: each.type for each in source.columns}
    if types.get(column) not in {"string", "large_string"}:
        known = ", ".join(f"{each} ({kind})" for each, kind in types.items())
        raise ValueError(f"dataset {name!r} has no column {column!r} of texts; there are {known}")
    parameters = json.dumps({"column": column, "folded": "case and white space"}, sort_keys=True)
    lineage = DatasetLineage(operation="deduplicate", sources=[source_of(source)], parameters_json=parameters)
    writer: Writer | None = None
    cutter: Cutter | None = None
    with closing(sqlite3.connect("")) as seen:  # a file of its own, which goes with it
        seen.executescript(f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA journal_mode=OFF; {SEEN};")
        for table in tables(client, f"{source.name}@{source.version}"):
            if writer is None or cutter is None:
                writer = Writer(client, into, table.schema, lineage, retention_s=retention_s, progress=progress)
                cutter = Cutter(table.schema)
            texts = table.column(column).to_pylist()
            kept = [n for n, text in enumerate(texts) if text is None or _is_new(seen, text)]
            for batch in table.take(pa.array(kept, pa.int64())).combine_chunks().to_batches():
                writer.add(cutter.add(batch))
    if writer is None or cutter is None:
        raise ValueError(f"dataset {name!r} has no parts")
    writer.add(cutter.end())
    return writer.finish()


def _is_new(seen: sqlite3.Connection, text: str) -> bool:
    folded = " ".join(text.casefold().split()).encode()
    digest = blake2b(folded, digest_size=DIGEST_BYTES).digest()
    return seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
