"""The end of a thread that does one thing after the other: nobody waits for what comes behind it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.blob_settings import Blobs as BlobSettings
from inferd.errors import ShuttingDownError
from inferd.runtime.blobs import Blobs
from inferd.runtime.store_thread import StoreThread


async def test_what_comes_behind_the_end_is_refused() -> None:
    """What came before is done, and who comes later is told so at once, whichever goes first there."""
    thread = StoreThread()
    before = thread.submit(lambda: "done")
    thread.shutdown()
    async with asyncio.timeout(LONG_S):
        assert await asyncio.wrap_future(before) == "done"
        for each in (thread, thread.first):
            with pytest.raises(ShuttingDownError):
                await asyncio.get_running_loop().run_in_executor(each, print)


async def test_a_call_that_ends_behind_its_kernel_does_not_hang(tmp_path: Path) -> None:
    """Whoever gave a blob of which nothing came has it forgotten; where the kernel has ended that is not waited for."""
    store = SimpleNamespace(write=lambda _: None)

    async def rows(do: Callable[[Any], Any]) -> Any:
        return do(store)

    blobs = Blobs(tmp_path, rows, BlobSettings())
    await blobs._do(blobs._files.make)
    giving = blobs.receiving("t", "ab" * 32, 3)
    await giving.__aenter__()
    blobs.close()
    async with asyncio.timeout(LONG_S):
        with pytest.raises(ShuttingDownError):
            await giving.__aexit__(None, None, None)
