"""The container of a bundle: a tar file, so that people can look into it with any tool.

    manifest.json   what there is, see `manifest`
    manifest.sig    who says so, see `signing`
    files/NAME      each file of the model, or `pieces/NAME`, what of it is not in the base

Both are written and read from the first byte to the last, a piece at a time. The reader takes nothing from the
container but the size of the manifest: what each header must be follows from that and from the manifest, which is
signed, and is compared byte by byte. So no name in a bundle becomes a path, and whatever is changed is noticed.
"""

from __future__ import annotations

from hashlib import sha256
from tarfile import BLOCKSIZE, GNU_FORMAT, NUL, TarInfo
from typing import TYPE_CHECKING, Final

from inferd.cli.bundles.faults import damaged, not_trusted, too_much, unknown
from inferd.cli.bundles.manifest import Manifest, read_manifest
from inferd.cli.bundles.signing import SIGNATURE_BYTES, verify
from inferd.cli.bundles.streams import read_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from inferd.bundle_settings import Bundles
    from inferd.cli.bundles.manifest import BundleFile
    from inferd.cli.bundles.streams import Source, Target

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
END: Final = 2 * BLOCKSIZE  # zeros
SIZE: Final = slice(124, 136)  # of a header: digits in octal


def header(name: str, size_bytes: int) -> bytes:
    """What stands before an entry: the same for the same name and size."""
    entry = TarInfo(name)
    entry.size, entry.mode = size_bytes, 0o644
    return entry.tobuf(GNU_FORMAT)


def padding(size_bytes: int) -> int:
    """How many zeros follow an entry."""
    return -size_bytes % BLOCKSIZE


class BundleWriter:
    """Writes a bundle.

    Args:
        target: Where.
        manifest: Of it.
        signature: Of that.
    """

    def __init__(self, target: Target, manifest: bytes, signature: bytes) -> None:
        self._target = target
        for name, data in ((MANIFEST, manifest), (SIGNATURE, signature)):
            self.add(name, len(data), [data])

    def add(self, name: str, size_bytes: int, pieces: Iterable[bytes]) -> None:
        """The next entry, which has so many bytes."""
        self._target.write(header(name, size_bytes))
        for piece in pieces:
            self._target.write(piece)
        self._target.write(NUL * padding(size_bytes))

    def end(self) -> None:
        """All entries are there."""
        self._target.write(NUL * END)


class BundleReader:
    """Reads a bundle: its manifest at once, when its signature holds; then its files, in their order.

    Args:
        source: Where.
        trusted: Whose signatures are good.
        bounds: How much it may be.

    Attributes:
        signer: Who signed it, by fingerprint.
        manifest: What is in it.
        digest: SHA-256 of the manifest, by which a bundle of changes names it.

    Raises:
        CommandError: It is no bundle, nobody who is trusted has signed it, or it is damaged; says what of it.
    """

    def __init__(self, source: Source, trusted: Sequence[Ed25519PublicKey], bounds: Bundles) -> None:
        self._source = source
        self._at = 0
        data = self._read_first(bounds)
        before = self._at
        signed = self._take(BLOCKSIZE, SIGNATURE)
        if signed != header(SIGNATURE, SIGNATURE_BYTES):
            raise not_trusted(f"the bundle has no signature: at byte {before} there is no {SIGNATURE}", part=SIGNATURE)
        signature = self._take(SIGNATURE_BYTES, SIGNATURE)
        self._zeros(padding(SIGNATURE_BYTES), SIGNATURE)
        self.signer = verify(data, signature, trusted)
        self.manifest: Manifest = read_manifest(data, bounds)
        self.digest = sha256(data).hexdigest()

    def _read_first(self, bounds: Bundles) -> bytes:
        first = read_all(self._source, BLOCKSIZE)
        self._at = len(first)
        if not first.startswith(MANIFEST.encode() + NUL):
            raise unknown(f"the file is no bundle: it does not begin with {MANIFEST}", part=MANIFEST)
        try:
            size = int(first[SIZE].rstrip(NUL + b" "), 8)
        except ValueError:
            size = -1
        if size < 0 or first != header(MANIFEST, size):
            raise damaged(f"the header of {MANIFEST} is not one", part=MANIFEST, offset_bytes=0)
        if size > bounds.manifest_bytes:
            raise too_much("bundles.manifest_bytes", size, bounds.manifest_bytes, "bytes of manifest")
        data = self._take(size, MANIFEST)
        self._zeros(padding(size), MANIFEST)
        return data

    def pieces(self, file: BundleFile) -> Iterator[tuple[int, bytes]]:
        """The next file: the pieces that are there, with their numbers, each checked before it is given.

        Raises:
            CommandError: It is damaged, or ends before.
        """
        piece_bytes, left_out = self.manifest.piece_bytes, file.left_out
        size_bytes = file.given_bytes(piece_bytes)
        if not size_bytes:
            return
        expected, before = header(file.entry, size_bytes), self._at
        if self._take(len(expected), file.entry) != expected:
            raise damaged(
                f"at byte {before} the header of {file.entry} is not one", part=file.entry, offset_bytes=before
            )
        for number, digest in enumerate(file.pieces):
            if number in left_out:
                continue
            before = self._at
            data = self._take(file.piece_size(number, piece_bytes), file.entry)
            if sha256(data).hexdigest() != digest:
                raise damaged(
                    f"{file.entry} is not what was signed, in the {len(data)} bytes from {before} on",
                    part=file.entry,
                    offset_bytes=before,
                )
            yield number, data
        self._zeros(padding(size_bytes), file.entry)

    def end(self) -> None:
        """All files were read: nothing may follow.

        Raises:
            CommandError: Something does, or the end is missing.
        """
        self._zeros(END, "the end")
        if self._source.read(1):
            raise damaged(
                f"something follows behind its end, at byte {self._at}", part="the end", offset_bytes=self._at
            )

    def _zeros(self, count: int, part: str) -> None:
        before = self._at
        if any(self._take(count, part)):
            raise damaged(f"at byte {before}, behind {part}, there is something", part=part, offset_bytes=before)

    def _take(self, size: int, part: str) -> bytes:
        data = read_all(self._source, size)
        self._at += len(data)
        if len(data) < size:
            raise damaged(f"it ends at byte {self._at}, within {part}", part=part, offset_bytes=self._at)
        return data
