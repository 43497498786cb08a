"""The keys of tenants, each wrapped by the store's: what seals the values of a tenant, and the names of its blobs.

    1; what for: 1 for values, 2 for names; 8 bytes, when it was made (Unix time); 8 bytes, by which key it is
    wrapped; then the key, sealed and bound to all of that, to its tenant and to its number

A tenant's numbers rise for ever: one that was dropped is followed by another, and never comes again.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from inferd.store.sealing.key_source import ID_BYTES, KEEP_IT, Kek, KeyFile, KeySource
from inferd.store.sealing.xaes import KEY_BYTES, Xaes, bound
from inferd.store.store import NO_TENANT, SealError

FORMAT = 1
VALUES, NAMES = 1, 2
SIZES = {VALUES: KEY_BYTES, NAMES: 2 * KEY_BYTES}  # AES-SIV has two keys
STAMP_BYTES = 8
HEADER_BYTES = 2 + STAMP_BYTES + ID_BYTES
SHREDDED = b""  # stands in the place of the key with the highest number of a tenant whose keys were dropped
WHOLE = (NO_TENANT, 0)  # the number of no key: its row says, sealed, whether all values are
RESEALING = (NO_TENANT, -1)  # and this one's that values of older keys are to be sealed anew
MARKED, UNMARKED = b"yes", b"no"
PREFIXES = "inferd prefixes"  # no tenant is called so: whose keys seal prefix caches, which are everybody's
MARK_BOUND = b"inferd data key mark"

Row = tuple[str, int, bytes]
"""Tenant, number, and the key as it is wrapped."""

log = structlog.get_logger()


class ShreddedKeyError(ValueError):
    """The key was dropped, so that nobody reads what was sealed with it."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key of a tenant.

    Attributes:
        use: `VALUES` or `NAMES`.
        made: When, as Unix time.
        kek: With which key it is wrapped.
        key: It; None where it cannot be unwrapped, as its row is damaged.
    """

    use: int
    made: int
    kek: bytes
    key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the keys of a tenant stand.

    Attributes:
        tenant: Whose.
        number: Of the one that seals; 0 for none.
        made: When that was made, as Unix time.
        keys: How many there are that open values.
        shredded: Whether keys of the tenant were dropped.
    """

    tenant: str
    number: int
    made: int
    keys: int
    shredded: bool


class DataKeys:
    """The keys of one store. One writer: who has the store; others read.

    Args:
        store: The store's name, for people.
        source: Where the keys come from that wrap.
        rows: What the store has; see `Row`.
        makes: Whether a key that wraps is made where there is none, and nothing is wrapped yet.
        wall: The time.

    Attributes:
        unkept: Rows that the store is to write with its next write.
        gone: Rows that it is to remove with it: tenant and number.
        whole: Whether all values are sealed.
        marked: Whether the store says that or the contrary, as only who has the key that wraps can.
        resealing: Whether values of older keys are to be sealed anew.
        seals: Whether what is written is sealed.

    Raises:
        SealError: The key that wraps is lost, or another one.
    """

    def __init__(
        self,
        store: str,
        source: KeySource,
        rows: Iterable[Row],
        *,
        makes: bool,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._source = source
        self.seals = makes
        self._wall = wall
        self._keks: list[Kek] = []
        self._keys: dict[str, dict[int, DataKey]] = {}
        self._shredded: dict[str, int] = {}
        self._current: dict[tuple[str, int], int] = {}
        self.unkept: dict[tuple[str, int], bytes] = {}
        self.gone: set[tuple[str, int]] = set()
        self.whole = self.marked = self.resealing = False
        self._load(list(rows))

    def _load(self, rows: Sequence[Row]) -> None:
        wrapped = [row for row in rows if row[1] > 0 and row[2] != SHREDDED]
        marks = {row[:2] for row in rows if row[2] == MARKED}
        self.resealing = RESEALING in marks
        mark = next((row[2] for row in rows if row[:2] == WHOLE), SHREDDED)
        self._shredded = {tenant: number for tenant, number, value in rows if number > 0 and not value}
        if wrapped:
            self._keks = self._source.read()
            self._check(wrapped)
        said = MARKED if mark == MARKED else self._opened_mark(mark)  # older kernels have not sealed it
        self.whole, self.marked = said == MARKED, said is not None
        ciphers = {kek.id: kek.cipher for kek in self._keks}
        for tenant, number, value in wrapped:
            header = value[:HEADER_BYTES]
            key = _opened(ciphers[header[-ID_BYTES:]], tenant, number, value)
            if key is None:
                log.error("a key of a tenant is damaged: what it sealed cannot be read", tenant=tenant, number=number)
            self._add(tenant, number, DataKey(header[1], int.from_bytes(header[2:-ID_BYTES]), header[-ID_BYTES:], key))

    def _opened_mark(self, mark: bytes) -> bytes | None:
        for kek in self._keks:
            with suppress(ValueError):
                return kek.cipher.open(mark, bound(MARK_BOUND))
        return None

    def _add(self, tenant: str, number: int, key: DataKey) -> None:
        self._keys.setdefault(tenant, {})[number] = key
        if key.key is not None:
            at = tenant, key.use
            self._current[at] = max(number, self._current.get(at, 0))

    def _check(self, wrapped: Sequence[Row]) -> None:
        """Refuse keys that are not those that wrapped.

        Raises:
            SealError: They are not.
        """
        needed = {value[HEADER_BYTES - ID_BYTES : HEADER_BYTES].hex() for _, _, value in wrapped}
        found = {kek.id.hex() for kek in self._keks}
        if not found:
            raise SealError(
                f"the store {self._store} is sealed with the key {', '.join(sorted(needed))}, and {self._source.name}"
                " is not there: put that file back, as from the copy that you have, or name the place where it is"
                " (store.key_file). Nothing was changed. Without it nothing that is kept can be read: then start with"
                " another store.url",
                metadata={"cause": "lost key", "keys": ",".join(sorted(needed)), "source": self._source.name},
            )
        if needed - found:
            raise SealError(
                f"the store {self._store} is sealed with the key {', '.join(sorted(needed))}, and {self._source.name}"
                f" has {', '.join(sorted(found))}: put back the file that was there, or name the place where it is"
                " (store.key_file). Nothing was changed",
                metadata={
                    "cause": "wrong key",
                    "keys": ",".join(sorted(needed)),
                    "found": ",".join(sorted(found)),
                    "source": self._source.name,
                },
            )

    def find_wrapping(self) -> Kek:
        """The key that wraps; made where there is none.

        Raises:
            SealError: There is none, and it cannot be made.
        """
        if not self._keks:
            self._keks = self._source.read()
        if not self._keks:
            if not self.seals or not isinstance(self._source, KeyFile):
                raise SealError(f"{self._source.name} is not there", metadata={"cause": "lost key"})
            self._source.make([Kek.made()])
            self._keks = self._source.read()
            log.warning("made the key that seals the store", place=self._source.name, store=self._store, advice=KEEP_IT)
        return self._keks[0]

    def _make(self, tenant: str, use: int) -> int:
        numbers = [*self._keys.get(tenant, {}), self._shredded.get(tenant, 0)]
        number, kek = max(numbers) + 1, self.find_wrapping()
        key = DataKey(use, int(self._wall()), kek.id, secrets.token_bytes(SIZES[use]))
        self.unkept[tenant, number] = _wrapped(tenant, number, key, kek)
        self._add(tenant, number, key)
        if not self.marked:
            self.keep_whole(whole=False)  # from the first key on the store says so: what says nothing was changed
        return number

    # Use.

    def current(self, tenant: str, use: int = VALUES, *, makes: bool = True) -> int:
        """The number of the key that seals now; one is made where there is none, else 0.

        Raises:
            SealError: None can be made.
        """
        number = self._current.get((tenant, use), 0)
        return number or (self._make(tenant, use) if makes else 0)

    def get(self, tenant: str, number: int) -> bytes:
        """A key.

        Raises:
            ShreddedKeyError: It was dropped.
            ValueError: There is none, or it is damaged.
        """
        found = self._keys.get(tenant, {}).get(number)
        if found is not None and found.key is not None:
            return found.key
        if found is None and 0 < number <= self._shredded.get(tenant, 0):
            raise ShreddedKeyError("it was shredded: the tenant's keys were dropped, and nobody can read it")
        raise ValueError(f"key {number} of its tenant is {'not there' if found is None else 'damaged'}")

    # Looking after them.

    def keep_whole(self, *, whole: bool) -> None:
        """Have the store say whether all its values are sealed."""
        self.whole = whole
        if self._keks or self.seals:
            sealed = self.find_wrapping().cipher.seal(MARKED if whole else UNMARKED, bound(MARK_BOUND))
            self.unkept[WHOLE], self.marked = sealed, True

    def keep_resealing(self, *, resealing: bool) -> None:
        """Have the store say whether values of older keys are to be sealed anew."""
        self.resealing = resealing
        self.unkept[RESEALING] = MARKED if resealing else SHREDDED

    def kept(self) -> None:
        """The store has written what was to be written."""
        self.unkept.clear()
        self.gone.clear()

    def rotate(self, tenant: str) -> int:
        """Have a new key seal from now on; its number."""
        return self._make(tenant, VALUES)

    def retire(self, tenant: str) -> int:
        """Drop the keys that seal nothing any more, as all values are sealed by the newest; how many."""
        last = self._current.get((tenant, VALUES), 0)
        old = [n for n, key in self._keys.get(tenant, {}).items() if key.use == VALUES and n < last]
        for number in old:
            self._drop(tenant, number)
        return len(old)

    def _drop(self, tenant: str, number: int) -> None:
        del self._keys[tenant][number]
        self.unkept.pop((tenant, number), None)
        self.gone.add((tenant, number))

    def shred(self, tenant: str) -> int:
        """Drop all keys of a tenant; how many."""
        numbers = list(self._keys.get(tenant, {}))
        for number in numbers:
            self._drop(tenant, number)
        self._keys.pop(tenant, None)
        for use in SIZES:
            self._current.pop((tenant, use), None)
        if numbers:
            if (before := self._shredded.get(tenant)) is not None:
                self.gone.add((tenant, before))
            last = self._shredded[tenant] = max(numbers)
            self.gone.discard((tenant, last))
            self.unkept[tenant, last] = SHREDDED
        return len(numbers)

    def rewrap(self, keks: Sequence[Kek]) -> int:
        """Have all keys wrapped by the first of these; the others are those of before. How many were."""
        self._keks, count = list(keks), 0
        for tenant, keys in self._keys.items():
            for number, key in keys.items():
                if key.key is not None and key.kek != keks[0].id:
                    new = keys[number] = DataKey(key.use, key.made, keks[0].id, key.key)
                    self.unkept[tenant, number] = _wrapped(tenant, number, new, keks[0])
                    count += 1
        if self.marked:
            self.keep_whole(whole=self.whole)
        return count

    @property
    def has_any(self) -> bool:
        """Whether there are keys, and so values that they have sealed."""
        return any(self._keys.values())

    @property
    def source(self) -> KeySource:
        """Where the keys come from that wrap."""
        return self._source

    @property
    def wrapping(self) -> list[str]:
        """The ids of the keys that wrap some, in hexadecimal digits."""
        return sorted({key.kek.hex() for keys in self._keys.values() for key in keys.values()})

    def standing(self) -> Iterator[Standing]:
        """How the keys of each tenant stand."""
        for tenant in sorted({*self._keys, *self._shredded} - {PREFIXES}):
            keys = self._keys.get(tenant, {})
            number = self._current.get((tenant, VALUES), 0)
            made = keys[number].made if number else 0
            count = sum(key.use == VALUES for key in keys.values())
            yield Standing(tenant, number, made, count, tenant in self._shredded)

    def adopt(self, other: "DataKeys") -> None:
        """Have the keys of another store, whose values and blobs are to be this one's, which has nothing."""
        for tenant, keys in list(self._keys.items()):
            for number in list(keys):
                self._drop(tenant, number)
        self._keks = other._keks  # noqa: SLF001 - of the same class
        self._keys, self._current, self._shredded = {}, {}, dict(other._shredded)  # noqa: SLF001
        for tenant, number in self._shredded.items():
            self.unkept[tenant, number] = SHREDDED
        ciphers = {kek.id: kek for kek in self._keks}
        for tenant, keys in other._keys.items():  # noqa: SLF001
            for number, key in keys.items():
                if key.key is not None:
                    self.unkept[tenant, number] = _wrapped(tenant, number, key, ciphers[key.kek])
                    self._add(tenant, number, key)
        if self.marked:
            self.keep_whole(whole=self.whole)
        self.gone -= self.unkept.keys()


def _bound(tenant: str, number: int, header: bytes) -> bytes:
    return bound(b"inferd data key", header, tenant.encode(), str(number).encode())


def _opened(cipher: Xaes, tenant: str, number: int, wrapped: bytes) -> bytes | None:
    header = wrapped[:HEADER_BYTES]
    with suppress(ValueError):
        return cipher.open(wrapped[HEADER_BYTES:], _bound(tenant, number, header))
    return None


def _wrapped(tenant: str, number: int, key: DataKey, kek: Kek) -> bytes:
    header = bytes([FORMAT, key.use]) + key.made.to_bytes(STAMP_BYTES) + kek.id
    return header + kek.cipher.seal(key.key or b"", _bound(tenant, number, header))
