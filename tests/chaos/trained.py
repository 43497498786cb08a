"""What trainings of ordeals have in common: rows of English, a model that is trained, what came of it."""

import asyncio
import sys
import time
from pathlib import Path
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
SAID_S: Final = 5.0  # between two words on how far it is


def say(what: str) -> None:
    """Tell how far it is, for people."""
    print(what, file=sys.stderr, flush=True)


def write_folder(file: str, folder: Path) -> str:
    """Write a GGUF file as a folder with numbers of 32 bits, which is read in a tenth of the time; its path."""
    import torch  # noqa: PLC0415 - not of all ordeals
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - as above

    given = {"pretrained_model_name_or_path": Path(file).parent, "gguf_file": Path(file).name}
    read = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config")  # that of the file: the numbers are plain ones now
    plain = type(read)(type(read.config).from_dict(settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**given).save_pretrained(folder)
    return str(folder)


def rows(count: int) -> list[dict[str, str]]:
    """So many rows of what Python says of itself, of twenty words each."""
    words = " ".join(text for _, text in sorted(topics.items())).split()
    return [{"text": " ".join(words[at * WORDS : (at + 1) * WORDS])} for at in range(count)]


async def ended(client: AsyncClient, training_id: str) -> tp.Training:
    """How a training ended.

    Raises:
        SystemExit: Not well.
    """
    told, begun, said = tp.Training(), time.monotonic(), 0.0
    async for told in client.watch_training(training_id):
        if (passed := time.monotonic() - begun) >= said + SAID_S:
            said = passed
            say(f"  {told.spec.name}: step {told.step} of {told.steps} after {passed:.0f} s {told.waits_for}".rstrip())
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
