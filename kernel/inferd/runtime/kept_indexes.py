"""Indexes as they are kept: of each a record with its segments, as JSON; these are blobs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog

from inferd.core.document_index import Index, IndexFieldType, IndexSpec, Segment
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Kind, Put

if TYPE_CHECKING:
    from inferd.store.store import Store

log = structlog.get_logger()


def write_index(tenant: str, index: Index) -> Put:
    """Its record."""
    written = asdict(index)
    written["spec"]["fields"] = [[name, kind.value] for name, kind in index.spec.fields]
    value = json.dumps(written, separators=(",", ":"), ensure_ascii=False).encode()
    return Put(tenant, Kind.INDEX, index.spec.name, value)


def kept_indexes(store: Store) -> list[tuple[str, Index]]:
    """All that are kept and can be read, each with its tenant; of others the log tells, and they stay in the store.

    Raises:
        StoreUnavailableError: The store cannot be read.
    """
    found: list[tuple[str, Index]] = []

    def damaged(tenant: str, key: str, error: Exception) -> None:
        log.error("an index cannot be read, and is not known so", tenant=tenant, index=key, why=str(error))

    for record in list(store.records(Kind.INDEX, damaged)):
        try:
            found.append((record.tenant, _read(record.value)))
        except UNREADABLE as error:
            damaged(record.tenant, record.key, error)
    return found


def _read(value: bytes) -> Index:
    written = json.loads(value)
    spec = written["spec"]
    fields = tuple((str(name), IndexFieldType(kind)) for name, kind in spec["fields"])
    segments = tuple(Segment(**{**each, "dead": tuple(each["dead"])}) for each in written["segments"])
    return Index(**{**written, "spec": IndexSpec(**{**spec, "fields": fields}), "segments": segments})
