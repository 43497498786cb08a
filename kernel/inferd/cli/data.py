"""`inferd data`: datasets of files, their rows, splits and maps."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from inferd.allocator import keep_little
from inferd.cli.amounts import size
from inferd.cli.functions import read_input
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.errors import words_of
from inferd_api.v1.dataset_pb2 import DatasetState
from inferd_client import data
from inferd_client.data.exporting import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_api.v1.dataset_pb2 import Dataset, DatasetColumn, DatasetLineage

COLUMNS = ("DATASET", "STATE", "ROWS", "SIZE", "COLUMNS", "MADE BY", "DIGEST")
SHOWN_DIGEST = 19  # characters, "sha256:" with them
SHOWN_VALUE = 60  # characters of a value in a table
keep_little()


@contextmanager
def _typed() -> Iterator[None]:
    """What pyarrow or a file refuses, as an error of the command."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(str(error), reason="PACKAGE_MISSING") from None
    except (ValueError, TypeError) as error:
        raise CommandError(str(error), reason="USAGE") from None
    except OSError as error:
        raise CommandError(words_of(error), reason="USAGE") from None


@contextmanager
def _shown(output: Output, what: str, rows: int = 0) -> Iterator[Callable[[Dataset], None]]:
    """Show how far a dataset is that is made, of so many rows if that is known."""
    with output.status(what) as say:

        def far(dataset: Dataset) -> None:
            of = f", {dataset.rows * 100 // rows} %" if rows else ""
            say(f"{what}: {dataset.rows} rows in {dataset.parts} parts, {size(dataset.size_bytes)}{of}")

        yield far


def add(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    files: Sequence[Path],
    *,
    form: str,
    types: Sequence[str],
    retention_s: float | None,
) -> None:
    """Make a version of files.

    Raises:
        CommandError: One cannot be read.
    """
    chosen = dict(_pair(each, "--type") for each in types)
    with connected(address, tenant) as client, _typed(), _shown(output, f"adding {name}") as far:
        made = data.add(client, name, *files, form=form, types=chosen, retention_s=retention_s, progress=far)
    _tell(output, made)


def _pair(given: str, option: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{given!r} is not NAME=VALUE", param_hint=option)
    return name, value


def _tell(output: Output, dataset: Dataset) -> None:
    if output.json:
        output.document(plain(dataset))
    else:
        output.text(f"{dataset.digest}  {dataset.name}@{dataset.version}, {dataset.rows} rows")


def list_datasets(output: Output, address: str, tenant: str) -> None:
    """List datasets."""
    with connected(address, tenant) as client:
        found = list(client.list_datasets())
    if output.json:
        output.document({"datasets": [plain(each) for each in found]})
        return
    empty = "no datasets; make one with: inferd data add NAME FILE"
    output.table(COLUMNS, map(_row, found), empty=empty, gives_way="COLUMNS")


def _row(dataset: Dataset) -> tuple[str, ...]:
    return (
        f"{dataset.name}@{dataset.version}",
        "whole" if dataset.state == DatasetState.DATASET_STATE_WHOLE else "growing",
        str(dataset.rows),
        size(dataset.size_bytes),
        ", ".join(each.name for each in dataset.columns),
        _maker(dataset.lineage),
        dataset.digest[:SHOWN_DIGEST],
    )


def _maker(lineage: DatasetLineage) -> str:
    return (
        f"{lineage.operation} {lineage.function}@{lineage.function_version}" if lineage.function else lineage.operation
    )


def show(output: Output, address: str, tenant: str, name: str) -> None:
    """Show a dataset."""
    base, version = data.named(name)
    with connected(address, tenant) as client:
        dataset = client.get_dataset(base, version=version)
    if output.json:
        output.document(plain(dataset))
        return
    output.text(f"{dataset.name}@{dataset.version}, {dataset.rows} rows, {size(dataset.size_bytes)}")
    output.text(f"digest: {dataset.digest or 'none yet: it grows'}")
    made = f"made by: {_maker(dataset.lineage)}"
    for each in dataset.lineage.sources:
        made += f", of {each.name}@{each.version} {each.digest[:SHOWN_DIGEST]}"
    output.text(made)
    if dataset.lineage.parameters_json:
        output.text(f"with: {dataset.lineage.parameters_json}")
    rows = (_known(each, dataset.rows) for each in dataset.columns)
    output.table(("COLUMN", "TYPE", "NULLS", "LEAST", "MOST", "MEAN"), rows, empty="no columns", gives_way="MOST")


def _known(column: DatasetColumn, rows: int) -> tuple[str, ...]:
    known = column.statistics
    count = rows - known.nulls
    mean = f"{known.sum / count:g}" if known.HasField("sum") and count > 0 else ""
    return column.name, column.type, str(known.nulls), known.least_json, known.most_json, mean


def head(output: Output, address: str, tenant: str, name: str, count: int) -> None:
    """Show the first rows."""
    with connected(address, tenant) as client, _typed():
        rows = list(data.rows(client, name, most=count))
    if output.json:
        output.document({"rows": json.loads(json.dumps(rows, default=written))})
        return
    names = list(rows[0]) if rows else ["ROWS"]
    cells = (tuple(_cell(row[name]) for name in names) for row in rows)
    output.table(names, cells, empty="no rows", gives_way=max(names, key=lambda n: sum(len(_cell(r[n])) for r in rows)))


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=written)
    return text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 1]}…"


def split(
    output: Output,
    address: str,
    tenant: str,
    name: str,
    shares: Sequence[str],
    *,
    seed: int,
    by: Sequence[str],
    retention_s: float | None,
) -> None:
    """Make datasets of shares of the rows."""
    chosen: dict[str, float] = {}
    for each in shares:
        share, fraction = _pair(each, "SHARE=FRACTION")
        try:
            chosen[share] = float(fraction)
        except ValueError:
            raise typer.BadParameter(f"{fraction!r} is no number", param_hint="SHARE=FRACTION") from None
    with connected(address, tenant) as client, _typed(), _shown(output, f"splitting {name}") as far:
        made = data.split(client, name, chosen, seed=seed, by=by, retention_s=retention_s, progress=far)
    if output.json:
        output.document({"datasets": [plain(each) for each in made.values()]})
        return
    for dataset in made.values():
        _tell(output, dataset)


def map_function(
    output: Output, address: str, tenant: str, name: str, function: str, *, given: str, **options: Any
) -> None:
    """Call a function for each row; `options` are those of `inferd_client.data.map_column`."""
    read = read_input(given)
    called, version = data.named(function)
    base, of = data.named(name)
    with connected(address, tenant) as client, _typed():
        rows = client.get_dataset(base, version=of).rows
        with _shown(output, f"mapping {name}", rows) as far:
            made = data.map_column(client, name, called, function_version=version, given=read, progress=far, **options)
    if output.json:
        output.document({**plain(made.dataset), "failed": made.failed, "first_error": made.first_error})
        return
    _tell(output, made.dataset)
    if made.failed:
        output.note(f"{made.failed} rows failed and are null; the first: {made.first_error}")


def dedupe(
    output: Output, address: str, tenant: str, name: str, *, into: str, column: str, retention_s: float | None
) -> None:
    """Leave out rows whose text stands in one before."""
    with connected(address, tenant) as client, _typed(), _shown(output, f"looking through {name}") as far:
        made = data.deduplicate(client, name, column=column, into=into, retention_s=retention_s, progress=far)
    _tell(output, made)


def export(output: Output, address: str, tenant: str, name: str, file: Path, *, form: str) -> None:
    """Write a dataset into a file, or onto stdout."""
    with connected(address, tenant) as client, _typed():
        if str(file) == "-":
            data.export(client, name, sys.stdout.buffer, form=form)
            sys.stdout.buffer.flush()
            return
        with output.status(f"writing {file.name}"):
            count = data.export(client, name, file, form=form)
    if output.json:
        output.document({"file": str(file), "rows": count})
    else:
        output.text(f"{file}: {count} rows")


def remove(output: Output, address: str, tenant: str, name: str) -> None:
    """Forget a dataset."""
    base, version = data.named(name)
    with connected(address, tenant) as client:
        gone = client.delete_dataset(base, version=version)
    if output.json:
        output.document({"name": base, "versions": gone})
    else:
        output.text(f"{', '.join(f'{base}@{each}' for each in gone)} {'is' if len(gone) == 1 else 'are'} gone")
