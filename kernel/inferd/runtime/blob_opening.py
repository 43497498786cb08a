"""Opening the blobs of a kernel."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from inferd.runtime.blobs import Blobs
from inferd.runtime.opened_files import open_root
from inferd.store.opening import unnoticed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from inferd.runtime.blob_bounds import BlobBounds
    from inferd.runtime.driver import Driver
    from inferd.runtime.failpoints import Failpoints
    from inferd.runtime.keeper import Keeper

LEFT_S = 5.0  # most that the end of the kernel waits for what calls have left to be done


@asynccontextmanager
async def opened_blobs(
    root: Path, driver: Driver, bounds: BlobBounds, points: Failpoints
) -> AsyncIterator[Blobs | None]:
    """The blobs of a kernel, until the block ends; None where it keeps nothing.

    Raises:
        StoreUnavailableError: The store, or the folder of their files, cannot be read.
    """
    if (keeper := driver.keeper) is None:
        yield None
        return
    at_point, opened = points.at_blob if points else unnoticed, await asyncio.to_thread(open_root, bounds.open_dir)
    blobs = Blobs(root, keeper.read, bounds, at_point=at_point, open_root=opened)
    try:
        await blobs.read()
        keeper.open_blobs(blobs)
        driver.supervisor.opening = blobs.opened.of
        yield blobs
        await blobs.left.done(LEFT_S)
    finally:
        blobs.close()


def blobs_of(keeper: Keeper | None) -> Blobs | None:
    """The blobs that were opened for it; None where nothing is kept."""
    return None if keeper is None else keeper.blobs
