"""A kernel in this process and a connection to it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from connection import Connection

from inferd.testing.kernel import kernel_here


@pytest.fixture(scope="module", autouse=True)
def _fake_backend() -> Iterator[None]:
    """The kernels of these tests have the FakeBackend; to look at others takes a process for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERD_BACKENDS", "[]")
        yield


@pytest.fixture
def _cpu_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of this test has the `cpu` backend and its device, too."""
    monkeypatch.setenv("INFERD_BACKENDS", '["cpu"]')


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel with the FakeBackend."""
    async with kernel_here(tmp_path, workers={"restart_backoff_s": 0.01}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connection]:
    """A connection to a kernel with the `cpu` backend too, for tests that leave it as it is; they run in its loop."""
    folder = tmp_path_factory.mktemp("shared")
    async with kernel_here(folder, backends=("cpu",)) as kernel:
        made = Connection(kernel, folder)
        yield made
        await made.channel.close()
