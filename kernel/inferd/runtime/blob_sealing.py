"""The files of blobs of before are sealed, before any is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from inferd.runtime.blob_entry import Entry
    from inferd.store.blob_files import BlobFiles

TELL_S = 1.0

log = structlog.get_logger()


async def seal_files(files: BlobFiles, entries: Sequence[Entry], do: Callable[..., Awaitable[Any]]) -> None:
    """Seal the files of these blobs that are not; what is cut off goes on with the next kernel.

    Args:
        files: Where they are.
        entries: All that are known.
        do: Does something with the files, on their thread.

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
