"""Files of models that a kernel has given to this host: by what is in them, as many as there is room for."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.errors import DiskFullError, ModelLoadError
from inferd.removing import remove_tree
from inferd.runtime.far.folders import folder_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME_FORM: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}")
WHOLE: Final = ".whole"  # beside the files of a model all of which are there, as they have to be
MOST_FILES: Final = 10_000
MOST_VERSIONS: Final = 16  # of one model, by which kernels call it
VERSION: Final = re.compile(r"[0-9a-f]{1,64}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of a model.

    Attributes:
        name: Without a folder.
        sha256: Of all its bytes, in hexadecimal.
        size_bytes: How many it has.
        piece_bytes: How many a piece has.
        pieces: SHA-256 of each piece.
    """

    name: str
    sha256: str
    size_bytes: int
    piece_bytes: int
    pieces: tuple[bytes, ...]

    def size_of(self, number: int) -> int:
        """How many bytes a piece has."""
        return min(self.piece_bytes, self.size_bytes - number * self.piece_bytes)


def check_files(files: Sequence[CachedFile]) -> None:
    """Refuse what cannot be the files of a model.

    Raises:
        ModelLoadError: It cannot: a name is a path or is there twice, or sizes and pieces do not belong together.
    """
    names = [file.name for file in files]
    if not 1 <= len(files) <= MOST_FILES or len({name.lower() for name in names}) < len(names):
        raise _strange(f"{len(files)} files, of which some have one name, or none")
    for file in files:
        count = -(-file.size_bytes // file.piece_bytes) if file.piece_bytes else -1
        if not NAME_FORM.fullmatch(file.name) or not DIGEST.fullmatch(file.sha256) or count != len(file.pieces):
            raise _strange(f"a file {file.name[:80]!r} of {file.size_bytes} bytes in {len(file.pieces)} pieces")


def _strange(what: str) -> ModelLoadError:
    cause = f"the kernel tells of {what}"
    return ModelLoadError(f"the files of the model cannot be fetched: {cause}", metadata={"cause": cause})


class Cache:
    """One folder. Blocking, but for `use` and `leave`. One writer: this process, on a thread at a time.

    Args:
        folder: Where the models are, each in a folder that is named by what is in it.
        most_bytes: Most that they may take together.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._used = Counter[Path]()

    def place(self, files: Iterable[CachedFile]) -> Path:
        """Where a model of these files is, or is to be."""
        return self.folder / folder_of((file.name, file.sha256) for file in files)

    def use(self, place: Path) -> None:
        """Somebody needs a model: it stays until he leaves it."""
        self._used[place] += 1

    def leave(self, place: Path) -> None:
        """Somebody needs it no longer."""
        self._used[place] -= 1
        if self._used[place] <= 0:
            del self._used[place]

    def is_whole(self, place: Path) -> bool:
        """Whether all of a model is there; then it was used now."""
        mark = place / WHOLE
        if not mark.is_file():
            return False
        os.utime(mark)
        return True

    def note(self, place: Path, version: str) -> None:
        """A kernel calls the files of a model that is there whole so."""
        mark = place / WHOLE
        known = mark.read_text("ascii", "replace").split()
        if version not in known:
            mark.write_text("\n".join((version, *known[: MOST_VERSIONS - 1])), "ascii")

    def versions(self, most: int) -> list[str]:
        """What kernels call the models that are there whole, those first that were used last; so many at most."""
        marks = [each / WHOLE for each in self.folder.iterdir()] if self.folder.is_dir() else []
        found = dict[str, None]()
        for mark in sorted(marks, key=lambda each: -_used_at(each.parent)):
            if len(found) >= most:
                break
            if mark.is_file():
                found |= dict.fromkeys(filter(VERSION.fullmatch, mark.read_text("ascii", "replace").split()))
        return [*found][:most]

    def make_room(self, place: Path, files: Sequence[CachedFile]) -> None:
        """Have room for a model: others go that nobody uses, the one first that was not used for longest.

        Raises:
            DiskFullError: There is none, on the disk or as the bound says.
        """
        place.mkdir(parents=True, exist_ok=True)
        needed = sum(file.size_bytes for file in files)
        others = sorted((_used_at(each), each) for each in self.folder.iterdir() if each != place)
        held = sum(_size_of(each) for _, each in others)
        missing = needed - _size_of(place)
        for _, other in others:
            if held + needed <= self._most_bytes and missing <= shutil.disk_usage(place).free:
                return
            if not self._used[other]:
                held -= _size_of(other)
                remove_tree(other)
        free = shutil.disk_usage(place).free
        if held + needed > self._most_bytes or missing > free:
            raise DiskFullError(
                f"the model's files have {needed} bytes; this host keeps {self._most_bytes} of such at most "
                f"(hosts.cache_bytes of its configuration), {held} of others are in use, and its disk has {free} free",
                metadata={"needed_bytes": str(needed), "free_bytes": str(min(free, self._most_bytes - held))},
            )

    def had(self, place: Path, file: CachedFile, known: set[tuple[str, int]]) -> None:
        """Look which pieces of a file are there as they have to be; they come to those that are `known`."""
        path = place / file.name
        if not path.is_file():
            return
        with path.open("rb") as opened:
            for number, wanted in enumerate(file.pieces):
                if (file.name, number) not in known:
                    opened.seek(number * file.piece_bytes)
                    if hashlib.sha256(opened.read(file.size_of(number))).digest() == wanted:
                        known.add((file.name, number))

    def write(self, place: Path, file: CachedFile, number: int, data: bytes) -> bool:
        """Put a piece in its place; whether it is what it has to be: another one is not written."""
        if hashlib.sha256(data).digest() != file.pieces[number]:
            return False
        descriptor = os.open(place / file.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(descriptor, data, number * file.piece_bytes)
        finally:
            os.close(descriptor)
        return True

    def finish(self, place: Path, files: Sequence[CachedFile]) -> bool:
        """See that all of a model is there, whole, and say so for whoever comes later; whether it is."""
        for file in files:
            path = place / file.name
            if not file.size_bytes:
                path.touch(mode=0o600)
            with path.open("rb+") as opened:
                opened.truncate(file.size_bytes)
                if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                    return False
                os.fsync(opened.fileno())
        (place / WHOLE).touch(mode=0o600)
        for folder in (place, place.parent):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return True


def _used_at(place: Path) -> float:
    mark = place / WHOLE
    return mark.stat().st_mtime if mark.exists() else 0.0  # one that was given up goes first


def _size_of(place: Path) -> int:
    return sum(each.stat().st_blocks * 512 for each in place.iterdir()) if place.is_dir() else 0
