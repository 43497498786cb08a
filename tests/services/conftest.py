"""A kernel in this process and a connection to it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from connection import Connection

from inferd.testing.kernel import kernel_here


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel with the FakeBackend."""
    async with kernel_here(tmp_path, workers={"restart_backoff_s": 0.01}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()
