"""What functions keep, while several calls change it at once."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.errors import RequestConflictError
from inferd.runtime.front.memos import Memos
from inferd.store.store import Drop, Put


class Store:
    """Writes what it is given when the test lets it."""

    def __init__(self) -> None:
        self.keeper, self.forgets = self, list[Any]()
        self.rows: set[str] = set()
        self.may, self.writes = asyncio.Event(), asyncio.Event()

    async def keep_records(self, written: Sequence[Any]) -> None:
        self.writes.set()
        await self.may.wait()
        for each in written:
            if isinstance(each, Put):
                self.rows.add(each.key)
            elif isinstance(each, Drop):
                self.rows.discard(each.key)


@pytest.mark.asyncio
@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_is_forgotten_while_another_call_keeps_it_is_either(*, cancelled: bool) -> None:
    """A call is told that a value is kept only if it is known and in the store, also where another was cancelled."""
    store = Store()
    memos = Memos(store, most=10, share=1.0, most_bytes=1000)  # type: ignore[arg-type] # what it needs of a driver
    call: Any = SimpleNamespace(tenant="t", model="package@p", task_id="c")
    store.may.set()
    await memos.remember(call, "x", "1", 0)
    store.may.clear()
    store.writes.clear()
    async with asyncio.timeout(60):
        forgets = asyncio.create_task(memos.forget(call, "x"))
        await store.writes.wait()
        keeps = asyncio.create_task(memos.remember(call, "x", "2", 1))
        if cancelled:
            forgets.cancel()
        await asyncio.wait([forgets], timeout=0)
        store.may.set()
        with pytest.raises(RequestConflictError, match="version 0"):
            await keeps
    assert not store.rows
    assert memos.names(call) == {"names": []}
