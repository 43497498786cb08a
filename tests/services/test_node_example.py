"""The example for Node: it goes on behind the last event that it has seen, whatever breaks."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_client import AsyncClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
NODE = shutil.which("node")
DEADLINE_S = 60.0


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.skipif(
    not (EXAMPLE / "node_modules" / "@grpc").is_dir(), reason="npm install was not run in examples/node"
)
async def test_each_event_is_seen_once_over_a_restart(tmp_path: Path) -> None:
    """A kernel ends in the middle of a text and the next one goes on: the program prints all of it, nothing twice."""
    address = f"unix:{tmp_path}/kernel.sock"
    settings: dict[str, Any] = {"listen": (address,), "store": {"url": f"sqlite:{tmp_path}/kept/store"}}
    async with asyncio.timeout(DEADLINE_S), AsyncClient(address) as client:
        async with kernel_here(tmp_path, **settings) as kernel:
            await client.create_model("fake", source=str(write_fake_model(tmp_path, step_s=0.01)))
            program = await asyncio.create_subprocess_exec(
                str(NODE),
                *(str(EXAMPLE / "watch.mjs"), address, "fake", "la", "once"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert program.stdout is not None
            seen = await program.stdout.readexactly(6)
            kernel.driver.close()
        async with kernel_here(tmp_path, **settings):
            rest, said = await program.communicate()
            (task,) = [each async for each in client.list_tasks()]
            text = "".join([event.output.text async for event in client.watch(task.task_id)])
        assert program.returncode == 0, said
        assert b"the kernel is away" in said
        assert (seen + rest).decode() == text + "\n"
        assert task.attempt > 1
