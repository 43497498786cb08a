"""The folders in which workers find the files of models that are made of blobs; what is sealed is opened for them.

Each kernel has a folder of its own for them, which it locks for as long as it lives: kernels of one host, or with one
disk, remove nothing of each other, and what one has left that was killed is removed by the next. In it the folder of a
model has a name that nobody can tell who is not given it: workers over several devices may make files beside it (see
`landlock.SHARE`), where they cannot list, and so they find no other model than their own.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import re
from contextlib import suppress
from secrets import token_bytes, token_hex
from typing import TYPE_CHECKING, Final

import structlog

from inferd.errors import words_of
from inferd.removing import remove_tree
from inferd.store.blob_errors import damaged, is_sealed
from inferd.store.file_work import opened_file
from inferd.store.sealing.sealed_file import Owner, write_all

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inferd.store.blob_files import BlobFiles

PIECE_BYTES: Final = 1 << 20
PARTIAL: Final = ".part"
HIDDEN_CHARACTERS: Final = 32
TRIES: Final = 3  # to have a folder that whoever sweeps has taken for one of a kernel that is dead
OWNED: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
"""How the folder of a kernel is called: by its store, and by a number of its own."""

log = structlog.get_logger()


class OpenedModels:
    """As above. Used by the thread of the files; nothing is made before there is a model.

    Args:
        files: The blobs.
        beside: In which folder of theirs models are where no other folder is chosen.
        root: In which folder those of kernels are; None for `beside`.
    """

    def __init__(self, files: BlobFiles, beside: Path, root: Path | None) -> None:
        self._files = files
        self._beside = beside
        self._root = beside if root is None else root
        self._own = self._root / f"{files.folder.name}-{token_hex(16)}"
        self._secret = token_bytes(32)
        self._lock = -1

    def folder(self, name: str) -> Path:
        """Where the files of a model are whose list has such files, see `BlobFiles.name`; or those of a tenant's."""
        tenant, _, blob = name.partition("/")
        of_tenant = self._own / tenant
        if not blob:
            return of_tenant
        return of_tenant / hmac.digest(self._secret, name.encode(), "sha256").hex()[:HIDDEN_CHARACTERS]

    def link(self, name: str, tenant: str, files: Mapping[str, str]) -> None:
        """Let a model's folder have these blobs, under their names there, and nothing else; what is sealed is opened.

        Raises:
            BlobDamagedError: One is missing.
            StoreUnavailableError: They cannot be written now.
        """
        folder = self.folder(name)
        with self._files.typed():
            self._begin()
            for each in (folder.parent, folder):
                each.mkdir(exist_ok=True, mode=0o700)
            for path in folder.iterdir():
                if path.name not in files or not _is_that(path, self._files.path(tenant, files[path.name])):
                    path.unlink()
            for label, digest in files.items():
                path = self._files.path(tenant, digest)
                self._files.find_again([path])
                try:
                    if is_sealed(path):
                        self._open_into(folder / label, path, Owner(tenant, digest))
                    else:
                        (folder / label).hardlink_to(path)
                except FileExistsError:
                    continue  # it is that
                except FileNotFoundError:
                    raise damaged(digest, "its file is missing") from None

    def _open_into(self, target: Path, path: Path, owner: Owner) -> None:
        """Write what is in a sealed blob into a file of a model; it is whole, or not there."""
        (size_bytes,) = self._files.sizes([path])
        if target.exists() and target.stat().st_size == size_bytes:
            return
        growing, at = target.with_name(f".{target.name}{PARTIAL}"), 0
        with opened_file(growing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            while data := self._files.read(path, at, PIECE_BYTES, owner):
                write_all(file, data, at)
                at += len(data)
        growing.rename(target)

    def _begin(self) -> None:
        """Have the kernel's own folder, locked.

        Raises:
            OSError: It cannot be made.
        """
        if self._lock >= 0 and self._own.is_dir():
            return
        self._let_go()
        for _ in range(TRIES):
            self._root.mkdir(exist_ok=True, mode=0o700)
            self._own.mkdir(exist_ok=True, mode=0o700)
            with suppress(FileNotFoundError, BlockingIOError):  # whoever sweeps was between both lines
                self._lock = _locked(self._own)
                if self._own.is_dir():
                    return
                self._let_go()
        raise FileNotFoundError(2, "it is removed each time that it is made", str(self._own))

    def unlink(self, name: str) -> None:
        """Remove a model's folder."""
        remove_tree(self.folder(name))

    def sweep(self, names: frozenset[str]) -> None:
        """Remove the folders of models but these, and of kernels that are dead: also where the blobs are away.

        Raises:
            StoreUnavailableError: They cannot be looked at.
        """
        known = {self.folder(name) for name in names}
        with self._files.typed(makes=True):
            for folder in self._own.glob("*/*"):
                if folder not in known:
                    remove_tree(folder)
            for folder in {*self._root.glob("*"), *self._beside.glob("*")} - {self._own}:
                if OWNED.fullmatch(folder.name):
                    _remove_dead(folder)
                elif folder.parent == self._beside or folder.name == self._files.folder.name:
                    remove_tree(folder)  # of a kernel that had no folder of its own: before it this one leads

    def close(self) -> None:
        """Have no model be open."""
        remove_tree(self._own)
        self._let_go()

    def _let_go(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _locked(folder: Path) -> int:
    """A descriptor of a folder, which is locked until it is closed, or its process ends.

    Raises:
        BlockingIOError: Another process has locked it.
        OSError: It cannot be opened.
    """
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(found)
        raise
    except OSError as error:  # a file system without locks: what is dead there is not known to be
        log.warning("folders cannot be locked where models are opened", folder=str(folder.parent), why=words_of(error))
    return found


def _remove_dead(folder: Path) -> None:
    """Remove the folder of a kernel that has it locked no more; one that cannot be locked may be of a living one."""
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if why := remove_tree(folder):
            log.warning("models that a kernel has left open are still there", folder=str(folder), why=why)
    except OSError:
        return
    finally:
        os.close(found)


def _is_that(opened: Path, path: Path) -> bool:
    """Whether a file of a model is this blob's; one that was opened is looked at again when it is opened."""
    return is_sealed(path) or (path.exists() and opened.samefile(path))
