"""Workers that are killed and stopped in mid-stream, as `make chaos` does it for longer."""

from collections.abc import Iterator

import pytest
from chaos import DEATHS, MANNERS, Told, requests, wave
from starving import why_not

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import AsyncClient

pytestmark = pytest.mark.e2e

SETTINGS = {
    "INFERD_BACKENDS": "[]",
    "INFERD_WORKERS__HEARTBEAT_S": "0.2",
    "INFERD_WORKERS__HEARTBEAT_TIMEOUT_S": "2",
    "INFERD_WORKERS__RESTART_BACKOFF_S": "0.1",
    "INFERD_WORKERS__RESTART_BACKOFF_MAX_S": "0.5",
}


REASON = why_not()
STARVED = pytest.param("starved", marks=pytest.mark.skipif(bool(REASON), reason=REASON))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel for all manners; each has a model of its own."""
    with kernel_process(tmp_path_factory.mktemp("kernel"), environment=SETTINGS) as process:
        yield process


@pytest.fixture(scope="module")
def undisturbed() -> list[Told]:
    """What the streams tell while nothing ends; found once, for all manners."""
    return []


@pytest.mark.parametrize("manner", [*sorted(MANNERS.keys() - {"starved"}), STARVED])
async def test_streams_of_a_worker_that_ends_are_as_undisturbed(
    kernel: KernelProcess, undisturbed: list[Told], manner: str
) -> None:
    """Sixteen streams, two of each kind, lose nothing, repeat nothing and end alike after two deaths of a worker."""
    source = str(write_fake_model(kernel.folder, manner, step_s=0.01, blocks=4096))
    tasks = requests(7, output_tokens=40)[:16]
    async with AsyncClient(kernel.address) as client:
        await client.create_model(manner, source=source)
        if not undisturbed:
            undisturbed += await wave(client, manner, tasks)
        told = await wave(client, manner, tasks, manners=[manner] * max(DEATHS), seed=1)
        for task, ours, theirs in zip(tasks, told, undisturbed, strict=True):
            assert ours.contents == theirs.contents, (task, ours.resumed)
        assert sum(each.resumed for each in told) > 0
        await client.unload_model(manner)
