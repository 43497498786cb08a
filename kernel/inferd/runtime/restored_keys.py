"""What a restored store makes of keys: those that were revoked or rotated since the backup stay so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.core.key import KeyState
from inferd.runtime.kept_keys import read_key
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import NO_TENANT, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.key import Key
    from inferd.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedKeys:
    """What the store that was there before says of the keys of a backup; their ids.

    Attributes:
        known: Whether that store could be read.
        revoked: Those that it has as revoked, and the backup did not: they are revoked.
        rotated: Those that it has with a newer credential: that one holds, and none before.
        strange: Those that hold, and of which it has nothing: revoked so long ago that it has forgotten them, or never
            its own.
    """

    known: bool = False
    revoked: tuple[str, ...] = ()
    rotated: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()


def carry_keys(store: Store, before: Mapping[str, bytes] | None, now: float) -> CarriedKeys:
    """Write to a restored store what the one before it knew of its keys.

    Args:
        store: The restored one.
        before: The records of keys of the one before, by id; None where it could not be read.
        now: In Unix time.

    Raises:
        StoreUnavailableError: The restored one cannot be written.
    """
    if before is None:
        return CarriedKeys()
    writes, revoked, rotated, strange = [], [], [], []
    for record in store.records(Kind.KEY):
        key = _read(record.value)
        if key is None or key.state(now) is not KeyState.ACTIVE:
            continue
        value = before.get(record.key)
        later = None if value is None else _read(value)
        if value is None or later is None:
            strange.append(record.key)
            continue
        if later.revoked is not None:
            revoked.append(record.key)
        elif later.secrets[0].number > key.secrets[0].number:
            rotated.append(record.key)
        else:
            continue
        writes.append(Put(NO_TENANT, Kind.KEY, record.key, value))
    store.write(writes)
    return CarriedKeys(known=True, revoked=tuple(revoked), rotated=tuple(rotated), strange=tuple(strange))


def _read(value: bytes) -> Key | None:
    try:
        return read_key(value)[0]
    except UNREADABLE:
        return None
