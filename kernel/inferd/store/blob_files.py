"""The files of blobs: each tenant's by digest, whole or growing, in a folder that belongs to one store.

A file grows under another name beside its own, and gets its own when all of it is on the disk: so what is there under a
digest is whole. Tenants share nothing, so that nobody learns what another one has. Names of clients never become paths.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC, EROFS
from hashlib import sha256
from itertools import islice
from pathlib import Path
from shutil import rmtree

from inferd.errors import BlobDamagedError, StoreUnavailableError
from inferd.store.opening import AtPoint, unnoticed

PIECE_BYTES = 1 << 20  # of a file that is checked as one
SUM_BYTES = 32
TAKEN_UP_BYTES = 16 << 20  # of what is there, in one go
PARTIAL = ".part"
MODELS = "models"  # the folder in which those of models are
MARK = "inferd-blobs"  # a file that tells the folder from an empty one, as where its disk is not mounted
CAUSES = {
    ENOSPC: "its disk is full; make room",
    EDQUOT: "its disk is full for this user; make room",
    EROFS: "its disk is read-only; let this user write it",
}


class BlobFiles:
    """Reads and writes the files. Used by one thread at a time, which may be another one each time.

    Every method raises StoreUnavailableError when the folder cannot be written or read now.

    Args:
        folder: Where they are.
        at_point: Told where a write is, for tests.
    """

    def __init__(self, folder: Path, at_point: AtPoint = unnoticed) -> None:
        self.folder = folder
        self.at_point = at_point

    def make(self) -> None:
        """Make the folder, if it is not there: it may be new.

        Raises:
            StoreUnavailableError: It cannot be made.
        """
        with self._typed(makes=True):
            self.folder.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder):
                folder.mkdir(exist_ok=True, mode=0o700)
            (self.folder / MARK).touch(mode=0o600)

    def path(self, tenant: str, digest: str) -> Path:
        """Where the blob is when it is whole."""
        return self.folder / sha256(tenant.encode()).hexdigest()[:32] / digest[:2] / digest

    def partial(self, tenant: str, digest: str) -> Path:
        """Where it grows."""
        return self.path(tenant, digest).with_suffix(PARTIAL)

    def name(self, tenant: str, digest: str) -> str:
        """What both files of a blob have in common; see `name_of`."""
        return self.name_of(self.path(tenant, digest))

    @staticmethod
    def name_of(path: Path) -> str:
        """Of which blob a file is; of none that there can be where the file is no file of a blob."""
        return f"{path.parent.parent.name}/{path.stem if path.suffix == PARTIAL else path.name}"

    def sizes(self, paths: Iterable[Path]) -> list[int | None]:
        """How many bytes each file has; None for no file."""
        found: list[int | None] = []
        with self._typed():
            for path in paths:
                try:
                    found.append(path.stat(follow_symlinks=False).st_size)
                except FileNotFoundError:
                    found.append(None)
        return found

    def write(self, path: Path, start: int, data: bytes) -> None:
        """Write some bytes of a file that grows; make it where there is none."""
        with self._typed():
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(exist_ok=True, mode=0o700)  # parents that `mkdir` makes beside have the usual mode
            with _opened(path, os.O_WRONLY | os.O_CREAT) as file:
                view = memoryview(data)
                while view:
                    count = os.pwrite(file, view, start)
                    view, start = view[count:], start + count
        self.at_point("written")

    def read(self, path: Path, start: int, size_bytes: int) -> bytes:
        """So many bytes from there on, less at the end of the file.

        Raises:
            FileNotFoundError: There is none.
        """
        with self._typed(lost=FileNotFoundError), _opened(path, os.O_RDONLY) as file:
            return os.pread(file, size_bytes, start)

    def read_piece(self, tenant: str, digest: str, number: int, size_bytes: int, wanted: bytes) -> bytes:
        """A piece of a whole blob, which is what was written.

        Args:
            tenant: Whose.
            digest: Which.
            number: Of the piece.
            size_bytes: How many bytes it has.
            wanted: Its SHA-256.

        Raises:
            BlobDamagedError: It is not, or its file is gone.
        """
        try:
            data = self.read(self.path(tenant, digest), number * PIECE_BYTES, size_bytes)
        except FileNotFoundError:
            raise _damaged(digest, "its file is missing") from None
        if sha256(data).digest() != wanted:
            why = f"of bytes {number * PIECE_BYTES} to {number * PIECE_BYTES + size_bytes} "
            why += f"{len(data)} are there" if len(data) < size_bytes else "some are not what was written"
            raise _damaged(digest, why)
        return data

    def settle(self, tenant: str, digest: str) -> None:
        """What grew is whole: give it its own name, once it is on the disk. Again changes nothing."""
        partial, path = self.partial(tenant, digest), self.path(tenant, digest)
        with self._typed():
            if partial.exists():
                _sync(partial)
                self.at_point("synced")
                partial.rename(path)
                self.at_point("renamed")
            for folder in (path.parent, path.parent.parent, self.folder):
                _sync(folder)

    def unsettle(self, tenant: str, digest: str) -> None:
        """What has its own name and is not known as whole grows again."""
        partial, path = self.partial(tenant, digest), self.path(tenant, digest)
        with self._typed():
            if path.exists() and not partial.exists():
                path.rename(partial)

    def remove(self, paths: Iterable[Path]) -> None:
        """Let files go, those that there are."""
        with self._typed():
            for path in paths:
                path.unlink(missing_ok=True)

    def found(self, count: int) -> Iterator[list[Path]]:
        """The files that there are, so many at a time; no more is read than is taken."""
        with self._typed():
            paths = (path for path in self.folder.glob("*/*/*") if not path.is_dir())
            while some := list(islice(paths, count)):
                yield some

    def model_folder(self, name: str) -> Path:
        """Where the files of a model are whose list has such files, see `name`."""
        return self.folder / MODELS / name

    def link(self, name: str, files: Mapping[str, Path]) -> None:
        """Let a model's folder have these files, under their names there, and nothing else.

        Raises:
            BlobDamagedError: One is missing.
        """
        folder = self.model_folder(name)
        with self._typed():
            for each in (folder.parent.parent, folder.parent, folder):
                each.mkdir(exist_ok=True, mode=0o700)
            for path in folder.iterdir():
                if path.name not in files or not path.samefile(files[path.name]):
                    path.unlink()
            for label, path in files.items():
                try:
                    (folder / label).hardlink_to(path)
                except FileExistsError:
                    continue  # it is that
                except FileNotFoundError:
                    raise _damaged(path.name, "its file is missing") from None

    def unlink(self, name: str) -> None:
        """Remove a model's folder."""
        rmtree(self.model_folder(name), ignore_errors=True)

    def unlink_others(self, names: frozenset[str]) -> None:
        """Remove the folders of all models but these."""
        with self._typed():
            for folder in self.folder.glob(f"{MODELS}/*/*"):
                if f"{folder.parent.name}/{folder.name}" not in names:
                    rmtree(folder, ignore_errors=True)

    @contextmanager
    def _typed(self, *, lost: type[OSError] | tuple[()] = (), makes: bool = False) -> Iterator[None]:
        try:
            if not makes and not (self.folder / MARK).exists():
                raise StoreUnavailableError(
                    f"the blobs in {self.folder} are not there, and the store knows some; mount their disk or bring"
                    f" the folder back; or, where they are lost, make it with an empty file {MARK} in it",
                    metadata={"cause": "no folder"},
                    retry_after_s=1.0,
                )
            yield
        except lost:
            raise
        except OSError as error:
            cause = CAUSES.get(error.errno or 0, error.strerror or str(error))
            raise StoreUnavailableError(
                f"the blobs in {self.folder}: {cause}",
                metadata={"cause": error.strerror or str(error)},
                retry_after_s=1.0,
            ) from None


class Arrival:
    """A blob of which bytes come: how many there are, and their digests. Used by one thread at a time.

    Attributes:
        received_bytes: How many are there and digested.
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

    def take_up(self, most_bytes: int) -> bool:
        """Digest some more of what is there already; false when that is all of it.

        A file of more than `most_bytes` is none that was written here: it begins anew.
        """
        if not self.received_bytes:
            self._files.unsettle(self._tenant, self._digest)
            (size_bytes,) = self._files.sizes([self._path])
            if size_bytes is not None and size_bytes > most_bytes:
                self._files.remove([self._path])
                return False
        try:
            data = self._files.read(self._path, self.received_bytes, TAKEN_UP_BYTES)
        except FileNotFoundError:
            return False
        self._note(data)
        return bool(data)

    def add(self, data: bytes) -> None:
        """The next bytes have come."""
        self._files.write(self._path, self.received_bytes, data)
        self._note(data)

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
        self._files.settle(self._tenant, self._digest)
        return [*self._sums, self._piece.digest()] if self.received_bytes % PIECE_BYTES else [*self._sums]


def _damaged(digest: str, why: str) -> BlobDamagedError:
    return BlobDamagedError(
        f"blob sha256:{digest} is damaged: {why}; delete it, and give it again",
        metadata={"digest": f"sha256:{digest}", "cause": why},
    )


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    with _opened(path, os.O_RDONLY) as file:
        os.fsync(file)
