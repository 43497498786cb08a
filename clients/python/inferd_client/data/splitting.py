"""Datasets in parts by chance that is always the same: the rows that are for training, and those that are not."""

from __future__ import annotations

import json
from hashlib import blake2b
from itertools import accumulate
from math import isclose
from typing import TYPE_CHECKING, Any, Final

from inferd_api.v1.dataset_pb2 import DatasetLineage
from inferd_client.data.arrow import Cutter, library
from inferd_client.data.exporting import written
from inferd_client.data.tables import Writer, named, source_of, tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd_api.v1.dataset_pb2 import Dataset
    from inferd_client import Client
    from inferd_client.data.tables import Progress

ALL: Final = 1 << 64


def split(
    client: Client,
    name: str,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    by: Sequence[str] = (),
    retention_s: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Dataset]:
    """Make a dataset of each share of the rows, as {"train": 0.9, "test": 0.1} makes NAME.train and NAME.test.

    Where a row goes depends on the seed and what it holds, and on nothing else: it stays there whatever rows come or
    go, and rows that are the same go together. So shares are met as chance meets them, by a percent of 10,000 rows.

    Args:
        client: Of the kernel.
        name: Of the dataset, with a version or without.
        shares: Their names, and which part of the rows each gets; together 1.
        seed: Another one is another split.
        by: Columns that say what goes together, as the author of a text. Default: all of a row.
        retention_s: As `add`.
        progress: As `add`.

    Raises:
        InferdError: There is no such dataset, or one cannot be kept.
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: The shares are not 1 together, or there is no such column.
    """
    library()
    if not shares or any(share <= 0 for share in shares.values()) or not isclose(sum(shares.values()), 1.0):
        raise ValueError(f"the shares are {dict(shares)}; each must be above 0, and together they must be 1")
    base, version = named(name)
    source = client.get_dataset(base, version=version)
    columns = [each.name for each in source.columns]
    if unknown := [each for each in by if each not in columns]:
        raise ValueError(f"there is no column {unknown[0]!r}; there are {', '.join(columns)}")
    ends = [round(end * ALL) for end in accumulate(shares.values())]
    ends[-1] = ALL
    facts = {"seed": seed, "by": list(by), "shares": dict(shares)}
    done: dict[str, Dataset] = {}
    making: list[tuple[Writer, Cutter]] = []
    for table in tables(client, f"{source.name}@{source.version}"):
        for share in [] if making else shares:
            lineage = DatasetLineage(
                operation="split",
                sources=[source_of(source)],
                parameters_json=json.dumps({**facts, "share": share}, ensure_ascii=False, sort_keys=True),
            )
            into = Writer(client, f"{base}.{share}", table.schema, lineage, retention_s=retention_s, progress=progress)
            making.append((into, Cutter(table.schema)))
        _divide(table, ends, making, str(seed).encode(), list(by) or columns)
    for share, (into, cutter) in zip(shares, making, strict=True):
        into.add(cutter.end())
        done[share] = into.finish()
    return done


def _divide(
    table: Any, ends: Sequence[int], making: Sequence[tuple[Writer, Cutter]], seed: bytes, by: Sequence[str]
) -> None:
    pa = library()
    places = [next(n for n, end in enumerate(ends) if _point(row, seed) < end) for row in table.select(by).to_pylist()]
    for number, (into, cutter) in enumerate(making):
        chosen = table.take(pa.array([n for n, place in enumerate(places) if place == number], pa.int64()))
        for batch in chosen.combine_chunks().to_batches():
            into.add(cutter.add(batch))


def _point(row: dict[str, Any], seed: bytes) -> int:
    """Where a row falls, from 0 to `ALL`."""
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, default=written)
    key = blake2b(seed, digest_size=32).digest()
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), key=key, digest_size=8).digest())
