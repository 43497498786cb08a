"""A backup of what the kernel keeps, while it keeps on keeping: copied in short steps between its writes."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.errors import InferdError, present
from inferd.runtime.blob_backups import NONE, Blobbed, check_folder, copied, wanted_of
from inferd.store.backup_file import BackupFile
from inferd.store.blob_files import BlobFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from inferd.runtime.keeper import Keeper
    from inferd.store.store import Copy, Store

FLUSH_BYTES = (
    8 << 20
)  # what is copied goes to the disk so much at a time, lest the store's own writes wait for all of it
CLOSE_S = 1.0  # most that the end of a backup waits for a store that hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A backup.

    Attributes:
        path: The file.
        size_bytes: Of it.
        made: When, as Unix time.
        store: Of which, for people.
        blobs: Those beside it.
    """

    path: str
    size_bytes: int
    made: float
    store: str
    blobs: Blobbed = NONE


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backup is; `made` is None until it is done."""

    done_bytes: int
    total_bytes: int
    made: Made | None = None


@dataclass(slots=True, eq=False)
class _Work:
    """One backup. One writer: `back_up`, and the thread of the store for `copy`."""

    file: BackupFile
    copy: Copy | None = None
    finishing: asyncio.Future[int] | None = field(default=None)
    stack: ExitStack = field(default_factory=ExitStack)

    def begin(self, store: Store) -> str:
        self.copy = store.copy(self.file.partial)
        return store.name

    def step(self, limit_s: float) -> bool:
        return present(self.copy).step(limit_s)

    def end(self) -> None:
        """The store is done with it, and the file is whole when all was copied."""
        if self.copy is not None:
            self.copy.close()

    def close(self) -> None:
        with suppress(InferdError):  # it is of no use any more
            self.end()
        self.file.close()


async def back_up(keeper: Keeper, path: str, *, replaces: bool, step_s: float) -> AsyncGenerator[Progress, None]:
    """Copy all that is kept into a file, and blobs beside it, and tell how far that is after each step.

    Args:
        keeper: Who keeps it.
        path: Of the file.
        replaces: Whether an older backup there is to give way.
        step_s: How long the store is held up at a time.

    Raises:
        InvalidFieldError: The file may not be there.
        StoreUnavailableError: The store cannot be read, or the file not be written.
    """
    async with _work(keeper, path, replaces=replaces) as work:
        staying = nullcontext() if keeper.blobs is None else keeper.blobs.staying(f"the backup {path}")
        work.stack.enter_context(staying)  # nobody forgets a blob meanwhile
        name, flushed_bytes = await keeper.read(work.begin), 0
        copy = present(work.copy)
        while True:
            started = time.monotonic()
            done = await keeper.read(lambda _: work.step(step_s))
            if done:
                break
            yield Progress(copy.done_bytes, copy.total_bytes)
            if copy.done_bytes - flushed_bytes >= FLUSH_BYTES:
                flushed_bytes = copy.done_bytes
                await asyncio.to_thread(work.file.flush)
            await asyncio.sleep(time.monotonic() - started)  # others have the store for as long as this had it
        made = time.time()
        await keeper.read(lambda _: work.end())
        blobs, total_bytes = NONE, copy.total_bytes
        if keeper.blobs is not None:
            wanted, files = keeper.blobs.whole()
            total_bytes += sum(blob.size_bytes for blob in wanted)
            steps = copied(wanted, files, work.file.path)
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                blobs = step
                yield Progress(copy.total_bytes + blobs.size_bytes, total_bytes)
        work.finishing = asyncio.get_running_loop().run_in_executor(None, work.file.finish, made)
        size_bytes = await asyncio.shield(work.finishing)
        told = Made(path=str(work.file.path), size_bytes=size_bytes, made=made, store=name, blobs=blobs)
        yield Progress(total_bytes, total_bytes, told)


@asynccontextmanager
async def _work(keeper: Keeper, path: str, *, replaces: bool) -> AsyncIterator[_Work]:
    work = _Work(await asyncio.to_thread(BackupFile, path, replaces=replaces))
    try:
        await asyncio.to_thread(check_folder, work.file.path, replaces=replaces)
    except BaseException:
        work.file.close()
        raise
    try:
        with work.stack:
            yield work
    finally:
        if work.finishing is not None and not work.finishing.done():  # cancelled: it ends by itself
            work.finishing.add_done_callback(lambda _: work.close())
        else:
            closing = asyncio.ensure_future(keeper.read(lambda _: work.close()))
            await asyncio.wait([closing], timeout=CLOSE_S)


def back_up_store(store: Store, path: str, *, replaces: bool, step_s: float, root: Path) -> Made:
    """The same of a store that no kernel has, and whose blobs are in a folder of `root`, in one go.

    Raises:
        InvalidFieldError, StoreUnavailableError: As `back_up`.
    """
    work = _Work(BackupFile(path, replaces=replaces))
    try:
        check_folder(work.file.path, replaces=replaces)
        name = work.begin(store)
        while not work.step(step_s):
            pass
        made = time.time()
        work.end()
        folder, wanted = wanted_of(store)
        blobs = NONE
        for done in copied(wanted, BlobFiles(root / folder, keys=store.keys), work.file.path):
            blobs = done
        return Made(path=str(work.file.path), size_bytes=work.file.finish(made), made=made, store=name, blobs=blobs)
    finally:
        work.close()
