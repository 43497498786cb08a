"""Files of models of blobs, which are sealed: opened for who reads them by their paths, and only as long as that."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import structlog

from inferd.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from inferd.runtime.store_thread import StoreThread
    from inferd.store.blob_files import BlobFiles

    Opening = Callable[[object], AbstractAsyncContextManager[None]]
    """Has the files of a model be there, by their paths, as long as the block; nothing where they are there anyway."""

MEMORY = Path("/dev/shm")  # noqa: S108  # nosec B108 - a folder of this user's own in there, which is looked at
OF_MEMORY = ("tmpfs", "ramfs")
LEAST_PART = 4  # of the host's memory that a file system has, so that models are opened there

log = structlog.get_logger()


@asynccontextmanager
async def nothing_to_open(_: object) -> AsyncIterator[None]:
    """Where there are no blobs."""
    yield


class OpenedFiles:
    """As above. One writer: the loop; files are written on the thread of the blobs.

    Args:
        files: Of blobs.
        thread: Theirs.
    """

    def __init__(self, files: BlobFiles, thread: StoreThread) -> None:
        self._files = files
        self._thread = thread
        self._known: dict[Path, tuple[str, str, Mapping[str, str]]] = {}
        self._users: dict[Path, int] = defaultdict(int)
        self._locks: dict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def names(self) -> frozenset[str]:
        """Of the folders of all models that are known."""
        return frozenset(name for name, _, _ in self._known.values())

    def folder(self, tenant: str, digest: str) -> Path:
        """Where the files of a model are whose list has this digest, for who opens them."""
        return self._files.models.folder(self._files.name(tenant, digest))

    async def link(self, tenant: str, digest: str, files: Mapping[str, str]) -> None:
        """Let a model's folder have these blobs, by its names of them, and nothing else.

        Raises:
            BlobDamagedError, StoreUnavailableError: A file is missing, or it cannot be done now.
        """
        name = self._files.name(tenant, digest)
        self._known[self._files.models.folder(name)] = name, tenant, files
        if not self._files.seals:  # else they are opened for who reads them
            await self._do(self._files.models.link, name, tenant, files)

    def unlink(self, tenant: str, digest: str) -> None:
        """Nobody needs the folder of a model any more; one that cannot be removed now is swept."""
        name = self._files.name(tenant, digest)
        self._known.pop(self._files.models.folder(name), None)
        self._thread.submit(self._files.models.unlink, name)

    async def _do(self, do: Callable[..., Any], *values: Any) -> None:
        await asyncio.wrap_future(self._thread.submit(do, *values))

    @asynccontextmanager
    async def of(self, path: object) -> AsyncIterator[None]:
        """Have the files of a model be there, by the path of one or of their folder, as long as the block.

        Raises:
            BlobDamagedError, StoreUnavailableError: One is missing or damaged, or they cannot be written there.
        """
        wanted = Path(str(path or ""))
        folder = next((each for each in (wanted, wanted.parent) if each in self._known), None)
        if folder is None or not self._files.seals:
            yield
            return
        name, tenant, files = self._known[folder]
        self._users[folder] += 1
        try:
            async with self._locks[folder]:
                await self._do(self._files.models.link, name, tenant, files)
            yield
        finally:
            self._users[folder] -= 1
            if not self._users[folder]:
                await asyncio.shield(self._close(folder, name))

    async def _close(self, folder: Path, name: str) -> None:
        async with self._locks[folder]:
            if not self._users[folder]:  # nor since
                await self._do(self._files.models.unlink, name)
        if not self._users[folder]:
            del self._users[folder], self._locks[folder]


def open_root(chosen: Path | None) -> Path | None:
    """In which folder models are opened: as it is chosen, else in memory; None for beside the blobs, on their disk.

    In memory only where that file system may have a good part of the host's: those of containers are often small.

    Raises:
        StoreUnavailableError: What is chosen cannot be made.
    """
    if chosen is not None:
        try:
            chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"blobs.open_dir {chosen} cannot be made: {error.strerror}; name another folder"
            raise StoreUnavailableError(message, metadata={"cause": f"{error.strerror}"}) from None
        return chosen
    folder = MEMORY / f"inferd-{os.geteuid()}"
    try:
        kinds = {each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)}
        found = os.statvfs(MEMORY)
        if kinds.get(str(MEMORY)) not in OF_MEMORY or found.f_blocks * found.f_frsize * LEAST_PART < _memory_bytes():
            return None
        folder.mkdir(mode=0o700, exist_ok=True)
        there = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or there.st_mode & 0o077:
        log.warning("models are opened on the disk: their folder in memory is another user's", folder=str(folder))
        return None
    return folder


def _memory_bytes() -> int:
    return int(psutil.virtual_memory().total)
