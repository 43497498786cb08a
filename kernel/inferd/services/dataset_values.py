"""Datasets between the wire and values."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Final

from inferd.core.dataset import Column, Lineage, Source, Statistics
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.errors import InvalidFieldError
from inferd.services.named import read_digest
from inferd.services.times import duration, unix_time
from inferd_api.v1 import dataset_pb2 as dp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inferd.core.dataset import Bound, Dataset, Part

NAME_FORM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
READ_DATASET: Final = Policy(Verb.READ, ResourceKind.DATASET)
WORD_FORM: Final = re.compile(r"[a-z]{1,32}")
MOST_COLUMN: Final = 256  # characters of the name of a column
MOST_TYPE: Final = 64 << 10  # of its type: objects with many members have long ones
MOST_PARAMETERS_BYTES: Final = 64 << 10
MOST_PARTS: Final = 100  # of one call
MOST_VALUE: Final = 64  # characters of a text that is the least or the most of a column
MOST_ROWS: Final = 1 << 48  # of a part: their sums are whole numbers of 64 bits, whatever comes


def check_name(name: str) -> str:
    """The name of a dataset.

    Raises:
        InvalidFieldError: It is none.
    """
    if not NAME_FORM.fullmatch(name):
        raise InvalidFieldError(
            f"name is {name[:80]!r}; it must be 1 to 128 of letters, digits, '.', '_' and '-', and begin with none of"
            " '.' and '-'",
            field="name",
        )
    return name


def read_columns(given: Sequence[dp.DatasetColumn]) -> tuple[Column, ...]:
    """The columns of a new version.

    Raises:
        InvalidFieldError: There are none, or one has no name, or that of another, or no type.
    """
    if not given:
        raise InvalidFieldError("columns is empty; a dataset has at least one", field="columns")
    names: set[str] = set()
    for number, each in enumerate(given):
        path = f"columns[{number}]"
        if not 1 <= len(each.name) <= MOST_COLUMN or each.name in names:
            why = "another column has it" if each.name in names else f"it must have 1 to {MOST_COLUMN} characters"
            raise InvalidFieldError(f"{path}.name is {each.name[:80]!r}; {why}", field=f"{path}.name")
        if not 1 <= len(each.type) <= MOST_TYPE:
            raise InvalidFieldError(
                f"{path}.type has {len(each.type)} characters; it must have 1 to {MOST_TYPE}", field=f"{path}.type"
            )
        names.add(each.name)
    return tuple(Column(name=each.name, type=each.type) for each in given)


def read_lineage(given: dp.DatasetLineage) -> Lineage:
    """What a version is made from, and how.

    Raises:
        InvalidFieldError: Something of it is not as it must be.
    """
    if not WORD_FORM.fullmatch(given.operation):
        raise InvalidFieldError(
            f"lineage.operation is {given.operation[:80]!r}; it must be 1 to 32 lower case letters, as 'add'",
            field="lineage.operation",
        )
    _check_parameters(given.parameters_json)
    sources = []
    for number, each in enumerate(given.sources):
        path = f"lineage.sources[{number}]"
        if not NAME_FORM.fullmatch(each.name) or not each.version:
            raise InvalidFieldError(
                f"{path} is {each.name[:80]!r} of version {each.version}; it must be a dataset's name and number",
                field=f"{path}.name",
            )
        digest = read_digest(each.digest, f"{path}.digest")
        sources.append(Source(name=each.name, version=each.version, digest=digest))
    return Lineage(
        operation=given.operation,
        sources=tuple(sources),
        function=given.function,
        function_version=given.function_version,
        parameters=given.parameters_json,
    )


def _check_parameters(given: str) -> None:
    field = "lineage.parameters_json"
    size = len(given.encode())
    if size > MOST_PARAMETERS_BYTES:
        raise InvalidFieldError(f"{field} has {size} bytes; at most {MOST_PARAMETERS_BYTES}", field=field)
    if given and not isinstance(_json(given, field), dict):
        raise InvalidFieldError(f"{field} is no JSON object", field=field)


def _json(given: str, field: str) -> object:
    try:
        read: object = json.loads(given)
        json.dumps(read, ensure_ascii=False).encode()  # half a character has no place in what is kept
    except (ValueError, RecursionError) as error:
        raise InvalidFieldError(f"{field} is no JSON: {error}", field=field) from None
    return read


def read_version(given: dp.DatasetVersion) -> tuple[str, int]:
    """The name and the number of a version that something reads.

    Raises:
        InvalidFieldError: The name is none.
    """
    if not NAME_FORM.fullmatch(given.name):
        raise InvalidFieldError(
            f"dataset.name is {given.name[:80]!r}; name a dataset: inferd data list", field="dataset.name"
        )
    return given.name, given.version


def write_source(source: Source) -> dp.DatasetSource:
    """Which data something was made from, for the wire."""
    return dp.DatasetSource(name=source.name, version=source.version, digest=f"sha256:{source.digest}")


def read_parts(given: Sequence[dp.DatasetPart]) -> list[tuple[str, int, Sequence[Statistics]]]:
    """Parts that are added, each its digest, its rows and what is known of its columns.

    Raises:
        InvalidFieldError: There are none or too many, or one is not as it must be.
    """
    if not 1 <= len(given) <= MOST_PARTS:
        raise InvalidFieldError(f"parts has {len(given)} entries; it must have 1 to {MOST_PARTS}", field="parts")
    found: list[tuple[str, int, Sequence[Statistics]]] = []
    for number, part in enumerate(given):
        path = f"parts[{number}]"
        if part.rows > MOST_ROWS:
            raise InvalidFieldError(f"{path}.rows is {part.rows}; at most {MOST_ROWS}", field=f"{path}.rows")
        known = [
            _read_statistics(each, part.rows, f"{path}.statistics[{place}]")
            for place, each in enumerate(part.statistics)
        ]
        found.append((read_digest(part.digest, f"{path}.digest"), part.rows, known))
    return found


def _read_statistics(given: dp.ColumnStatistics, rows: int, path: str) -> Statistics:
    if given.nulls > rows:
        raise InvalidFieldError(f"{path}.nulls is {given.nulls} and the part has {rows} rows", field=f"{path}.nulls")
    total = given.sum if given.HasField("sum") else None
    if total is not None and not math.isfinite(total):
        raise InvalidFieldError(f"{path}.sum is {total}; it must be a number, or left out", field=f"{path}.sum")
    return Statistics(
        nulls=given.nulls,
        least=_read_bound(given.least_json, f"{path}.least_json"),
        most=_read_bound(given.most_json, f"{path}.most_json"),
        total=total,
    )


def _read_bound(given: str, field: str) -> Bound:
    if not given:
        return None
    value = _json(given, field)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64
    if whole or (isinstance(value, float) and math.isfinite(value)):
        return value  # type: ignore[return-value] # it is a number
    if isinstance(value, str) and len(value) <= MOST_VALUE:
        return value
    raise InvalidFieldError(
        f"{field} is {given[:80]}; it must be a number, or a text of at most {MOST_VALUE} characters", field=field
    )


def write_dataset(dataset: Dataset) -> dp.Dataset:
    """A version for the wire."""
    return dp.Dataset(
        name=dataset.name,
        version=dataset.version,
        state=dp.DatasetState.ValueType(dataset.state.value),
        digest=f"sha256:{dataset.digest}" if dataset.digest else "",
        columns=[_write_column(each) for each in dataset.columns],
        rows=dataset.rows,
        size_bytes=dataset.size_bytes,
        parts=dataset.parts,
        lineage=_write_lineage(dataset.lineage),
        create_time=unix_time(dataset.created),
        use_time=unix_time(dataset.used),
        retention=duration(dataset.retention_s),
    )


def _write_column(column: Column) -> dp.DatasetColumn:
    known = column.statistics
    return dp.DatasetColumn(
        name=column.name,
        type=column.type,
        statistics=dp.ColumnStatistics(
            nulls=known.nulls, least_json=_write_bound(known.least), most_json=_write_bound(known.most), sum=known.total
        ),
    )


def _write_bound(value: Bound) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _write_lineage(lineage: Lineage) -> dp.DatasetLineage:
    return dp.DatasetLineage(
        operation=lineage.operation,
        sources=map(write_source, lineage.sources),
        function=lineage.function,
        function_version=lineage.function_version,
        parameters_json=lineage.parameters,
    )


def write_parts(parts: Iterable[Part]) -> list[dp.DatasetPart]:
    """Parts for the wire."""
    return [
        dp.DatasetPart(digest=f"sha256:{part.digest}", rows=part.rows, size_bytes=part.size_bytes) for part in parts
    ]
