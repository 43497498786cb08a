"""The files of blobs: each tenant's by digest, whole or growing, in a folder that belongs to one store.

A file grows under another name beside its own (`blob_parts`), and gets that when all of it is on the disk: so what is
there under a digest is whole. Tenants share nothing, so that nobody learns what another one has. Names of clients never
become paths.

Files are sealed (`sealed_file`) where the store is, and their names then say nothing of what is in them: they end with
`-s`, behind a keyed digest of tenant and digest. Those of before are sealed when the store is opened.
"""

import hmac
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOENT, ENOSPC, EROFS
from hashlib import sha256
from itertools import islice
from pathlib import Path
from secrets import token_hex

from inferd.errors import BlobDamagedError, StoreUnavailableError
from inferd.store.blob_asides import find_again, name_before, put_back, set_aside
from inferd.store.blob_errors import PARTIAL, SEALED, SEALING, damaged, is_sealed
from inferd.store.blob_parts import AGAIN, own_part, parts_of, take, writing
from inferd.store.file_work import opened_file, put_in_place, put_in_place_of, sync_file
from inferd.store.opened_models import OpenedModels
from inferd.store.opening import AtPoint, unnoticed
from inferd.store.sealing.data_keys import NAMES, DataKeys
from inferd.store.sealing.sealed_file import HEADER_BYTES, Owner, SealedFile, plain_size, write_all
from inferd.store.sealing.xaes import bound
from inferd.store.store import NO_TENANT

PIECE_BYTES = 1 << 20  # of a file that is checked as one
SUM_BYTES = 32
ALL_SEALED = "inferd-sealed"  # a file that says so of all files
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
        keys: Of the store that knows them; None where nothing is sealed.
        opened: In which folder models are opened; None for in this one.

    Attributes:
        seals: Whether files that are begun are sealed.
        models: Those that are made of them, where workers find them.
    """

    def __init__(
        self,
        folder: Path,
        at_point: AtPoint = unnoticed,
        *,
        keys: DataKeys | None = None,
        opened: Path | None = None,
    ) -> None:
        self.folder = folder
        self.at_point = at_point
        self.keys = keys
        self.seals = keys is not None and keys.seals
        self._mark = token_hex(16)
        self.models = OpenedModels(self, folder / MODELS, opened if self.seals else None)

    def make(self) -> None:
        """Make the folder, if it is not there: it may be new.

        Raises:
            StoreUnavailableError: It cannot be made.
        """
        with self.typed(makes=True):
            self.folder.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder):
                folder.mkdir(exist_ok=True, mode=0o700)
            (self.folder / MARK).touch(mode=0o600)

    def path(self, tenant: str, digest: str) -> Path:
        """Where the blob is when it is whole."""
        return self._one_of(self._paths(tenant, digest))

    def partial(self, tenant: str, digest: str) -> Path:
        """Where this kernel writes it as it grows."""
        paths = [own_part(path, self._mark) for path in self._paths(tenant, digest)]
        return self._one_of(paths)

    def all_of(self, tenant: str, digest: str) -> list[Path]:
        """All files that may be of the blob, or that are parts of it."""
        return [each for path in self._paths(tenant, digest) for each in (path, *parts_of(path))]

    def each_of(self, keys: Iterable[tuple[str, str]]) -> Iterator[Path]:
        """All files of blobs, by tenant and digest; they are looked for as they are taken."""
        return (path for key in keys for path in self.all_of(*key))

    def _one_of(self, paths: list[Path]) -> Path:
        """Its file that is there, sealed or not; else where it is to be."""
        return next((path for path in paths if path.exists()), paths[0 if self.seals else -1])

    def _paths(self, tenant: str, digest: str) -> list[Path]:
        """Where a whole blob may be: sealed, if the store has a key for names, and as it is."""
        folder = self.folder / sha256(tenant.encode()).hexdigest()[:32]
        paths = [folder / digest[:2] / digest]
        if self.keys is not None and (number := self.keys.current(NO_TENANT, NAMES, makes=False)):
            key = self.keys.get(NO_TENANT, number)
            name = hmac.digest(key, bound(b"blob", tenant.encode(), digest.encode()), "sha256").hex() + SEALED
            paths.insert(0, folder / name[:2] / name)
        return paths

    def place_like(self, other: Path) -> Path:
        """Where the file of a blob is here that is there in another folder."""
        return self.folder.joinpath(*other.parts[-3:])

    def names(self, tenant: str, digest: str) -> list[str]:
        """What the files of a blob may have in common; see `name_of`."""
        return [self.name_of(path) for path in self._paths(tenant, digest)]

    def name(self, tenant: str, digest: str) -> str:
        """A name that no other blob has."""
        return self.names(tenant, digest)[-1]

    @staticmethod
    def name_of(path: Path) -> str:
        """Of which blob a file is; of none that there can be where the file is no file of a blob."""
        name = name_before(path)
        return f"{path.parent.parent.name}/{name if name.endswith(SEALING) else name.partition('.')[0]}"

    def sizes(self, paths: Iterable[Path]) -> list[int | None]:
        """How many bytes each file has; None for no file."""
        found: list[int | None] = []
        with self.typed():
            for path in paths:
                try:
                    size_bytes = path.stat(follow_symlinks=False).st_size
                    found.append(plain_size(size_bytes) if is_sealed(path) else size_bytes)
                except FileNotFoundError:
                    found.append(None)
        return found

    def part_sizes(self, keys: Iterable[tuple[str, str]]) -> list[int | None]:
        """How many bytes have come of each blob that grows, by tenant and digest; None for no file."""
        return self.sizes(self._part(*key) for key in keys)

    def _part(self, tenant: str, digest: str) -> Path:
        own = self.partial(tenant, digest)
        parts = [path for path in self.all_of(tenant, digest) if path.suffix == PARTIAL]
        return own if own.exists() or not parts else parts[0]

    def write(self, path: Path, start: int, data: bytes, owner: Owner) -> None:
        """Write some bytes of a file that grows, and is this blob's and this kernel's; the first ones make it.

        Raises:
            FileNotFoundError: It is not there, or another kernel's now.
        """
        with self.typed(lost=FileNotFoundError):
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(exist_ok=True, mode=0o700)  # parents that `mkdir` makes beside have the usual mode
            with writing(path, begins=not start) as file:
                if is_sealed(path):
                    self._grow(file, owner, start, data)
                else:
                    write_all(file, data, start)
        self.at_point("written")

    def _grow(self, file: int, owner: Owner, start: int, data: bytes) -> None:
        sealed = self._sealed(file, owner, begins=start == 0)
        try:
            sealed.write(start, data)
        except ValueError as error:
            raise damaged(owner.digest, str(error)) from None

    def _sealed(self, file: int, owner: Owner, *, begins: bool = False) -> SealedFile:
        """A file that is sealed.

        Raises:
            BlobDamagedError: It is none, or the keys of its tenant were dropped.
        """
        if self.keys is None:
            raise damaged(owner.digest, "it is sealed, and the store has no keys")
        try:
            return (SealedFile.begun if begins else SealedFile.opened)(file, self.keys, owner)
        except ValueError as error:
            raise damaged(owner.digest, str(error)) from None

    def read(self, path: Path, start: int, size_bytes: int, owner: Owner) -> bytes:
        """So many bytes from there on, less at the end of the file, which is this blob's.

        Raises:
            FileNotFoundError: There is none.
            BlobDamagedError: It is sealed, and not what was sealed.
        """
        with self.typed(lost=FileNotFoundError), opened_file(path, os.O_RDONLY) as file:
            if not is_sealed(path):
                return os.pread(file, size_bytes, start)
            grows = path.suffix == PARTIAL
            if grows and os.fstat(file).st_size <= HEADER_BYTES:
                return b""  # it was cut off when it began
            try:
                return self._sealed(file, owner).read(start, size_bytes, grows=grows)
            except ValueError as error:
                raise damaged(owner.digest, str(error)) from None

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
        path = self.path(tenant, digest)
        try:
            data = self.read(path, number * PIECE_BYTES, size_bytes, Owner(tenant, digest))
        except FileNotFoundError:
            if not self.find_again([path]):
                raise damaged(digest, "its file is missing") from None
            return self.read_piece(tenant, digest, number, size_bytes, wanted)
        if sha256(data).digest() != wanted:
            why = f"of bytes {number * PIECE_BYTES} to {number * PIECE_BYTES + size_bytes} "
            why += f"{len(data)} are there" if len(data) < size_bytes else "some are not what was written"
            raise damaged(digest, why)
        return data

    def is_whole(self, tenant: str, digest: str, size_bytes: int) -> bool:
        """Whether all bytes of a blob are there, and what they should be."""
        path, found, at = self.path(tenant, digest), sha256(), 0
        if not (self.folder / MARK).exists() or not self.find_again([path]):
            return False
        try:
            while data := self.read(path, at, PIECE_BYTES, Owner(tenant, digest)):
                found.update(data)
                at += len(data)
        except (FileNotFoundError, BlobDamagedError):
            return False
        return at == size_bytes and found.hexdigest() == digest

    def settle(self, tenant: str, digest: str) -> None:
        """What grew is whole: give it its own name, once it is on the disk. Again changes nothing.

        What others have of it goes: whoever should go on with that finds all of it.

        Raises:
            FileNotFoundError: It is not there, or another kernel's now.
        """
        partial, path = self.partial(tenant, digest), self.path(tenant, digest)
        with self.typed(lost=FileNotFoundError):
            if partial.exists():
                path = partial.with_name(partial.name.partition(".")[0])  # sealed as it is, or not
                with writing(partial) as file:
                    if is_sealed(partial):
                        self._finish(file, Owner(tenant, digest))
                sync_file(partial)
                self.at_point("synced")
                partial.rename(path)
                self.at_point("renamed")
            elif not path.exists():
                raise FileNotFoundError(ENOENT, AGAIN, str(path))
            for folder in (path.parent, path.parent.parent, self.folder):
                sync_file(folder)
            self.remove(parts_of(path))

    def _finish(self, file: int, owner: Owner) -> None:
        try:
            self._sealed(file, owner).finish()
        except ValueError as error:
            raise damaged(owner.digest, str(error)) from None

    def take(self, tenant: str, digest: str) -> Path:
        """Have what there is of a blob that is not known as whole grow, written by this kernel alone; where."""
        with self.typed():
            take(self._paths(tenant, digest), self._mark)
        return self.partial(tenant, digest)

    def remove(self, paths: Iterable[Path]) -> None:
        """Let files go, those that there are."""
        with self.typed():
            for path in paths:
                path.unlink(missing_ok=True)

    def set_aside(self, paths: Iterable[Path]) -> list[Path]:
        """Give files, those that there are, names by which only this kernel knows them; those."""
        with self.typed():
            return set_aside(paths, self._mark)

    def put_back(self, aside: Iterable[Path]) -> None:
        """Give files the names that they had before `set_aside`, but where there are others now."""
        with self.typed():
            put_back(aside)

    def find_again(self, paths: Iterable[Path]) -> list[Path]:
        """Those of these files that are there, also by names that a kernel gave them which leads no more."""
        with self.typed():
            return [path for path in paths if find_again(path.with_name(name_before(path)))]

    def found(self, count: int, folder: str = "*") -> Iterator[list[Path]]:
        """The files in a tenant's folder, or in all, so many at a time; no more is read than is taken."""
        with self.typed():
            paths = (path for path in self.folder.glob(f"{folder}/*/*") if not path.is_dir())
            while some := list(islice(paths, count)):
                yield some

    @contextmanager
    def typed(self, *, lost: type[OSError] | tuple[()] = (), makes: bool = False) -> Iterator[None]:
        """Say as StoreUnavailableError what the system refuses in the block, but what is `lost`.

        Raises:
            StoreUnavailableError: It refuses something, or the folder is not there.
        """
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

    # What was not sealed before.

    @property
    def all_sealed(self) -> bool:
        """Whether there is nothing more to seal."""
        return not self.seals or (self.folder / ALL_SEALED).exists()

    def note_sealed(self) -> None:
        """All is sealed, or need not be."""
        with self.typed():
            if self.seals:
                (self.folder / ALL_SEALED).touch(mode=0o600)
            else:
                (self.folder / ALL_SEALED).unlink(missing_ok=True)

    def seal(self, tenant: str, digest: str) -> bool:
        """Seal a blob that is not, whole or growing, in another file, which takes its place; whether there was one.

        Whatever cuts this off, what is there is whole, and it may be done again.
        """
        sealed, *others = self._paths(tenant, digest)
        if not self.seals or not others:
            return False
        done = False
        with self.typed():
            for plain in (others[0], *parts_of(others[0])):
                if not plain.exists():
                    continue
                ending = plain.name.removeprefix(others[0].name)
                path = sealed.with_name(sealed.name + ending)
                self._seal_one(plain, path, Owner(tenant, digest), whole=not ending)
                plain.unlink()
                done = True
        return done

    def _seal_one(self, plain: Path, path: Path, owner: Owner, *, whole: bool) -> None:
        growing, at = self._growing(path), 0
        growing.parent.mkdir(exist_ok=True, mode=0o700)
        with (
            opened_file(growing, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file,
            opened_file(plain, os.O_RDONLY) as given,
        ):
            sealed = self._sealed(file, owner, begins=True)
            while data := os.pread(given, PIECE_BYTES, at):
                sealed.write(at, data)
                at += len(data)
            if whole:
                sealed.finish()
        put_in_place(growing, path)

    def _growing(self, path: Path) -> Path:
        """Where this kernel seals it: others that do the same, as they were stopped meanwhile, do not reach it."""
        return path.with_name(f"{path.name}.{self._mark}{SEALING}")

    def resealing(self, tenant: str, digest: str, *, whole: bool) -> Generator[Path]:
        """Seal what older keys of the tenant have sealed of a blob in another file, which takes its place.

        Tells that file before each step. What cuts this off leaves what is there whole, and the other file is removed.

        Raises:
            BlobDamagedError: It cannot be read; it stays as it is.
        """
        path = self.path(tenant, digest)
        if not (self.find_again([path]) if whole else path.exists()):
            path = self.take(tenant, digest)  # so that no other kernel writes it meanwhile
        if not self.seals or not is_sealed(path):
            return
        growing = self._growing(path)
        yield growing
        with self.typed():
            try:
                yield from self._reseal(path, growing, Owner(tenant, digest))
            finally:
                growing.unlink(missing_ok=True)

    def _reseal(self, path: Path, growing: Path, owner: Owner) -> Iterator[Path]:
        grows, at = path.suffix == PARTIAL, 0
        if not path.exists() or (grows and path.stat().st_size <= HEADER_BYTES):
            return
        with opened_file(path, os.O_RDONLY) as given:
            old = self._sealed(given, owner)
            if self.keys is None or old.is_current(self.keys, owner):
                return
            with opened_file(growing, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
                new = self._sealed(file, owner, begins=True)
                try:
                    while data := old.read(at, PIECE_BYTES, grows=grows):
                        new.write(at, data)
                        at += len(data)
                        yield growing
                    if not grows:
                        new.finish()
                except ValueError as error:
                    raise damaged(owner.digest, str(error)) from None
            yield growing  # last before it takes the place
            self.at_point("resealed")
            put_in_place_of(given, growing, path)  # else a kernel that follows has sealed it, by keys that are newer
