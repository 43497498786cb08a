"""Datasets as they are kept: of each version a record with what is known of it, whose pieces are its parts; JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from inferd.core.dataset import Column, Dataset, DatasetState, Lineage, Part, Source, Statistics
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Append, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.store.store import Store

HEAD_COST: Final = 4  # bytes of memory for each of a record, in which texts stand once
PART_COST_BYTES: Final = 256  # measured: a part, its digest and its place

log = structlog.get_logger()


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """A version as the kernel knows it. One writer: `inferd.runtime.front.datasets.Datasets`.

    Attributes:
        tenant: Whose.
        dataset: How it stands.
        parts: Its parts, in their order.
        pieces: How many pieces its record has: each has the parts of one call.
        written_use: What its record says of when it was used.
        cost_bytes: What it takes of memory, about.
        readers: What of the kernel reads it, for which it stays, and how often each.
        going: Whether it is being forgotten: nothing begins to read it.
    """

    tenant: str
    dataset: Dataset
    parts: list[Part] = field(default_factory=list)
    pieces: int = 0
    written_use: float = 0.0
    cost_bytes: int = 0
    readers: Counter[str] = field(default_factory=Counter)
    going: bool = False

    @property
    def key(self) -> str:
        """Of its record."""
        return self.dataset.label

    @property
    def holder(self) -> str:
        """As what it holds blobs."""
        return f"dataset {self.dataset.label}"


@dataclass(frozen=True, slots=True)
class Held:
    """A whole version that something reads, and its parts in their order."""

    dataset: Dataset
    parts: tuple[Part, ...]


def write_head(entry: Entry, dataset: Dataset, pieces: int) -> Put:
    """The record of a version that stands so, and has so many pieces."""
    written = {**asdict(dataset), "state": dataset.state.value, "pieces": pieces}
    return Put(entry.tenant, Kind.DATASET, entry.key, _json(written))


def write_parts(entry: Entry, parts: Sequence[Part]) -> Append:
    """The next piece of its record."""
    value = _json([[part.digest, part.rows, part.size_bytes] for part in parts])
    return Append(entry.tenant, Kind.DATASET, entry.key, entry.pieces, value)


def writes_of(entry: Entry, dataset: Dataset, parts: Sequence[Part] = ()) -> list[Put | Append]:
    """What makes a version stand so, with these parts behind those that it has."""
    head = write_head(entry, dataset, entry.pieces + bool(parts))
    return [head, write_parts(entry, parts)] if parts else [head]


def cost_bytes(head: bytes, parts: int) -> int:
    """What a version takes of memory, about, by its record and the number of its parts."""
    return HEAD_COST * len(head) + PART_COST_BYTES * parts


def kept_datasets(store: Store) -> list[Entry]:
    """All versions that are kept and can be read; of others the log tells, and they stay in the store.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    found: list[Entry] = []

    def damaged(tenant: str, key: str, error: Exception) -> None:
        log.error("a dataset cannot be read, and is not known so", tenant=tenant, dataset=key, why=str(error))

    for record in list(store.records(Kind.DATASET, damaged)):
        try:
            written = json.loads(record.value)
            pieces = written.pop("pieces")
            dataset = _read(written)
            parts = [
                Part(str(digest), int(rows), int(size_bytes))
                for piece in store.pieces(record.tenant, Kind.DATASET, record.key)
                for digest, rows, size_bytes in json.loads(piece)
            ]
            if len(parts) != dataset.parts:
                raise ValueError(f"it has {len(parts)} parts and says {dataset.parts}")
        except UNREADABLE as error:
            damaged(record.tenant, record.key, error)
            continue
        cost = cost_bytes(record.value, len(parts))
        found.append(
            Entry(
                tenant=record.tenant,
                dataset=dataset,
                parts=parts,
                pieces=pieces,
                written_use=dataset.used,
                cost_bytes=cost,
            )
        )
    return found


def _read(written: dict[str, Any]) -> Dataset:
    lineage = written["lineage"]
    sources = tuple(Source(**each) for each in lineage["sources"])
    columns = tuple(
        Column(name=each["name"], type=each["type"], statistics=Statistics(**each["statistics"]))
        for each in written["columns"]
    )
    return Dataset(
        **{
            **written,
            "state": DatasetState(written["state"]),
            "columns": columns,
            "lineage": Lineage(**{**lineage, "sources": sources}),
        }
    )


def _json(written: Any) -> bytes:
    return json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()
