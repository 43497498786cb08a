"""What prefix cache, paced prompts and speculation are worth, each as a ratio of two runs of one sitting."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limits import Figure
from served import ROOM, kernel, run_case
from workload import WARM

from inferd_client import AsyncClient, Client

SHARED_TOKENS = 1024
OWN_TOKENS = 16
PAIRS = 5
STREAMS = 16
LONG_TOKENS = 4096
STREAM_TOKENS = 120
QUIET_TOKENS = 40  # of each stream before the long prompt arrives
DRAFTS = "4"
SPECULATION_RUNS = 9
SPECULATION_TOKENS = 384
SPECULATION_ROOM = {"kv_tokens": "2048", "max_sequences": "4"}
CYCLE_TOKENS = 16  # once random, then again and again: the model goes on with them by a wide margin
NAMES = ("prefix.ttft", "gap.long_prompt", "speculation.cost", "speculation.gain")


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`prefix.ttft`, `gap.long_prompt`, `speculation.cost` and `speculation.gain`."""
    if any(name.startswith(only) for name in NAMES[:2]):
        with kernel() as process, Client(process.address) as client:
            client.create_model("bench", source=str(weights), settings=ROOM)
            client.load_model("bench")
            asyncio.run(run_case(process.address, WARM))
            if NAMES[0].startswith(only):
                yield _prefix(client)
            if NAMES[1].startswith(only):
                yield asyncio.run(_gap(process.address))
    if any(name.startswith(only) for name in NAMES[2:]):
        yield from _speculation(weights)


def _prefix(client: Client) -> Figure:
    """Time to the first token with a prefix that was seen before, over that with one that was not."""
    rng = random.Random("prefix")
    ratios = []
    for _ in range(PAIRS):
        shared = _tokens(rng, SHARED_TOKENS)
        first = _first_token_s(client, shared + _tokens(rng, OWN_TOKENS))
        ratios.append(_first_token_s(client, shared + _tokens(rng, OWN_TOKENS)) / first)
    detail = f"second over first of two prompts that share {SHARED_TOKENS} tokens, median of {PAIRS}"
    return Figure(name="prefix.ttft", value=round(statistics.median(ratios), 3), unit="ratio", detail=detail)


def _first_token_s(client: Client, prompt: list[int]) -> float:
    started = time.perf_counter()
    list(client.run("bench", prompt, max_tokens=1, temperature=0.0, ignore_eos=True))
    return time.perf_counter() - started


async def _gap(address: str) -> Figure:
    """How much the 99th percentile of the gaps of running streams grows while a long prompt is read."""
    rng = random.Random("gap")
    arrivals: list[list[float]] = [[] for _ in range(STREAMS)]
    quiet = asyncio.Event()

    async def stream(client: AsyncClient, number: int) -> None:
        options: Any = {"max_tokens": STREAM_TOKENS, "temperature": 0.0, "ignore_eos": True}
        async for event in client.run("bench", _tokens(rng, 64), **options):
            if event.HasField("output"):
                arrivals[number].append(time.perf_counter())
                if min(map(len, arrivals)) >= QUIET_TOKENS:
                    quiet.set()

    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        for number in range(STREAMS):
            group.create_task(stream(client, number))
        await quiet.wait()
        begun = time.perf_counter()
        await client.generate("bench", _tokens(rng, LONG_TOKENS), max_tokens=1, temperature=0.0)
        ended = time.perf_counter()
    settled = [times[8:] for times in arrivals]  # behind the prefill of the streams themselves
    before, during = (
        sorted(b - a for times in settled for a, b in itertools.pairwise(times) if low <= b <= high)
        for low, high in ((0.0, begun), (begun, ended))
    )
    added_ms = (during[int(len(during) * 0.99)] - before[int(len(before) * 0.99)]) * 1e3
    detail = f"p99 gap of {STREAMS} streams {before[int(len(before) * 0.99)] * 1e3:.0f} ms, while {LONG_TOKENS} tokens "
    detail += f"are read for {ended - begun:.1f} s {during[int(len(during) * 0.99)] * 1e3:.0f} ms"
    return Figure(name="gap.long_prompt", value=round(added_ms, 1), unit="ms", detail=detail)


def _speculation(weights: Path) -> Iterator[Figure]:
    """Seconds without drafts over seconds with them: where none is accepted, and where the text repeats itself."""
    prompts: dict[str, tuple[str | list[int], float]] = {
        "cost": ("It was a dark and stormy night", 1.5),
        "gain": (_tokens(random.Random("cycle"), CYCLE_TOKENS) * 16, 0.0),
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    with kernel() as process, Client(process.address) as client:
        for drafts in ("0", DRAFTS):
            client.create_model(drafts, source=str(weights), settings={**SPECULATION_ROOM, "draft_tokens": drafts})
            client.load_model(drafts)
        for run, drafts in itertools.product(range(SPECULATION_RUNS + 1), ("0", DRAFTS)):
            for name, (prompt, temperature) in prompts.items():
                started = time.perf_counter()
                options: Any = {
                    "max_tokens": SPECULATION_TOKENS,
                    "ignore_eos": True,
                    "seed": run,
                    "prefix_cache": False,
                }
                client.generate(drafts, prompt, temperature=temperature, **options)
                if run:  # the first one warms up
                    seconds.setdefault((name, drafts), []).append(time.perf_counter() - started)
    for name in prompts:
        ratios = [off / on for off, on in zip(seconds[name, "0"], seconds[name, DRAFTS], strict=True)]
        what = "random text, next to none accepted" if name == "cost" else "text that repeats itself"
        detail = f"speed with {DRAFTS} drafts over without, {what}, median of {SPECULATION_RUNS} pairs of runs"
        yield Figure(name=f"speculation.{name}", value=round(statistics.median(ratios), 3), unit="ratio", detail=detail)


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 40000) for _ in range(count)]
