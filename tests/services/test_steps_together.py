"""Steps that a kernel reads together are told as one: its clients see the outputs that they would see of each."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from connection import Connection

from inferd.runtime import link
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

TOKENS = 300
STREAMS = 6


def prompt(number: int) -> str:
    """A text of six bytes, which the FakeBackend goes on repeating."""
    return f"{number}-äö"


def specs(samples: int) -> list[tp.TaskSpec]:
    """Tasks that each say something else for a long time; the last has so many samples."""
    chosen = [{"temperature": 0.0}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.0, "stop": ["nothing says so"]}]
    more = [chosen[number % 3] for number in range(STREAMS - 1)] + [{"temperature": 1.0, "seed": 3, "n": samples}]
    return [
        tp.TaskSpec(model="fake", prompt=prompt(number), sampling=sp.SamplingParams(max_tokens=TOKENS, **each))
        for number, each in enumerate(more)
    ]


async def told(call: Any, begun: asyncio.Event) -> tuple[dict[int, tuple[str, list[int]]], int]:
    """The text and tokens of each sample of a task, and how many events told them."""
    outputs: dict[int, tuple[str, list[int]]] = {}
    async for response in call:
        event = response.event
        if event.HasField("output"):
            text, tokens = outputs.get(event.output.sample, ("", []))
            outputs[event.output.sample] = (text + event.output.text, [*tokens, *event.output.token_ids])
            begun.set()
    assert event.finished.state == tp.TASK_STATE_SUCCEEDED
    return outputs, event.sequence


@pytest.mark.parametrize("samples", [1, 3])
async def test_steps_told_together_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """Every sample gets all of its own text and tokens once, also behind a worker that is killed meanwhile."""
    monkeypatch.setattr(link, "REST", 1e9)
    monkeypatch.setattr(link, "MOST_REST_S", 0.02)
    async with kernel_here(tmp_path) as kernel:
        connection, begun = Connection(kernel, tmp_path), asyncio.Event()
        await connection.create(blocks=8192)
        calls = [connection.tasks.RunTask(ts.RunTaskRequest(spec=spec)) for spec in specs(samples)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            reading = [group.create_task(told(call, begun)) for call in calls]
            await begun.wait()
            os.kill(next(iter(kernel.driver.supervisor.workers.values())).pid, signal.SIGKILL)
        await connection.channel.close()
    for number, (outputs, _) in enumerate(each.result() for each in reading):
        text = prompt(number) * (TOKENS // 6)
        assert list(outputs) == list(range(samples if number == STREAMS - 1 else 1))
        assert set(map(str, outputs.values())) == {str((text, list(text.encode())))}
    assert min(each.result()[1] for each in reading) < TOKENS  # no step was told for itself
