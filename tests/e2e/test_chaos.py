"""Workers that are killed and stopped in mid-stream, as `make chaos` does it for longer."""

from pathlib import Path

import pytest
from chaos import DEATHS, MANNERS, requests, wave
from starving import why_not

from inferd.testing.kernel import kernel_process, write_fake_model
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


@pytest.mark.parametrize("manner", [*sorted(MANNERS.keys() - {"starved"}), STARVED])
async def test_streams_of_a_worker_that_ends_are_as_undisturbed(tmp_path: Path, manner: str) -> None:
    """Thirty-two streams of every kind lose nothing, repeat nothing and end alike, after one death and after two."""
    source = str(write_fake_model(tmp_path, step_s=0.01, blocks=4096))
    with kernel_process(tmp_path, environment=SETTINGS) as kernel:
        async with AsyncClient(kernel.address) as client:
            await client.create_model("fake", source=source)
            tasks = requests(7, output_tokens=40)
            wanted = await wave(client, "fake", tasks)
            for deaths in DEATHS:
                told = await wave(client, "fake", tasks, manners=[manner] * deaths, seed=deaths)
                for task, ours, theirs in zip(tasks, told, wanted, strict=True):
                    assert ours.contents == theirs.contents, (task, ours.resumed)
                assert sum(each.resumed for each in told) > 0
