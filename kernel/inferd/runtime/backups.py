"""A backup of what the kernel keeps, while it keeps on keeping: copied in short steps between its writes."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.errors import InferdError, present
from inferd.store.backup_file import BackupFile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

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
    """

    path: str
    size_bytes: int
    made: float
    store: str


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
    """Copy all that is kept into a file, and tell how far that is after each step.

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
        work.finishing = asyncio.get_running_loop().run_in_executor(None, work.file.finish, made)
        size_bytes = await asyncio.shield(work.finishing)
        told = Made(path=str(work.file.path), size_bytes=size_bytes, made=made, store=name)
        yield Progress(copy.total_bytes, copy.total_bytes, told)


@asynccontextmanager
async def _work(keeper: Keeper, path: str, *, replaces: bool) -> AsyncIterator[_Work]:
    work = _Work(await asyncio.to_thread(BackupFile, path, replaces=replaces))
    try:
        yield work
    finally:
        if work.finishing is not None and not work.finishing.done():  # cancelled: it ends by itself
            work.finishing.add_done_callback(lambda _: work.close())
        else:
            closing = asyncio.ensure_future(keeper.read(lambda _: work.close()))
            await asyncio.wait([closing], timeout=CLOSE_S)


def back_up_store(store: Store, path: str, *, replaces: bool, step_s: float) -> Made:
    """The same of a store that no kernel has, in one go.

    Raises:
        InvalidFieldError, StoreUnavailableError: As `back_up`.
    """
    work = _Work(BackupFile(path, replaces=replaces))
    try:
        name = work.begin(store)
        while not work.step(step_s):
            pass
        made = time.time()
        work.end()
        return Made(path=str(work.file.path), size_bytes=work.file.finish(made), made=made, store=name)
    finally:
        work.close()
