"""What each value passes on its way into a store and back: the one place where values can be sealed."""

import zlib
from typing import Protocol

PLAIN = b"\x01"  # the first byte says how a value was written
CHECK_BYTES = 4


class Codec(Protocol):
    """Writes and reads values."""

    def write(self, place: bytes, value: bytes) -> bytes:
        """What is kept of a value; `place` says where it stands, and is the same when it is read."""

    def read(self, place: bytes, written: bytes) -> bytes:
        """The value.

        Raises:
            ValueError: It was not written so, or not for this place.
        """


class PlainCodec:
    """Values as they are, with a check of their bytes and of their place."""

    def write(self, place: bytes, value: bytes) -> bytes:
        """As `Codec.write`."""
        return PLAIN + zlib.crc32(value, zlib.crc32(place)).to_bytes(CHECK_BYTES) + value

    def read(self, place: bytes, written: bytes) -> bytes:
        """As `Codec.read`."""
        value = written[1 + CHECK_BYTES :]
        if written[:1] != PLAIN:
            raise ValueError(f"the value was written by another codec, {written[:1].hex()}")
        if zlib.crc32(value, zlib.crc32(place)).to_bytes(CHECK_BYTES) != written[1 : 1 + CHECK_BYTES]:
            raise ValueError("the value is damaged, or stands in another's place")
        return value
