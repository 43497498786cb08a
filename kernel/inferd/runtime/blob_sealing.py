"""The files of blobs are sealed: those of before when the kernel starts, and those of older keys beside all else."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import structlog

from inferd.errors import BlobDamagedError
from inferd.removing import remove_tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import Any

    from inferd.runtime.blob_entry import Entry
    from inferd.store.blob_files import BlobFiles

    Do = Callable[..., Awaitable[Any]]
    """Does something with the files, on their thread."""

    Check = Callable[[], Awaitable[None]]
    """Raises where this kernel leads no more."""

TELL_S = 1.0

log = structlog.get_logger()


async def seal_files(files: BlobFiles, entries: Sequence[Entry], do: Do) -> None:
    """Seal the files of these blobs that are not; what is cut off goes on with the next kernel.

    Args:
        files: Where they are.
        entries: All that are known.
        do: Does something with the files.

    Raises:
        StoreUnavailableError: They cannot be written, as for want of room for one more of the largest.
    """
    if not entries or files.all_sealed:
        if entries:
            await do(files.note_sealed)
        return
    began = told = time.monotonic()
    log.info("blobs are sealed now; the kernel serves when that is done", blobs=len(entries))
    done = 0
    for entry in entries:
        done += await do(files.seal, *entry.key)
        if (now := time.monotonic()) - told >= TELL_S:
            told = now
            log.info("blobs are sealed now", done=done, seconds=round(now - began))
    await do(files.note_sealed)


@dataclass(slots=True)
class FilesProgress:
    """How far the files of blobs are sealed anew. One writer: `reseal_files`.

    Attributes:
        total: Blobs that there were when it began.
        looked: Those that were looked at.
        done: Those that were sealed anew.
        damaged: Those that cannot be read, and are as they were.
    """

    total: int = 0
    looked: int = 0
    done: int = 0
    damaged: int = 0


async def reseal_files(
    files: BlobFiles, entries: Sequence[Entry], do: Do, progress: FilesProgress, *, names: set[str], check: Check
) -> set[str]:
    """Seal the files of these blobs that older keys have sealed; the tenants of those that cannot be.

    Whoever reads a blob reads on; who gives one waits as long as its file takes. What is cut off begins with the file
    at which it was.

    Args:
        files: Where they are.
        entries: All that are known.
        do: Does something with the files.
        progress: Is told how far that is.
        names: Of files that stay.
        check: Whether this kernel leads.

    Raises:
        StoreUnavailableError: They cannot be written now, or another kernel leads.
    """
    progress.total, left = len(entries), set()
    for entry in entries:
        try:
            async with entry.lock:
                progress.done += await _reseal_one(files, entry, do, names, check)
        except BlobDamagedError as error:
            why = error.message
        else:
            why = ""
        if why:
            log.error("a blob cannot be read, and is not sealed anew", digest=entry.digest, why=why)
            progress.damaged += 1
            left.add(entry.tenant)
        progress.looked += 1
    return left


async def _reseal_one(files: BlobFiles, entry: Entry, do: Do, names: set[str], check: Check) -> bool:
    steps, mine, done = files.resealing(*entry.key, whole=entry.whole), set[str](), 0
    try:
        while not entry.gone:
            await check()
            began = time.monotonic()
            if (growing := await do(next, steps, None)) is None:
                break
            if (name := files.name_of(growing)) not in mine:
                mine.add(name)  # which no sweep is to remove meanwhile
                names.add(name)
            else:
                done += 1
            await asyncio.sleep(time.monotonic() - began)  # others have the files for as long as this had them
    finally:
        names.difference_update(mine)
        await asyncio.shield(do(steps.close))
    return done > 0


def folders_of(files: BlobFiles, tenant: str) -> list[Path]:
    """The folders that have all files of a tenant: of its blobs, and of models of those."""
    name = sha256(tenant.encode()).hexdigest()[:32]
    return [files.folder / name, files.models.folder(name)]


def remove_all(files: BlobFiles, tenant: str) -> None:
    """Have all files of a tenant gone, where no kernel serves."""
    for folder in folders_of(files, tenant):
        if why := remove_tree(folder):
            log.error("files of a tenant that was shredded are still there, which nobody can read", why=why)
