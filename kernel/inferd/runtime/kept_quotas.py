"""Quotas as they are kept, JSON: those that were made by calls."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from inferd.core.quota import Quota
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import DamagedError, Kind

if TYPE_CHECKING:
    from inferd.store.store import Store


def write_quota(quota: Quota) -> bytes:
    """A quota."""
    said = {name: value for name, value in asdict(quota).items() if value is not None}
    return json.dumps(said, separators=(",", ":")).encode()


def read_quota(value: bytes) -> Quota:
    """A quota."""
    return Quota(**json.loads(value))


def kept_quotas(store: Store) -> list[Quota]:
    """All quotas that are kept.

    Raises:
        DamagedError: One cannot be read: without it tenants might use more than was meant.
    """
    found = []
    for record in store.records(Kind.QUOTA, None):
        try:
            found.append(read_quota(record.value))
        except UNREADABLE as error:
            why = f"the quota {record.key!r} cannot be read, and without it tenants might use more than was meant"
            raise DamagedError(why, metadata={"cause": type(error).__name__}) from None
    return found
