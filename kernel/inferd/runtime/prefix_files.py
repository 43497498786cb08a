"""Prefix caches in files, so that they are there for a worker of another kernel: one for each model.

    8 bytes: how many tokens it has; then what a worker has written to a memory, with the key of what it is of

A file is sealed where the store is, by a key of its own that goes when a tenant is shredded: what was kept before then
opens nowhere, whichever hosts have it. Else it ends with a SHA-256 of what is before. What is not what was written is
removed, and never given to a worker. It is written under another name, and has its own when it is whole.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import structlog

from inferd.errors import words_of
from inferd.shared import Memory
from inferd.store.file_work import opened_file, put_in_place
from inferd.store.sealing.data_keys import NAMES, PREFIXES
from inferd.store.sealing.sealed_file import Owner, SealedFile, plain_size, write_all
from inferd.store.store import NO_TENANT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from inferd.store.sealing.data_keys import DataKeys

TOKENS: Final = struct.Struct("<Q")
PARTIAL: Final = ".part"
SEALED: Final = "-s"  # ends the name of a file that is sealed
SUM_BYTES: Final = 32
PIECE_BYTES: Final = 4 << 20
HEAD_BYTES: Final = 4096  # that a file may have beside what is in it
MORE_PART: Final = 1000  # and this part of that: seals of its chunks

log = structlog.get_logger()


class PrefixFiles:
    """Reads and writes the files. Used by one thread at a time. What cannot be done is told in the log, and is lost.

    Args:
        folder: Where they are.
        most_bytes: Of all together, on the disk.
        keys: Of the store; None where nothing is sealed.
    """

    def __init__(self, folder: Path, *, most_bytes: int, keys: DataKeys | None) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._keys = keys if keys is not None and keys.seals else None
        if self._keys is not None:
            self._keys.current(PREFIXES)  # one that is made is kept with the store's next write, long before a file is

    def sweep(self) -> None:
        """Remove what was left unfinished, what a tenant may have been in that was shredded, and more than may be."""
        try:
            self._folder.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self._folder.parent, self._folder):  # parents that `mkdir` makes beside have the usual mode
                folder.mkdir(mode=0o700, exist_ok=True)
            for path in self._folder.glob(f"*{PARTIAL}"):
                path.unlink(missing_ok=True)
            for path in self._files():
                if self._keys is not None and not self._opens(path, self._keys):
                    log.info("a prefix cache on the disk opens no more, and is removed", file=str(path))
                    path.unlink(missing_ok=True)
            self._make_room(0)
        except OSError as error:
            log.warning("prefix caches cannot be kept on the disk", folder=str(self._folder), why=words_of(error))

    @staticmethod
    def _opens(path: Path, keys: DataKeys) -> bool:
        """Whether the key that a file was sealed with is still there."""
        with opened_file(path, os.O_RDONLY) as file:
            try:
                SealedFile.opened(file, keys, _owner(""))
            except ValueError:
                return False
        return True

    def write(self, name: str, memory: Memory, tokens: int, known: Iterable[str]) -> None:
        """Keep the prefix cache of a model, in place of the one before; files of models that are not known go.

        Args:
            name: Of the model.
            memory: What its worker has written, sealed.
            tokens: How many it has.
            known: Names of all models.
        """
        path = self._path(name)
        growing = path.with_name(path.name + PARTIAL)
        try:
            for each in self._files():
                if each.name not in {self._path(other).name for other in known}:
                    each.unlink(missing_ok=True)
            if not self._make_room(memory.size_bytes + memory.size_bytes // MORE_PART + HEAD_BYTES, without=path):
                log.info("a prefix cache is too large for the disk's bound", model=name, most_bytes=self._most_bytes)
                return
            with opened_file(growing, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
                self._fill(file, name, memory, tokens)
            put_in_place(growing, path)
        except (OSError, ValueError) as error:
            log.warning("a prefix cache cannot be kept on the disk", model=name, why=words_of(error))
            self._unlink(growing)

    def _fill(self, file: int, name: str, memory: Memory, tokens: int) -> None:
        pieces = self._pieces(memory, tokens)
        if self._keys is not None:
            self._keys.current(PREFIXES)
            sealed, at = SealedFile.begun(file, self._keys, _owner(name)), 0
            for piece in pieces:
                sealed.write(at, piece)
                at += len(piece)
            sealed.finish()
            return
        found, at = sha256(), 0
        for piece in pieces:
            found.update(piece)
            write_all(file, piece, at)
            at += len(piece)
        write_all(file, found.digest(), at)

    @staticmethod
    def _pieces(memory: Memory, tokens: int) -> Iterator[bytes]:
        yield TOKENS.pack(tokens)
        for at in range(0, memory.size_bytes, PIECE_BYTES):
            yield memory.read(at, min(PIECE_BYTES, memory.size_bytes - at))

    def read(self, name: str, most_bytes: int) -> tuple[Memory, int] | None:
        """The prefix cache of a model, and how many tokens it has; None where there is none, or no room for it."""
        path = self._path(name)
        try:
            with opened_file(path, os.O_RDONLY) as file:
                size_bytes = os.fstat(file).st_size
                size_bytes = plain_size(size_bytes) if self._keys is not None else size_bytes - SUM_BYTES
                if not TOKENS.size < size_bytes <= most_bytes:
                    return None
                return self._taken(file, name, size_bytes)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning(
                "a prefix cache on the disk is not what was written, and is removed", model=name, why=words_of(error)
            )
            self._unlink(path)
            return None

    def _taken(self, file: int, name: str, size_bytes: int) -> tuple[Memory, int]:
        sealed = None if self._keys is None else SealedFile.opened(file, self._keys, _owner(name))
        memory, found, at = Memory.make(size_bytes - TOKENS.size), sha256(), 0
        head = b""
        while at < size_bytes:
            count = min(PIECE_BYTES, size_bytes - at)
            piece = os.pread(file, count, at) if sealed is None else sealed.read(at, count)
            if len(piece) != count:
                raise ValueError(f"{len(piece)} of {count} bytes are there")
            found.update(piece)
            if not at:
                head, piece = piece[: TOKENS.size], piece[TOKENS.size :]
            memory.write(max(0, at - TOKENS.size), piece)
            at += count
        if sealed is None and not hmac.compare_digest(found.digest(), os.pread(file, SUM_BYTES, size_bytes)):
            raise ValueError("its digest is another one")
        memory.seal()
        return memory, TOKENS.unpack(head)[0]

    def forget(self, name: str) -> None:
        """Have nothing of a model."""
        self._unlink(self._path(name))

    def forget_all(self) -> None:
        """Have nothing."""
        for path in self._files():
            self._unlink(path)

    def _path(self, name: str) -> Path:
        """Where that of a model is; the name says not which where it is sealed."""
        if self._keys is None:
            return self._folder / sha256(name.encode()).hexdigest()
        key = self._keys.get(NO_TENANT, self._keys.current(NO_TENANT, NAMES))
        return self._folder / (hmac.digest(key, b"prefix" + name.encode(), hashlib.sha256).hex() + SEALED)

    def _files(self) -> list[Path]:
        return [each for each in self._folder.iterdir() if each.suffix != PARTIAL] if self._folder.is_dir() else []

    def _make_room(self, size_bytes: int, *, without: Path | None = None) -> bool:
        """Remove the oldest until there is room for so many bytes more, `without` one that goes; whether there is."""
        found = sorted((each.stat().st_mtime, each.stat().st_size, each) for each in self._files() if each != without)
        held = sum(size for _, size, _ in found)
        for _, size, path in found if size_bytes <= self._most_bytes else ():
            if held + size_bytes <= self._most_bytes:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held + size_bytes <= self._most_bytes

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a prefix cache on the disk cannot be removed", file=str(path), why=words_of(error))


def _owner(name: str) -> Owner:
    return Owner(PREFIXES, f"prefix {name}")
