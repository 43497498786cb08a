"""A kernel in this process and a connection to it."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partialmethod
from pathlib import Path

import pytest
import pytest_asyncio
from connection import Connection
from forked_workers import EXEC, Stem, fork

from inferd.plugin import child
from inferd.runtime.local_launcher import LocalLauncher
from inferd.testing.kernel import FAKE_PLUGIN, kernel_here

KNOWN = frozenset({FAKE_PLUGIN, "inferd_cpu.plugin"})


@pytest.fixture(scope="session")
def looked_at() -> dict[str, child.Ending]:
    """What the processes answered that looked at plugins, by module."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def _fake_backend(looked_at: dict[str, child.Ending]) -> Iterator[None]:
    """The kernels of these tests have the FakeBackend; a process looks at a plugin of ours once for all of them."""
    run = child.run

    async def look_once(module: str, *, limit_s: float) -> child.Ending:
        if module not in KNOWN:
            return await run(module, limit_s=limit_s)
        if module not in looked_at:
            looked_at[module] = await run(module, limit_s=limit_s)
        return looked_at[module]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFERD_BACKENDS", "[]")
        patch.setattr(child, "run", look_once)
        yield


@pytest.fixture(scope="session")
def stem() -> Iterator[Stem]:
    """What workers are forked from."""
    with closing(Stem()) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _forked_workers(stem: Stem) -> Iterator[None]:
    """The workers of kernels in this process are forked from one that has imported what they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalLauncher, "_exec", partialmethod(fork, stem))
        yield


@pytest.fixture
def _started_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this test are started by `exec`, as a kernel does it."""
    monkeypatch.setattr(LocalLauncher, "_exec", EXEC)


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


@pytest.fixture
def address() -> Iterator[str]:
    """Where each kernel of a test listens."""
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        yield f"unix:{folder}/k"
