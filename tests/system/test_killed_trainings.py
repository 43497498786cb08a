"""A training whose workers and kernels are killed at random moments: it comes to the same, bit for bit.

Twenty deaths of workers, in loads, steps, judgements and the writing of checkpoints, and three of kernels: that is what
the minute goes for.
"""

import asyncio
import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1 import training_pb2 as tp
from inferd_client import AsyncClient

pytestmark = [pytest.mark.e2e]

ROWS = [{"text": f"text {number}", "label": ("red", "blue")[number % 3 == 0]} for number in range(200)]
RECIPE: dict[str, Any] = {"method": "classify", "batch": 4, "epochs": 4, "checkpoint_every": 2, "evaluate_every": 7}
KILLS, KERNELS = 20, 3
DEADLINE_S = 600.0
GOES_ON = (tp.TRAINING_STATE_QUEUED, tp.TRAINING_STATE_RUNNING)


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    return [each async for each in client.watch_training(training_id)][-1]


async def told(client: AsyncClient, training: tp.Training) -> tuple[Any, ...]:
    """What a training has come to: its curve, its judgements, and its result."""
    curve = [(each.step, each.loss, each.tokens) async for each in client.training_steps(training.training_id)]
    judged = [(each.step, each.loss, dict(each.figures)) for each in training.judgements]
    return curve, judged, training.tokens, training.result.digest


def workers(kernel: KernelProcess) -> list[psutil.Process]:
    """Processes that have loaded something, or are about to."""
    children = psutil.Process(kernel.pid).children()
    return [child for child in children if "inferd.worker" in " ".join(child.cmdline())]


async def kill_some(kernel: KernelProcess, client: AsyncClient, training_id: str, chance: random.Random) -> int:
    """Kill what works at random moments; how often."""
    kills = 0
    for number in range(KILLS // KERNELS + 1):
        if number % 3:  # in its steps, or in what comes between
            least = (await client.get_training(training_id)).checkpoint_step + chance.randint(1, 6)
            async for training in client.watch_training(training_id):
                if training.state == tp.TRAINING_STATE_RUNNING and training.step >= least:
                    break
        with suppress(TimeoutError):  # a moment that nothing else tells
            async with asyncio.timeout(chance.uniform(0.0, 0.5 if number % 3 else 2.5)):
                await asyncio.Event().wait()
        if (await client.get_training(training_id)).state not in GOES_ON:
            break
        for worker in workers(kernel):
            try:
                os.kill(worker.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills += 1
    return kills


async def test_a_training_is_the_same_whatever_is_killed(tmp_path: Path) -> None:
    """Curve, judgements and the files of the result equal those of a training that nothing has disturbed."""
    chance = random.Random(26)
    environment = {
        "INFERD_STORE__URL": f"sqlite:{tmp_path}/kept/store",
        "INFERD_TRAIN": json.dumps({"report_s": 0.05, "retry_s": 0.1, "vain": 50}),
    }
    quick, slow = write_fake_model(tmp_path, "quick"), write_fake_model(tmp_path, "slow", step_s=0.25)
    training_id, kills, deaths, wanted = "", 0, 0, ()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with kernel_process(tmp_path / "kernel", environment=environment) as kernel:
                async with AsyncClient(kernel.address) as client:
                    if not training_id:
                        await client.create_model("quick", str(quick))
                        await client.create_model("slow", str(slow))
                        peace = await client.train("killed", ROWS, recipe=RECIPE, model="quick")
                        wanted = await told(client, await ended(client, peace.training_id))
                        await client.delete_model("killed")
                        made = await client.train("killed", ROWS, recipe=RECIPE, model="slow")
                        training_id = made.training_id
                    if deaths < KERNELS:
                        kills += await kill_some(kernel, client, training_id, chance)
                        os.kill(kernel.pid, signal.SIGKILL)
                        kernel.process.wait()
                        deaths += 1
                        continue
                    found = await ended(client, training_id)
                    assert found.state == tp.TRAINING_STATE_SUCCEEDED, found.error
                    assert await told(client, found) == wanted
                    break

    assert kills >= KILLS
    assert found.attempts >= KILLS // 2
