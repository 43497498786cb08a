"""Files that are sealed in chunks: they grow at their end, and are read at any place.

    "inferd b", 4 bytes: the number of the tenant's key; 7 bytes by chance; then chunks of 64 KiB, but for the last one,
    each behind 12 bytes by chance, and before 16 bytes by which a change is noticed

The chunks are a STREAM (Hoang, Reyhanitabar, Rogaway, Vizár, 2015): the nonce of each is the file's 7 bytes, its number
and whether it is the last one, so that none can be left out, moved, exchanged with another file's or cut off. The 12
bytes before it give the chunk a key of its own, as XAES-256-GCM does: what grows is written anew at its end, also by
another process after a cut, and no key has a nonce twice. All is bound to the header, the tenant and the digest.
"""

import os
import secrets
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from inferd.store.sealing.data_keys import DataKeys
from inferd.store.sealing.xaes import HEAD_BYTES, TAG_BYTES, Xaes, bound

MAGIC = b"inferd b"
NUMBER_BYTES, PREFIX_BYTES, COUNTER_BYTES = 4, 7, 4
HEADER_BYTES = len(MAGIC) + NUMBER_BYTES + PREFIX_BYTES
CHUNK_BYTES = 64 << 10
MORE_BYTES = HEAD_BYTES + TAG_BYTES  # of a chunk as it is written
MOST_BYTES = CHUNK_BYTES << 8 * COUNTER_BYTES  # of a file: 256 TiB


class Owner(NamedTuple):
    """What a file is bound to."""

    tenant: str
    digest: str


def plain_size(size_bytes: int) -> int:
    """How many bytes a sealed file has, of which so many are on the disk."""
    body = max(0, size_bytes - HEADER_BYTES)
    chunks = -(-body // (CHUNK_BYTES + MORE_BYTES))
    return max(0, body - chunks * MORE_BYTES)


@dataclass(frozen=True, slots=True)
class SealedFile:
    """An open file that is sealed. Used by one thread at a time.

    Attributes:
        file: Its descriptor.
        cipher: Of its key.
        header: With which it begins.
        bound: To what its chunks are.
    """

    file: int
    cipher: Xaes
    header: bytes
    bound: bytes

    @classmethod
    def opened(cls, file: int, keys: DataKeys, owner: Owner) -> "SealedFile":
        """One that is there.

        Raises:
            ShreddedKeyError: The keys of its tenant were dropped.
            ValueError: It is none of this owner.
        """
        header = os.pread(file, HEADER_BYTES, 0)
        if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
            raise ValueError("it is no sealed file")
        number = int.from_bytes(header[len(MAGIC) : len(MAGIC) + NUMBER_BYTES])
        return cls(file, Xaes(keys.get(owner.tenant, number)), header, _bound(header, owner))

    @classmethod
    def begun(cls, file: int, keys: DataKeys, owner: Owner) -> "SealedFile":
        """A new one, in a file that has nothing.

        Raises:
            ValueError: The tenant has no key.
        """
        number = keys.current(owner.tenant, makes=False)
        header = MAGIC + number.to_bytes(NUMBER_BYTES) + secrets.token_bytes(PREFIX_BYTES)
        begun = cls(file, Xaes(keys.get(owner.tenant, number)), header, _bound(header, owner))
        os.ftruncate(file, 0)
        write_all(file, header, 0)
        return begun

    def is_current(self, keys: DataKeys, owner: Owner) -> bool:
        """Whether the newest key of its tenant has sealed it."""
        return self.header[len(MAGIC) : -PREFIX_BYTES] == keys.current(owner.tenant, makes=False).to_bytes(NUMBER_BYTES)

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        return plain_size(os.fstat(self.file).st_size)

    def read(self, start: int, size_bytes: int, *, grows: bool = False) -> bytes:
        """So many bytes from there on, less at the end.

        Args:
            start: Where.
            size_bytes: How many.
            grows: Whether the file grows: then it need not have its end, and what was written last may be torn.

        Raises:
            ValueError: Some are not what was sealed there, or the file is cut off.
        """
        whole, parts = self.size_bytes, []
        if not whole and not grows:
            raise ValueError("it is cut off, and none of its bytes are what was written")
        last = max(0, whole - 1) // CHUNK_BYTES
        end = min(start + size_bytes, whole)
        number = start // CHUNK_BYTES
        while number * CHUNK_BYTES < end:
            begin = number * CHUNK_BYTES
            try:
                chunk = self._chunk(number, last=number == last, grows=grows)
            except ValueError:
                if grows:
                    break
                raise
            parts.append(chunk[max(0, start - begin) : end - begin])
            number += 1
        return b"".join(parts)

    def _chunk(self, number: int, *, last: bool, grows: bool) -> bytes:
        place = HEADER_BYTES + number * (CHUNK_BYTES + MORE_BYTES)
        written = os.pread(self.file, CHUNK_BYTES + MORE_BYTES, place)
        cipher = self.cipher.of(written[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0"))
        for is_last in (last, not last)[: 2 if grows else 1]:
            try:
                return cipher.decrypt(self._nonce(number, last=is_last), written[HEAD_BYTES:], self.bound)
            except InvalidTag:
                continue
        raise ValueError(f"of its bytes from {number * CHUNK_BYTES} on some are not what was written")

    def _nonce(self, number: int, *, last: bool) -> bytes:
        return self.header[-PREFIX_BYTES:] + number.to_bytes(COUNTER_BYTES) + bytes([last])

    def write(self, start: int, data: bytes) -> None:
        """Write more bytes, from there on; what was behind goes.

        Raises:
            ValueError: What is before cannot be read, or is less.
        """
        number, before = divmod(start, CHUNK_BYTES)
        held = self.read(number * CHUNK_BYTES, before, grows=True)
        if len(held) < before:
            raise ValueError(f"of its first {start} bytes some are not what was written")
        held += data
        for at in range(0, len(held), CHUNK_BYTES):
            self._put(number + at // CHUNK_BYTES, held[at : at + CHUNK_BYTES], last=False)
        chunks, rest = divmod(start + len(data), CHUNK_BYTES)
        end = HEADER_BYTES + chunks * (CHUNK_BYTES + MORE_BYTES) + (rest + MORE_BYTES if rest else 0)
        if os.fstat(self.file).st_size > end:
            os.ftruncate(self.file, end)

    def finish(self) -> None:
        """All bytes are there: say so at their end, so that none can be cut off. Again changes nothing that is read.

        Raises:
            ValueError: The last ones cannot be read.
        """
        whole = self.size_bytes
        number = max(0, whole - 1) // CHUNK_BYTES
        data = self.read(number * CHUNK_BYTES, CHUNK_BYTES, grows=True)
        if len(data) < whole - number * CHUNK_BYTES:
            raise ValueError("the last of its bytes are not what was written")
        self._put(number, data, last=True)

    def _put(self, number: int, data: bytes, *, last: bool) -> None:
        head = secrets.token_bytes(HEAD_BYTES)
        sealed = self.cipher.of(head).encrypt(self._nonce(number, last=last), data, self.bound)
        write_all(self.file, head + sealed, HEADER_BYTES + number * (CHUNK_BYTES + MORE_BYTES))


def _bound(header: bytes, owner: Owner) -> bytes:
    return bound(header, owner.tenant.encode(), b"blobs", owner.digest.encode())


def write_all(file: int, data: bytes, start: int) -> None:
    """Write all of it, from there on."""
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, start)
        view, start = view[count:], start + count
