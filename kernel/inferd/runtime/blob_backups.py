"""The blobs of a backup: a folder beside its file, each of them as its digest says, and how they come back."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from shutil import rmtree
from typing import TYPE_CHECKING, NamedTuple

import structlog

from inferd.errors import InferdError, InvalidFieldError, StoreUnavailableError
from inferd.runtime.blob_entry import read_left
from inferd.store.blob_files import MARK, PIECE_BYTES, BlobFiles
from inferd.store.store import NO_TENANT, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from inferd.store.store import Store

COPYING = ".copying"  # ends the name of a file that is not all there

log = structlog.get_logger()


class Wanted(NamedTuple):
    """A whole blob."""

    tenant: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Blobbed:
    """What was done about blobs.

    Attributes:
        count: How many are there.
        size_bytes: What they have.
        missing: How many are not, as their files are gone or damaged.
        folder: In which they are; "" for none.
    """

    count: int = 0
    size_bytes: int = 0
    missing: int = 0
    folder: str = ""

    def with_one(self, size_bytes: int | None) -> Blobbed:
        """One more; None for one that is missing."""
        if size_bytes is None:
            return replace(self, missing=self.missing + 1)
        return replace(self, count=self.count + 1, size_bytes=self.size_bytes + size_bytes)


NONE = Blobbed()


def folder_of(backup: Path) -> Path:
    """Where the blobs of a backup are."""
    return backup.with_name(backup.name + ".blobs")


def wanted_of(store: Store) -> tuple[str, list[Wanted]]:
    """The folder of a store's blobs, "" for none, and those that are whole."""
    left = read_left(store)
    return left.folder, [Wanted(e.tenant, e.digest, e.size_bytes) for e in left.entries if e.whole]


def check_folder(backup: Path, *, replaces: bool) -> None:
    """Refuse a backup beside which something else is in the place of its blobs.

    Raises:
        InvalidFieldError: It is.
    """
    folder = folder_of(backup)
    if not os.path.lexists(folder):
        return
    ours = (folder / MARK).is_file() and not folder.is_symlink()
    if ours and (replaces or not os.path.lexists(backup)):  # else it is of that one
        return
    raise InvalidFieldError(
        f"path is {str(backup)!r}, its blobs would be in {folder}, and that is there already; name another file, or"
        " remove it",
        field="path",
    )


def copied(wanted: Sequence[Wanted], source: BlobFiles, backup: Path) -> Iterator[Blobbed]:
    """Copy blobs beside a backup, and tell after each how far that is; what else is in their folder goes.

    Raises:
        StoreUnavailableError: They cannot be written.
    """
    done, target = NONE, BlobFiles(folder_of(backup), keys=source.keys)
    fresh = not target.folder.exists()
    try:
        if wanted:
            target.make()
            done = replace(done, folder=str(target.folder))
        yield from _copied(wanted, source, target, done)
    except BaseException:
        if fresh:
            rmtree(target.folder, ignore_errors=True)
        raise


def _copied(wanted: Sequence[Wanted], source: BlobFiles, target: BlobFiles, done: Blobbed) -> Iterator[Blobbed]:
    for blob in wanted:
        whole = target.is_whole(*blob) or _copy(source, target, blob)
        if not whole:
            log.error("a blob is damaged or missing, and is not in the backup", digest=blob.digest, tenant=blob.tenant)
        done = done.with_one(blob.size_bytes if whole else None)
        yield done
    if target.folder.is_dir():
        names = {target.name_of(target.path(blob.tenant, blob.digest)) for blob in wanted}
        for some in target.found(1000):
            target.remove(path for path in some if target.name_of(path) not in names)


def taken_back(store: Store, backup: Path, root: Path) -> Blobbed:
    """Give a restored store a new folder with its blobs: of those that are still there, or of those of the backup.

    The former become the same files where that can be; the latter are copied, lest what damages one damages the backup.
    No other store has the new folder, so what one sweeps is never another one's.

    Raises:
        StoreUnavailableError: They cannot be written.
    """
    _, wanted = wanted_of(store)
    target = BlobFiles(root / uuid.uuid4().hex, keys=store.keys)
    store.write([Put(NO_TENANT, Kind.FOLDER, "blobs", target.folder.name.encode())])
    done = Blobbed(folder=str(target.folder))
    try:
        target.make()
        others, beside = _others(target), BlobFiles(folder_of(backup), keys=store.keys)
        for blob in wanted:
            whole = any(_take(each, target, blob) for each in others) or _copy(beside, target, blob)
            done = done.with_one(blob.size_bytes if whole else None)
    except BaseException:
        give_up(done)
        raise
    return done


def give_up(done: Blobbed) -> None:
    """Remove the folder of a store that did not come to be."""
    if done.folder:
        rmtree(done.folder, ignore_errors=True)


def looked_at(store: Store, backup: Path) -> Blobbed:
    """What is beside a backup, alone: what a store of this host has is none of it."""
    done, beside = Blobbed(), BlobFiles(folder_of(backup), keys=store.keys)
    for blob in wanted_of(store)[1]:
        whole = beside.is_whole(*blob)
        done = done.with_one(blob.size_bytes if whole else None)
    return done


def _others(target: BlobFiles) -> Iterable[BlobFiles]:
    root = target.folder.parent
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [BlobFiles(each, keys=target.keys) for each in found if each != target.folder]


def _take(source: BlobFiles, target: BlobFiles, blob: Wanted) -> bool:
    """Have a blob in another folder, the same file where that can be; whether it is whole."""
    if not source.is_whole(*blob):
        return False
    found = source.path(blob.tenant, blob.digest)
    path = target.place_like(found)
    _make_folders(path)
    try:
        path.hardlink_to(found)
    except OSError:
        return _copy(source, target, blob)
    return True


def _copy(source: BlobFiles, target: BlobFiles, blob: Wanted) -> bool:
    """Copy a blob onto the disk, sealed as it is; whether it was whole, else nothing is there."""
    if not source.is_whole(*blob):
        return False
    found = source.path(blob.tenant, blob.digest)
    path = target.place_like(found)
    growing = path.with_name(path.name + COPYING)
    try:
        _make_folders(path)
        descriptor = os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file, found.open("rb") as given:
            while data := given.read(PIECE_BYTES):
                file.write(data)
            file.flush()
            os.fsync(descriptor)
        growing.rename(path)
    except FileNotFoundError:
        growing.unlink(missing_ok=True)
        return False
    except OSError as error:
        with suppress(OSError):
            growing.unlink(missing_ok=True)
        raise _failed(path, error) from None
    if not target.is_whole(*blob):
        path.unlink()
        return False
    return True


def _make_folders(path: Path) -> None:
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(exist_ok=True, mode=0o700)


def _failed(path: Path, error: OSError) -> InferdError:
    return StoreUnavailableError(
        f"the blob {path} cannot be copied: {error.strerror}", metadata={"cause": str(error.strerror)}
    )
