"""Opening the store that is meant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from inferd.store.store import Store


@asynccontextmanager
async def opened(path: Path | None) -> AsyncIterator[Store | None]:
    """The store in a file until the block ends; None for none.

    Raises:
        StoreUnavailableError: It cannot be opened, or another process has it.
    """
    if path is None:
        yield None
        return
    from inferd.store.sqlite import SqliteStore  # noqa: PLC0415 - who has no store does not load the library

    store = await asyncio.to_thread(SqliteStore, path)
    try:
        yield store
    finally:
        store.close()
