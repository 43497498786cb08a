"""A mixed load through gRPC: tasks arrive at random, have random lengths and share system prompts.

Arrivals are a Poisson process; lengths of prompts and outputs are log-normal; each prompt begins with one of a few
system prompts, so that a prefix cache has something to find. The same seed gives the same load.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limits import Figure
from served import ROOM, kernel

from inferd_client import AsyncClient, Client

SECONDS = 30.0
ARRIVALS_PER_S = 1.5
SYSTEM_PROMPTS = 3
SYSTEM_TOKENS = 128
PROMPT = (64, 0.8, 512)  # median, sigma, most
OUTPUT = (32, 0.6, 128)
GOOD_FIRST_S = 2.0  # a task is good when its first token comes within this
GOOD_GAP_S = 0.5  # and no gap between its tokens is longer than this
NAMES = ("mixed.ttft.p50", "mixed.ttft.p99", "mixed.itl.p50", "mixed.itl.p99", "mixed.goodput", "mixed.cached")


@dataclass(slots=True)
class Outcome:
    """What a client saw of one task; instants are of `time.perf_counter`."""

    begun: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def gaps(self) -> list[float]:
        """Times between its messages, in seconds."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def good(self) -> bool:
        """Whether its user was served as promised."""
        return self.arrivals[0] - self.begun <= GOOD_FIRST_S and max(self.gaps, default=0.0) <= GOOD_GAP_S


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`mixed.*`."""
    if not any(name.startswith(only) for name in NAMES):
        return
    with kernel() as process, Client(process.address) as client:
        client.create_model("bench", source=str(weights), settings=ROOM)
        client.load_model("bench")
        seconds, outcomes = asyncio.run(_run(process.address))
    first = sorted(o.arrivals[0] - o.begun for o in outcomes)
    gaps = sorted(gap for o in outcomes for gap in o.gaps)
    good = [o for o in outcomes if o.good]
    cached = sum(o.cached_tokens for o in outcomes) / sum(o.prompt_tokens for o in outcomes)
    detail = f"{len(outcomes)} tasks, {ARRIVALS_PER_S:g} a second; {len(good)} good"
    values = (
        (first[len(first) // 2] * 1e3, "ms"),
        (first[int(len(first) * 0.99)] * 1e3, "ms"),
        (gaps[len(gaps) // 2] * 1e3, "ms"),
        (gaps[int(len(gaps) * 0.99)] * 1e3, "ms"),
        (sum(o.tokens for o in good) / seconds, "output tok/s"),
        (cached, "of the prompt tokens"),
    )
    for name, (value, unit) in zip(NAMES, values, strict=True):
        if name.startswith(only):
            yield Figure(name=name, value=round(value, 2), unit=unit, detail=detail)


async def _run(address: str) -> tuple[float, list[Outcome]]:
    rng = random.Random("mixed")
    systems = [[rng.randrange(1000, 40000) for _ in range(SYSTEM_TOKENS)] for _ in range(SYSTEM_PROMPTS)]
    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        await client.get_host()
        started = time.perf_counter()
        tasks = []
        at = 0.0
        while (at := at + rng.expovariate(ARRIVALS_PER_S)) < SECONDS:
            prompt = rng.choice(systems) + [rng.randrange(1000, 40000) for _ in range(_length(rng, *PROMPT))]
            tasks.append(group.create_task(_ask(client, started + at, prompt, _length(rng, *OUTPUT))))
    return time.perf_counter() - started, [task.result() for task in tasks]


def _length(rng: random.Random, median: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(median * rng.lognormvariate(0.0, sigma))))


async def _ask(client: AsyncClient, at: float, prompt: list[int], tokens: int) -> Outcome:
    await asyncio.sleep(max(0.0, at - time.perf_counter()))
    outcome = Outcome(begun=time.perf_counter())
    options: Any = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
    async for event in client.run("bench", prompt, **options):
        if event.HasField("output"):
            outcome.arrivals.append(time.perf_counter())
            outcome.tokens += len(event.output.token_ids)
        elif event.HasField("finished"):
            outcome.prompt_tokens = event.finished.usage.prompt_tokens
            outcome.cached_tokens = event.finished.usage.cached_tokens
    return outcome
