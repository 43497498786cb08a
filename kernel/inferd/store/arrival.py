"""A blob on its way in: how many of its bytes are there, and their digests."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from inferd.errors import StoreUnavailableError
from inferd.store.blob_files import PIECE_BYTES, BlobFiles
from inferd.store.blob_parts import AGAIN
from inferd.store.sealing.sealed_file import Owner

TAKEN_UP_BYTES = 16 << 20  # of what is there, in one go


class Arrival:
    """A blob of which bytes come: how many there are, and their digests. Used by one thread at a time.

    Attributes:
        received_bytes: How many are there and digested.
        gone: Whether they are not there any more: then another one is to begin.
    """

    def __init__(self, files: BlobFiles, tenant: str, digest: str) -> None:
        self._files = files
        self._tenant = tenant
        self._digest = digest
        self._path = files.partial(tenant, digest)
        self._whole = sha256()
        self._piece = sha256()
        self._sums: list[bytes] = []
        self.received_bytes = 0
        self.gone = False

    def take_up(self, most_bytes: int) -> bool:
        """Digest some more of what is there already; false when that is all of it.

        A file of more than `most_bytes` is none that was written here: it begins anew, as one does that has nothing.
        """
        if not self.received_bytes:
            self._path = self._files.take(self._tenant, self._digest)
            (size_bytes,) = self._files.sizes([self._path])
            if size_bytes is not None and size_bytes > most_bytes:
                self._files.remove([self._path])
                return False
        try:
            data = self._files.read(self._path, self.received_bytes, TAKEN_UP_BYTES, Owner(self._tenant, self._digest))
        except FileNotFoundError:
            return False
        self._note(data)
        if not self.received_bytes:
            self._files.remove([self._path])
        return bool(data)

    def add(self, data: bytes) -> None:
        """The next bytes have come."""
        with self._noticing():
            self._files.write(self._path, self.received_bytes, data, Owner(self._tenant, self._digest))
        self._note(data)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self.gone = True
            raise StoreUnavailableError(
                f"what came of blob sha256:{self._digest} is gone, or another kernel has it; give it again, as what is"
                " there is looked for anew",
                metadata={"cause": AGAIN},
                retry_after_s=1.0,
            ) from None

    def _note(self, data: bytes) -> None:
        self._whole.update(data)
        view = memoryview(data)
        while view:
            room = PIECE_BYTES - self.received_bytes % PIECE_BYTES
            part, view = view[:room], view[room:]
            self._piece.update(part)
            self.received_bytes += len(part)
            if len(part) == room:
                self._sums.append(self._piece.digest())
                self._piece = sha256()

    def received(self) -> int:
        """How many bytes are there; behind what was to be done before."""
        return self.received_bytes

    @property
    def digest(self) -> str:
        """Of what has come."""
        return self._whole.hexdigest()

    def finish(self) -> list[bytes]:
        """All has come, and is what was announced: the blob is whole. The SHA-256 of each of its pieces."""
        with self._noticing():
            self._files.settle(self._tenant, self._digest)
        return [*self._sums, self._piece.digest()] if self.received_bytes % PIECE_BYTES else [*self._sums]
