"""Records of the store that are read, and written, by themselves: what nobody waits for but who writes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from inferd.runtime.kept import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.runtime.store_thread import StoreThread
    from inferd.store.store import Store, Write


class Records:
    """Reads and writes on the thread of the store.

    Args:
        store: It.
        thread: Its thread.
    """

    def __init__(self, store: Store, thread: StoreThread) -> None:
        self._store = store
        self._thread = thread

    async def read(self, reading: Callable[[Store], Any]) -> Any:
        """What `reading` finds in the store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, reading, self._store)

    async def keep(self, records: Sequence[Write]) -> None:
        """Write records, all or nothing; they are kept when this returns.

        Raises:
            StoreUnavailableError: They cannot be.
        """
        writing = asyncio.get_running_loop().run_in_executor(self._thread.first, self._store.write, list(records))
        await asyncio.wait([writing])  # to its end, should whoever waits for it go
        if (error := writing.exception()) is not None:
            raise typed(error)
