"""The keys of a store are turned over, looked at, and dropped for good."""

import glob
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from inferd.errors import InvalidFieldError
from inferd.store.sealing.data_keys import PREFIXES, DataKeys, Standing
from inferd.store.sealing.key_source import MOST_KEYS, Kek, KeyFile
from inferd.store.store import NO_TENANT, Kind, SealError, Store

BLOBS = (Kind.BLOB, Kind.UPLOAD)
KEYS_TABLE = b"data_keys"
SCHEMA_BYTES = 64 << 10
NOTE = ".txt"  # ends what says why a file was set aside

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysStanding:
    """How the keys of a store stand.

    Attributes:
        sealing: Whether what is written is sealed.
        whole: Whether all that is kept is.
        resealing: Whether values of older keys are being sealed anew.
        source: Where the key comes from that wraps the others, for people.
        wrapping: Its id, and those of others that wrap some still, in hexadecimal digits.
        tenants: Of each tenant.
        progress: How far what older keys have sealed is sealed anew, by what is counted.
        unsealed: Files beside the store that were set aside, as damaged or replaced, before it was sealed.
    """

    sealing: bool
    whole: bool
    resealing: bool
    source: str
    wrapping: Sequence[str]
    tenants: Sequence[Standing]
    progress: Mapping[str, int] = field(default_factory=dict)
    unsealed: Sequence[str] = ()


def keys_of_store(store: Store) -> DataKeys:
    """Those of a store.

    Raises:
        SealError: It has none, as nothing of it is sealed.
    """
    if store.keys is None or not (store.keys.seals or store.keys.wrapping):
        raise SealError(
            f'the store {store.name} has no keys: store.sealing is "off", and nothing of it was ever sealed',
            metadata={"cause": "no keys"},
        )
    return store.keys


def standing_of(store: Store) -> KeysStanding:
    """How the keys of a store stand; nothing is changed.

    Raises:
        SealError: It has none.
    """
    keys = keys_of_store(store)
    return KeysStanding(
        sealing=keys.seals,
        whole=keys.whole,
        resealing=keys.resealing,
        source=keys.source.name,
        wrapping=keys.wrapping,
        tenants=list(keys.standing()),
        unsealed=[str(path) for path in unsealed_beside(Path(store.name))],
    )


def unsealed_beside(path: Path) -> list[Path]:
    """Files beside a store that were set aside, and have no keys of tenants: they are as they were written."""
    if not path.is_file():
        return []
    aside = (
        each for kind in ("damaged", "replaced") for each in path.parent.glob(f"{glob.escape(path.name)}.{kind}-*")
    )
    return sorted(each for each in aside if each.suffix != NOTE and not _has_keys(each))


def _has_keys(path: Path) -> bool:
    """Whether the schema of a file, which is at its beginning, has the table of keys."""
    try:
        with path.open("rb") as file:
            return KEYS_TABLE in file.read(SCHEMA_BYTES)
    except OSError:
        return False


def rotate(store: Store, tenant: str | None) -> int:
    """Have new keys seal from now on, of one tenant or of all; how many. What the old ones sealed is read on.

    Raises:
        InvalidFieldError: The tenant has no key.
        SealError: The store has none.
        StoreUnavailableError: They cannot be written.
    """
    keys = keys_of_store(store)
    named = [each.tenant for each in keys.standing() if each.number]
    if tenant is not None and tenant not in named:
        raise InvalidFieldError(f"tenant {tenant!r} has no key in the store, as nothing is kept of it", field="tenant")
    chosen = named if tenant is None else [tenant]
    for each in chosen:
        keys.rotate(each)
    if tenant is None:
        _renew_prefixes(keys)
    keys.keep_resealing(resealing=True)
    store.write([])
    return len(chosen)


def _renew_prefixes(keys: DataKeys) -> None:
    """Have no prefix cache that was kept before be opened again: they are computed anew."""
    if keys.shred(PREFIXES):
        keys.current(PREFIXES)


def rotate_wrapping(store: Store, *, forgets: bool = False) -> int:
    """Have all keys wrapped by a new one; how many were.

    A file of the kernel's own gets a new key in front of the others: whatever cuts this off, one of them opens the
    store. These stay for what else they open, other stores and backups, unless this `forgets` them. From elsewhere the
    first key is taken, which its keeper has put there.

    Raises:
        SealError: The key cannot be had, or not be written, or as many are in the file as may be.
        StoreUnavailableError: The keys cannot be written.
    """
    keys = keys_of_store(store)
    source = keys.source
    given = source.read()
    file = source if isinstance(source, KeyFile) and source.path is not None else None
    if file is not None:
        if len(given) >= MOST_KEYS:
            raise SealError(
                f"{file.name} has {len(given)} keys and may have {MOST_KEYS}; remove the lines of those that no store"
                " and no backup needs, from its end on",
                metadata={"cause": "too many keys"},
            )
        given = [Kek.made(), *given]
        file.make(given, replaces=True)
    count = keys.rewrap(given)
    store.write([])
    if file is not None and forgets:
        file.make(given[:1], replaces=True)
    log.info("the keys of tenants are wrapped by a new key", keys=count, source=source.name)
    return count


def settle(store: Store, left: Collection[str] | None) -> int:
    """All values are sealed by the newest keys: the older ones go, but those that files of blobs need. How many went.

    Args:
        store: It.
        left: Tenants of blobs whose files are not sealed by the newest; None: nobody has looked.

    Raises:
        StoreUnavailableError: They cannot be written.
    """
    keys = keys_of_store(store)
    need = set(left or ())
    for kind in BLOBS:
        for record in store.records(kind, lambda tenant, *_: need.add(tenant)):  # of damaged rows files stay
            if left is None:
                need.add(record.tenant)
    gone = sum(keys.retire(each.tenant) for each in list(keys.standing()) if each.tenant not in need)
    keys.keep_resealing(resealing=False)
    store.write([])
    return gone


def shred(store: Store, tenant: str) -> int:
    """Drop all keys of a tenant, and then what they sealed: nobody reads it any more. How many keys there were.

    Those of prefix caches go as well, which may have something of any tenant: on whichever hosts files of these are.

    Raises:
        InvalidFieldError: There is no tenant of an empty name.
        StoreUnavailableError: They cannot be written, or a copy of before that has them not be removed.
    """
    if tenant == NO_TENANT:
        raise InvalidFieldError("tenant is ''; name one: what is everybody's is not shredded", field="tenant")
    keys = keys_of_store(store)
    store.drop_copies()  # they have the keys, too
    count = keys.shred(tenant)
    _renew_prefixes(keys)
    store.write([])  # from here on none of it can be read
    store.drop_tenant(tenant)
    store.compact()  # the keys, as they were wrapped, are in pages that nobody uses
    return count
