"""Values sealed with the keys of their tenants, and the keys of records that would say what is in them.

    2; 4 bytes, the number of the tenant's key; XAES-256-GCM of the value, bound to the version (the first byte), the
    number, the tenant, the table, the kind, the key of the record, the column, and the number of a piece

So a value opens nowhere but where it was written: not in another tenant's row, nor under another key, kind or number.
The digest of a blob would say that two tenants have the same: where it is a key of a record, `~` and AES-SIV (RFC 5297)
of it stand there, with a key of the tenant, in hexadecimal digits. The same key is always written alike, so that it is
found.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from inferd.store.codec import PLAIN, Place, PlainCodec
from inferd.store.sealing.data_keys import NAMES, DataKeys
from inferd.store.sealing.xaes import Xaes, bound
from inferd.store.store import Kind

SEALED = b"\x02"
NUMBER_BYTES = 4
HEADER_BYTES = len(SEALED) + NUMBER_BYTES
SEALED_KEYS = frozenset({Kind.BLOB.value, Kind.UPLOAD.value, Kind.OUTPUT.value})
"""Kinds whose keys are digests, or end with one."""
MARK = "~"  # of a key that is sealed; no other key of these kinds begins with it
CIPHERS = 1024  # that are held; then all are made anew


class SealedCodec:
    """As `Codec`. Used by one thread at a time.

    Args:
        keys: Of the tenants.
        seals: Whether what is written is sealed.

    Attributes:
        lenient: Whether values that are not sealed are read: until all are.
    """

    def __init__(self, keys: DataKeys, *, seals: bool) -> None:
        self._keys = keys
        self._seals = seals
        self._plain = PlainCodec()
        self._ciphers: dict[bytes, Xaes] = {}  # by key
        self._namers: dict[bytes, AESSIV] = {}
        self.lenient = True

    def write(self, place: Place, value: bytes) -> bytes:
        """As `Codec.write`.

        Raises:
            SealError: There is no key, and none can be made.
        """
        if not self._seals:
            return self._plain.write(place, value)
        number = self._keys.current(place.tenant)
        header = SEALED + number.to_bytes(NUMBER_BYTES)
        return header + self._cipher(place.tenant, number).seal(value, _bound(header, place))

    def read(self, place: Place, written: bytes) -> bytes:
        """As `Codec.read`.

        Raises:
            ShreddedKeyError: The keys of its tenant were dropped.
        """
        if written[:1] == PLAIN and self.lenient:
            return self._plain.read(place, written)
        if written[:1] != SEALED:
            raise ValueError("the value is not sealed, and all that is kept here is")
        header = written[:HEADER_BYTES]
        cipher = self._cipher(place.tenant, int.from_bytes(header[1:]))
        return cipher.open(written[HEADER_BYTES:], _bound(header, place))

    def _cipher(self, tenant: str, number: int) -> Xaes:
        key = self._keys.get(tenant, number)
        if (found := self._ciphers.get(key)) is None:
            if len(self._ciphers) >= CIPHERS:
                self._ciphers.clear()
            found = self._ciphers[key] = Xaes(key)
        return found

    def write_key(self, tenant: str, kind: str, key: str) -> str:
        """As `Codec.write_key`. A tenant whose keys were sealed once has them so for ever: they are found by them."""
        if kind not in SEALED_KEYS or not (number := self._keys.current(tenant, NAMES, makes=self._seals)):
            return key
        return MARK + self._namer(tenant, number).encrypt(key.encode(), [tenant.encode(), kind.encode()]).hex()

    def read_key(self, tenant: str, kind: str, written: str) -> str:
        """As `Codec.read_key`."""
        if kind not in SEALED_KEYS or not written.startswith(MARK):
            return written
        try:
            number = self._keys.current(tenant, NAMES, makes=False)
            sealed = bytes.fromhex(written[len(MARK) :])
            return self._namer(tenant, number).decrypt(sealed, [tenant.encode(), kind.encode()]).decode()
        except (InvalidTag, ValueError):  # its value, which is bound to the key, is told as damaged
            return written

    def _namer(self, tenant: str, number: int) -> AESSIV:
        key = self._keys.get(tenant, number)
        if (found := self._namers.get(key)) is None:
            if len(self._namers) >= CIPHERS:
                self._namers.clear()
            found = self._namers[key] = AESSIV(key)
        return found

    def is_current(self, tenant: str, kind: str, key: str, written: bytes) -> bool:
        """Whether a row, as it is kept, is sealed with the newest keys."""
        number = self._keys.current(tenant, makes=False)
        named = kind not in SEALED_KEYS or key.startswith(MARK)
        return named and number > 0 and written[:HEADER_BYTES] == SEALED + number.to_bytes(NUMBER_BYTES)


def _bound(header: bytes, place: Place) -> bytes:
    table, number = ("records", "") if place.number is None else ("pieces", str(place.number))
    parts = place.tenant, table, place.kind, place.key, "value", number
    return bound(header, *(part.encode() for part in parts))
