"""A real worker that takes more and more of the host's memory."""

import asyncio
from pathlib import Path

import pytest
import structlog
from connection import Connection, read_all, text_of

from inferd.testing.kernel import kernel_here
from inferd_api.v1.model_service_pb2 import LoadModelRequest, WatchModelRequest

DEADLINE_S = 60.0
MIB = 1 << 20
PLUGIN = """
from inferd.plugin import BackendSpec, DeviceInfo, Probe, hookimpl
from inferd.testing.fake import FakeBackend

class Growing(FakeBackend):
    def probe(self):
        return Probe(devices=(DeviceInfo(device_id="cpu:0", description="", memory_bytes=1 << 30, cores=1),))

@hookimpl
def inferd_backends():
    return [BackendSpec(name="growing", loader="growing:Growing", formats=("fake",), description="takes memory")]
"""


async def test_a_worker_that_grows_is_told_of_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its watcher sees by how much it has grown, the log has the figures, and its task goes on at the next one."""
    (tmp_path / "growing.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    workers = {
        "heartbeat_s": 0.02,
        "growth_told": 0.0,
        "growth_told_bytes": 32 * MIB,
        "growth_ended": 0.0,
        "growth_ended_bytes": 256 * MIB,
    }
    with structlog.testing.capture_logs() as logs:
        async with (
            asyncio.timeout(DEADLINE_S),
            kernel_here(tmp_path, plugin_modules=("growing",), workers=workers) as k,
        ):
            connection = Connection(k, tmp_path)
            await connection.create(grow_bytes=4 * MIB, step_s=0.02)
            model = (await connection.models.LoadModel(LoadModelRequest(name="fake"))).model
            assert model.instances[0].grown_bytes == 0
            watch = connection.models.WatchModel(WatchModelRequest(name="fake"))
            task = asyncio.create_task(read_all(connection.endless(tokens=100)))
            async for told in watch:
                if any(instance.grown_bytes > 32 * MIB for instance in told.model.instances):
                    break
            watch.cancel()
            events = await task
            assert text_of(events) == "la" * 50
            assert any(event.HasField("suspended") for event in events)
            await connection.channel.close()
    assert [entry for entry in logs if "memory_bytes" in entry and entry["log_level"] == "warning"]
    assert [entry for entry in logs if "was measured; at most " in entry.get("why", "")]
