"""Opening the blobs of a kernel."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from inferd.runtime.blobs import Blobs
from inferd.store.opening import unnoticed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from inferd.runtime.blob_bounds import BlobBounds
    from inferd.runtime.failpoints import Failpoints
    from inferd.runtime.keeper import Keeper


@asynccontextmanager
async def opened_blobs(
    root: Path, keeper: Keeper | None, bounds: BlobBounds, points: Failpoints
) -> AsyncIterator[Blobs | None]:
    """The blobs of a kernel, until the block ends; None where it keeps nothing.

    Raises:
        StoreUnavailableError: The store, or the folder of their files, cannot be read.
    """
    if keeper is None:
        yield None
        return
    blobs = Blobs(root, keeper.read, bounds, at_point=points.at_blob if points else unnoticed)
    try:
        await blobs.read()
        keeper.open_blobs(blobs)
        yield blobs
    finally:
        blobs.close()


def blobs_of(keeper: Keeper | None) -> Blobs | None:
    """The blobs that were opened for it; None where nothing is kept."""
    return None if keeper is None else keeper.blobs
