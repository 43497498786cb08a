"""What each value passes on its way into a store and back: the one place where values are sealed."""

import zlib
from typing import NamedTuple, Protocol

PLAIN = b"\x01"  # the first byte says how a value was written
CHECK_BYTES = 4


class Place(NamedTuple):
    """Where a value stands in a store: of a record, or of a piece with its number."""

    tenant: str
    kind: str
    key: str
    number: int | None = None

    def __str__(self) -> str:
        """For people."""
        return repr("\0".join(map(str, self if self.number is not None else self[:3])))


class Codec(Protocol):
    """Writes and reads values, and the keys of records whose keys say what is in them."""

    def write(self, place: Place, value: bytes) -> bytes:
        """What is kept of a value; `place` says where it stands, and is the same when it is read."""

    def read(self, place: Place, written: bytes) -> bytes:
        """The value.

        Raises:
            ValueError: It was not written so, or not for this place.
        """

    def write_key(self, tenant: str, kind: str, key: str) -> str:
        """What is kept of the key of a record: the same for the same key."""

    def read_key(self, tenant: str, kind: str, written: str) -> str:
        """The key. One that cannot be read is given as it is written."""


class PlainCodec:
    """Values as they are, with a check of their bytes and of their place."""

    def write(self, place: Place, value: bytes) -> bytes:
        """As `Codec.write`."""
        return PLAIN + zlib.crc32(value, _begun(place)).to_bytes(CHECK_BYTES) + value

    def read(self, place: Place, written: bytes) -> bytes:
        """As `Codec.read`."""
        value = written[1 + CHECK_BYTES :]
        if written[:1] != PLAIN:
            raise ValueError(f"the value was written by another codec, {written[:1].hex()}")
        if zlib.crc32(value, _begun(place)).to_bytes(CHECK_BYTES) != written[1 : 1 + CHECK_BYTES]:
            raise ValueError("the value is damaged, or stands in another's place")
        return value

    def write_key(self, tenant: str, kind: str, key: str) -> str:  # noqa: ARG002 - the signature is the codec's
        """As `Codec.write_key`."""
        return key

    def read_key(self, tenant: str, kind: str, written: str) -> str:  # noqa: ARG002 - the signature is the codec's
        """As `Codec.read_key`."""
        return written


def _begun(place: Place) -> int:
    parts = place if place.number is not None else place[:3]
    return zlib.crc32("\0".join(map(str, parts)).encode())
