"""A kernel beside others tells of itself, whatever it is busy with."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from time_limits import LONG_S

from inferd import standing
from inferd.config import Settings
from inferd.errors import StoreUnavailableError, present
from inferd.services.doorway import Doorway
from inferd.standing import Standing, Watch
from inferd.store.kernels import KernelEntry, Seen

DEADLINE_S = LONG_S
WORDS = 3


class Roll:
    """Where kernels tell of themselves; it counts how often one did, and fails the first time."""

    def __init__(self) -> None:
        self.words = threading.Semaphore(0)
        self.count = 0

    def sign(self, _entry: KernelEntry, *, backend: int = 0) -> Seen:
        assert not backend
        self.count += 1
        if self.count == 1:
            raise StoreUnavailableError("its tables are being changed")
        self.words.release()
        return Seen(0, 0)

    def leave(self, _kernel: str) -> None:
        """Nothing is left."""


async def test_a_kernel_that_opens_its_store_for_long_tells_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it migrates or seals it has the lock and leads nothing yet: silent, it would be ended; then it is quiet."""
    roll = Roll()
    monkeypatch.setattr(standing, "open_roll", lambda *_, **__: roll)
    times: dict[str, Any] = {"beat_s": 0.01, "silence_s": 0.2, "look_s": 0.01}
    settings = Settings(state_dir=tmp_path, data_dir=tmp_path, standby=times)
    kernel = Standing(settings, ("unix:/k",), Doorway(9), Watch())

    @asynccontextmanager
    async def migrating() -> AsyncIterator[int]:
        for _ in range(WORDS):
            assert await asyncio.to_thread(roll.words.acquire, timeout=DEADLINE_S), "it tells nothing"
        await kernel._hush()  # as it does when its epoch begins
        yield roll.count

    async with kernel.leading(migrating) as count:
        assert present(kernel._teller).done()
        assert roll.count == count
