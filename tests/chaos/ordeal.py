"""`make chaos`: workers are ended in mid-stream, so many times as DEATHS says; progress, then one JSON line a model.

Each stream must be as in the undisturbed run. Pauses are printed beside what they are made of: a load alone and
reading the lost contexts alone.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import DEATHS, MANNERS, STREAMS, Request, Told, requests, wave
from starving import why_not

from inferd.plugin.child import TRACE_S
from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import AsyncClient

HEARTBEAT_TIMEOUT_S = 2.0
SETTINGS = {
    "INFERD_WORKERS__HEARTBEAT_S": "0.2",
    "INFERD_WORKERS__HEARTBEAT_TIMEOUT_S": str(HEARTBEAT_TIMEOUT_S),
    "INFERD_WORKERS__RESTART_BACKOFF_S": "0.1",
    "INFERD_WORKERS__RESTART_BACKOFF_MAX_S": "0.5",
}
OUTPUT_TOKENS = {"fake": 60, "smollm2": 24}


def manners() -> list[str]:
    """In which workers can be ended here."""
    return [manner for manner in MANNERS if manner != "starved" or not why_not()]


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which a part of them lies; 0 of none."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)] if values else 0.0


def differences(tasks: Sequence[Request], told: Sequence[Told], wanted: Sequence[Told]) -> list[str]:
    """What each stream that is not as undisturbed differs in."""
    names = ("text", "token ids", "logprobs", "prompt", "finish reasons", "usage")
    found = []
    for task, ours, theirs in zip(tasks, told, wanted, strict=True):
        parts = [n for n, a, b in zip(names, ours.contents, theirs.contents, strict=True) if a != b]
        if parts:
            found.append(f"{task.prompt[:40]!r} {dict(task.options)} resumed {ours.resumed} times: {', '.join(parts)}")
    return found


async def alone(client: AsyncClient, model: str, tasks: Sequence[Request]) -> dict[str, float]:
    """Medians of a load, and of reading the contexts of a wave, with nothing else to do; in seconds."""
    loads, readings = [], []
    for _ in range(5):
        await client.unload_model(model, force=True)
        begun = time.monotonic()
        await client.load_model(model)
        loads.append(time.monotonic() - begun)
        begun = time.monotonic()
        await wave(client, model, [Request(task.prompt, {"max_tokens": 1, "temperature": 0.0}) for task in tasks])
        readings.append(time.monotonic() - begun)
    return {"load_s": statistics.median(loads), "reading_s": statistics.median(readings)}


@dataclass(slots=True)
class Tally:
    """What came of the waves of a model.

    Attributes:
        deaths: Workers that were ended, by manner.
        streams: How many there were beside a death.
        resumed: How many of them went on.
        wrong: What is not as undisturbed.
        pauses: Of streams that went on in waves with one death, by manner, in seconds.
    """

    deaths: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)
    pauses: dict[str, list[float]] = field(default_factory=lambda: {manner: [] for manner in manners()})

    async def add(self, client: AsyncClient, model: str, number: int, seed: int) -> None:
        """A wave without deaths, and one with some in each manner."""
        tasks = requests(seed, output_tokens=OUTPUT_TOKENS[model])
        wanted = await wave(client, model, tasks)
        count = DEATHS[number % len(DEATHS)]
        for manner in manners():
            told = await wave(client, model, tasks, manners=[manner] * count, seed=seed)
            self.wrong += differences(tasks, told, wanted)
            self.deaths[manner] += count
            self.streams += len(told)
            again = [each.pause_s for each in told if each.resumed]
            self.resumed += len(again)
            if count == 1:
                self.pauses[manner] += again

    def figures(self, base: dict[str, float]) -> dict[str, Any]:
        """As they are printed.

        Of workers that hung, the time until that is noticed, and in which they may say where, is no part of the ratio.
        """
        least = sum(base.values())
        unseen = {manner: HEARTBEAT_TIMEOUT_S + TRACE_S if manner == "stopped" else 0.0 for manner in self.pauses}
        p99 = {manner: quantile(values, 0.99) for manner, values in self.pauses.items()}
        return {
            "deaths": dict(self.deaths),
            "streams": self.streams,
            "went_on": self.resumed,
            "wrong": len(self.wrong),
            "pause_p50_s": {manner: round(quantile(values, 0.5), 3) for manner, values in self.pauses.items()},
            "pause_p99_s": {manner: round(value, 3) for manner, value in p99.items()},
            "alone": {name: round(value, 3) for name, value in base.items()},
            "p99_by_alone": {manner: round((value - unseen[manner]) / least, 2) for manner, value in p99.items()},
        }


async def run(address: str, model: str, source: str, *, deaths: int, seed: int) -> bool:
    """Waves until so many workers have been ended; whether each stream was as it should be."""
    began, tally, number = time.monotonic(), Tally(), 0
    async with AsyncClient(address) as client:
        await client.create_model(model, source=source)
        await client.load_model(model)
        base = await alone(client, model, requests(seed, output_tokens=OUTPUT_TOKENS[model]))
        while sum(tally.deaths.values()) < deaths:
            await tally.add(client, model, number, seed + number)
            number += 1
            print(
                f"{model}: {sum(tally.deaths.values())} of {deaths} deaths, {tally.streams} streams, "
                f"{len(tally.wrong)} wrong",
                file=sys.stderr,
            )
    for line in tally.wrong:
        print(line, file=sys.stderr)
    figures = {"name": f"chaos.{model}", "at_once": STREAMS, **tally.figures(base)}
    print(json.dumps(figures | {"took_s": round(time.monotonic() - began)}), flush=True)
    return not tally.wrong


def smollm2() -> str:
    """The path of the real model, which is fetched where it is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "inferd", "pull", "smollm2", "-o", "json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return str(json.loads(done.stdout)["path"])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=sorted(OUTPUT_TOKENS), default=["fake", "smollm2"])
    chosen = parser.parse_args()
    right = True
    if reason := why_not():
        print(f"no worker is ended because memory runs out: {reason}", file=sys.stderr)
    for model in chosen.models:
        with tempfile.TemporaryDirectory() as folder, kernel_process(Path(folder), environment=SETTINGS) as kernel:
            fake = model == "fake"
            source = str(write_fake_model(Path(folder), step_s=0.005, blocks=8192)) if fake else smollm2()
            deaths = chosen.deaths // len(chosen.models)
            right &= asyncio.run(run(kernel.address, model, source, deaths=deaths, seed=chosen.seed))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
