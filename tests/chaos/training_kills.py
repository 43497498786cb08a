"""`make chaos KILLS=20`: a LoRA of SmolLM2 is trained by a kernel that is killed, or its worker, so many times.

One training is left in peace; of another one the worker is killed at random moments, of loads, steps, judgements and
checkpoints, and every third time the whole kernel, which is started again over what it has kept. Curve and weights have
to be those of peace, bit for bit. Progress, then one JSON line.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from ordeal import smollm2
from trained import (
    BATCH,
    GOES_ON,
    MODEL,
    curve,
    delay,
    ended,
    recipe,
    rows,
    say,
    until_step,
    until_worker,
    write_folder,
)

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import AsyncClient

DEADLINE_S = 900.0  # for a worker to be there, on a machine that does much else
STEP_S = (0.0, 1.5)  # from a step to a kill
LOAD_S = (0.0, 10.0)  # from the start of a worker to a kill
LOADS = 0.3  # share of the kills that come while a worker loads, or soon after


async def _kill(
    kernel: KernelProcess, client: AsyncClient, training_id: str, chance: random.Random, *, all_: bool
) -> str:
    """Kill the worker, or all, at a random moment; when that was, or "" where it has ended."""
    loads = chance.random() < LOADS
    if loads:
        await until_worker(kernel, DEADLINE_S)
        await delay(chance.uniform(*LOAD_S))
    else:
        least = (await client.get_training(training_id)).step + chance.randint(0, 2)
        await until_step(client, training_id, least)
        await delay(chance.uniform(*STEP_S))
    told = await client.get_training(training_id)
    if told.state not in GOES_ON:
        return ""
    if all_:
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.process.wait()
    else:
        worker = await until_worker(kernel, DEADLINE_S)
        with suppress(psutil.NoSuchProcess):
            worker.kill()
        await asyncio.to_thread(worker.wait, DEADLINE_S)  # so that no kill is of one that is dead
    return "load" if loads else f"step {told.step}"


async def ordeal(folder: Path, *, kills: int, steps: int, seed: int) -> dict[str, object]:
    """What has come of it."""
    chance, given = random.Random(seed), rows(96)
    learnt = len(given) - round(len(given) * recipe()["held"])
    chosen = recipe(epochs=steps * BATCH / learnt, checkpoint_every=2, evaluate_every=max(steps // 4, 1))
    environment = {
        "INFERD_STORE__URL": f"sqlite:{folder}/kept/store",
        "INFERD_BACKENDS": '["torch"]',
        "INFERD_TRAIN": json.dumps({"report_s": 0.05, "retry_s": 0.1, "vain": 100, "threads": 1, "nice": 0}),
    }
    training_id, done, moments, begun = "", 0, list[str](), time.monotonic()
    source = write_folder(smollm2(), folder / "model")
    say(f"the model is written after {time.monotonic() - begun:.0f} s")
    while True:
        with kernel_process(folder / "kernel", environment=environment) as kernel:
            async with AsyncClient(kernel.address) as client:
                if not training_id:
                    await client.create_model(MODEL, source)
                    peace = await client.train("peace", given, recipe=chosen, model=MODEL)
                    whole = await ended(client, peace.training_id)
                    wanted = await curve(client, peace.training_id)
                    say(f"in peace: {whole.steps} steps in {time.monotonic() - begun:.0f} s")
                    training_id = (await client.train("killed", given, recipe=chosen, model=MODEL)).training_id
                while done < kills:
                    all_ = done % 3 == 2
                    moment = await _kill(kernel, client, training_id, chance, all_=all_)
                    if not moment:
                        raise SystemExit(f"it ended before kill {done + 1}; take more --steps")
                    done += 1
                    moments.append(f"{'kernel' if all_ else 'worker'} at {moment}")
                    say(f"kill {done}: {moments[-1]}, after {time.monotonic() - begun:.0f} s")
                    if all_:
                        break
                else:
                    found = await ended(client, training_id)
                    same = await curve(client, training_id) == wanted
                    return {
                        "kills": done,
                        "kernels": sum(each.startswith("kernel") for each in moments),
                        "in loads": sum(each.endswith("load") for each in moments),
                        "steps": found.steps,
                        "attempts": found.attempts,
                        "same_losses": same,
                        "same_weights": _weights(found.result.path) == _weights(whole.result.path),
                        "s": round(time.monotonic() - begun),
                        "load": os.getloadavg()[0],
                    }


def _weights(folder: str) -> list[bytes]:
    return [each.read_bytes() for each in sorted(Path(folder).glob("*.safetensors"))]


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=26)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trained-") as folder:
        found = asyncio.run(ordeal(Path(folder), kills=options.kills, steps=options.steps, seed=options.seed))
    print(json.dumps(found))
    if not (found["same_losses"] and found["same_weights"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
