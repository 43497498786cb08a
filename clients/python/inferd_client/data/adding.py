"""Datasets of files and of what programs have."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from inferd_api.v1.dataset_pb2 import DatasetLineage
from inferd_client.data.arrow import Cutter
from inferd_client.data.reading import digest_of, form_of, of_program, opened
from inferd_client.data.tables import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd_api.v1.dataset_pb2 import Dataset
    from inferd_client import Client
    from inferd_client.data.tables import Progress


def add(
    client: Client,
    name: str,
    *sources: Any,
    form: str = "",
    types: Mapping[str, str] | None = None,
    origin: str = "",
    retention_s: float | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Make a version of a dataset: of files, or of a table of pyarrow or dictionaries, one for each row.

    Files are read a few megabytes at a time. What was interrupted goes on when the same files are added again; the same
    files as those of a version that is whole make no other one.

    Args:
        client: Of the kernel.
        name: Of the dataset.
        sources: Paths of files, one behind the other; or one source of rows.
        form: What the files are: jsonl, csv, tsv, parquet, arrow or text. Default: as their names end.
        types: Types of columns by their names, where those that are found are not meant, as {"zip": "string"}.
        origin: Where rows of a program come from, in words; adding goes on for the same words.
        retention_s: The dataset is forgotten when it was not used for so long.
        progress: Told of each part.

    Raises:
        InferdError: It cannot be kept.
        ModuleNotFoundError: pyarrow is not installed.
        OSError, ValueError, TypeError: A source cannot be read; the message says where it is wrong.
    """
    types = types or {}
    if not sources:
        raise ValueError("there is no source; give a file, a table or dictionaries")
    if all(isinstance(each, str | PathLike) for each in sources):
        paths = [Path(each) for each in sources]
        forms = [form_of(path, form) for path in paths]
        facts: dict[str, Any] = {
            "files": [
                {"name": path.name, "form": kind, "digest": digest_of(path)}
                for path, kind in zip(paths, forms, strict=True)
            ]
        }
        if types:
            facts["types"] = dict(types)
        with opened(paths[0], forms[0], types) as (schema, batches):
            writer = Writer(client, name, schema, _lineage(facts), retention_s=retention_s, progress=progress)
            cutter = Cutter(schema)
            _add(writer, cutter, batches, schema)
        for path, kind in zip(paths[1:], forms[1:], strict=True):
            with opened(path, kind, types) as (other, batches):
                if not other.equals(schema):
                    raise ValueError(f"{path} has columns {_shown(other)}, and {paths[0]} {_shown(schema)}")
                _add(writer, cutter, batches, schema)
    else:
        if len(sources) > 1:
            raise TypeError("one source of rows is taken, or several files")
        schema, batches = of_program(sources[0], types)
        facts = {"origin": origin} if origin else {"origin": "a program", "run": token_hex(8)}
        writer = Writer(client, name, schema, _lineage(facts), retention_s=retention_s, progress=progress)
        cutter = Cutter(schema)
        _add(writer, cutter, batches, schema)
    writer.add(cutter.end())
    return writer.finish()


def _add(writer: Writer, cutter: Cutter, batches: Iterator[Any], schema: Any) -> None:
    for batch in batches:
        writer.add(cutter.add(batch.cast(schema) if batch.schema != schema else batch))


def _lineage(facts: dict[str, Any]) -> DatasetLineage:
    return DatasetLineage(operation="add", parameters_json=json.dumps(facts, ensure_ascii=False, sort_keys=True))


def _shown(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)[:500]
