"""What trainings of ordeals have in common: rows of English, a model that is trained, what came of it."""

import asyncio
import time
from pydoc_data.topics import topics
from typing import Any, Final

import psutil

from inferd.testing.kernel import KernelProcess
from inferd_api.v1 import training_pb2 as tp
from inferd_client import AsyncClient

MODEL: Final = "smollm2"
GOES_ON: Final = (tp.TRAINING_STATE_QUEUED, tp.TRAINING_STATE_RUNNING)
WORDS: Final = 20  # of a row
BATCH: Final = 4
MOMENT_S: Final = 0.02  # between two looks at whether it has come to something


def rows(count: int) -> list[dict[str, str]]:
    """So many rows of what Python says of itself, of twenty words each."""
    words = " ".join(text for _, text in sorted(topics.items())).split()
    return [{"text": " ".join(words[at * WORDS : (at + 1) * WORDS])} for at in range(count)]


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    """How a training ended.

    Raises:
        SystemExit: Not well.
    """
    told = [each async for each in client.watch_training(training_id)][-1]
    if told.state != tp.TRAINING_STATE_SUCCEEDED:
        raise SystemExit(f"the training ended so: {told.error.message}")
    return told


async def curve(client: AsyncClient, training_id: str) -> list[tuple[int, str]]:
    """Its losses by step, to the last bit."""
    return [(each.step, each.loss.hex()) async for each in client.training_steps(training_id)]


async def until_step(client: AsyncClient, training_id: str, least: int) -> tp.Training:
    """The training once it runs and has done so many steps, or has ended."""
    told = tp.Training()
    async for told in client.watch_training(training_id):
        if told.state == tp.TRAINING_STATE_RUNNING and told.step >= least:
            break
    return told


async def delay(seconds: float) -> None:
    """Let so much time pass: a moment that nothing else tells."""
    await asyncio.to_thread(time.sleep, seconds)


def workers(parent: int) -> list[psutil.Process]:
    """Processes below one that have loaded something, or are about to."""
    found = []
    for each in psutil.Process(parent).children(recursive=True):
        try:
            if "inferd.worker" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:
            continue
    return found


async def until_worker(kernel: KernelProcess, deadline_s: float) -> psutil.Process:
    """A worker of a kernel, as soon as it has one."""
    async with asyncio.timeout(deadline_s):
        while not (found := workers(kernel.pid)):  # nobody is told when one begins
            await delay(MOMENT_S)
    return found[0]


def recipe(**changes: Any) -> dict[str, Any]:
    """Of a LoRA."""
    return {
        "method": "lora",
        "batch": BATCH,
        "accumulate": 2,
        "learning_rate": 1e-3,
        "most_tokens": 32,
        "dropout": 0.1,
        "seed": 3,
        "held": 0.05,
        **changes,
    }
