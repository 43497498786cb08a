"""Fairness on the real engine: what two backlogged tenants are served, and what one feels beside a flood or a book."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limits import Figure
from served import ROOM

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import AsyncClient, Client

SECONDS = 60.0
WARM_S = 5.0  # between the two halves of a comparison
BACKLOG = 48  # tasks that each tenant keeps waiting or running
PLACES = "16"  # fewer than either tenant has tasks: both are always backlogged
LONG, SHORT = 256, 16  # prompt tokens of the two tenants
OUTPUT = 24
FLOOD = 100  # times as many tasks as the other tenant sends
QUIET_PER_S = 1.0
QUIET_PROMPT = 512
QUIET_TASKS = 100
BOOK, NOTE = 7500, 16  # prompt tokens of one who sends a long prompt, and of one who sends short ones beside it
NOTES_ALONE = 20
NOTES_PAUSE_S = 0.3
NAMES = ("fair.share.equal", "fair.share.weighted", "fair.flood.ttft", "fair.long_prompt")


@contextmanager
def kernel_with(path: Path, settings: dict[str, str], **scheduler: Any) -> Iterator[KernelProcess]:
    """A kernel with the model `bench` loaded."""
    environment = {f"INFERD_SCHEDULER__{name.upper()}": json.dumps(value) for name, value in scheduler.items()}
    with TemporaryDirectory() as folder, kernel_process(Path(folder), environment=environment) as process:
        with Client(process.address) as client:
            client.create_model("bench", source=str(path), settings=settings)
            client.load_model("bench")
            list(client.run("bench", _tokens(random.Random("warm"), 64), max_tokens=4, ignore_eos=True))
        yield process


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`fair.*`."""
    for name, weight in ((NAMES[0], 1.0), (NAMES[1], 3.0)):
        if name.startswith(only):
            with kernel_with(weights, {**ROOM, "max_sequences": PLACES}, weights={"short": weight}) as process:
                served = asyncio.run(_share(process.address))
            ratio = served["short"] / served["long"]
            detail = f"tokens served to two backlogged tenants in {SECONDS:g} s over their weights 1:{weight:g}; "
            detail += f"prompts of {LONG} and {SHORT} tokens: {served['long']} and {served['short']} tokens"
            yield Figure(name=name, value=round(ratio / weight, 3), unit="ratio", detail=detail)
    if NAMES[2].startswith(only):
        with kernel_with(weights, ROOM) as process:
            alone, beside, refused = asyncio.run(_flood(process.address))
        detail = f"p99 of the time to the first token of {QUIET_PROMPT} tokens beside a tenant with {FLOOD} times as "
        detail += f"many tasks, {beside * 1e3:.0f} ms, over alone, {alone * 1e3:.0f} ms; {refused} of the flood refused"
        yield Figure(name=NAMES[2], value=round(beside / alone, 3), unit="ratio", detail=detail)
    if NAMES[3].startswith(only):
        with kernel_with(weights, ROOM) as process:
            alone, beside, step = asyncio.run(_beside_a_book(process.address))
        slowest, bound = max(beside), 2 * alone + step
        detail = f"the longest of {len(beside)} times to the first token of {NOTE} tokens beside a prompt of {BOOK}, "
        detail += (
            f"{slowest * 1e3:.0f} ms, over its bound: twice alone, {alone * 1e3:.0f} ms, and the longest step then, "
        )
        detail += f"{step * 1e3:.0f} ms"
        yield Figure(name=NAMES[3], value=round(slowest / bound, 3), unit="ratio", detail=detail)


async def _share(address: str) -> dict[str, int]:
    """Tokens, of prompts and outputs, that each tenant was served; prompts count when their first token comes."""
    rng = random.Random("share")
    served = {"long": 0, "short": 0}
    started = time.perf_counter()

    async def ask(client: AsyncClient, tenant: str, prompt_tokens: int) -> None:
        while (now := time.perf_counter() - started) < SECONDS:
            prompt, first = _tokens(rng, prompt_tokens), True
            async for event in client.run("bench", prompt, max_tokens=OUTPUT, ignore_eos=True, prefix_cache=False):
                now = time.perf_counter() - started
                if event.HasField("output") and now < SECONDS:
                    served[tenant] += len(event.output.token_ids) + (prompt_tokens if first else 0)
                    first = False

    async with (
        AsyncClient(address, tenant="long") as a,
        AsyncClient(address, tenant="short") as b,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(BACKLOG):
            group.create_task(ask(a, "long", LONG))
            group.create_task(ask(b, "short", SHORT))
    return served


async def _flood(address: str) -> tuple[float, float, int]:
    """The quiet tenant's p99 time to its first token alone and beside the flood, and how many of that were refused."""
    async with AsyncClient(address, tenant="quiet") as client:
        alone = await _quiet(client)
        program = [str(Path(__file__).with_name("flood.py")), address, "flood", "bench", str(QUIET_PER_S * FLOOD)]
        pipe = asyncio.subprocess.PIPE
        flood = await asyncio.create_subprocess_exec(sys.executable, *program, stdin=pipe, stdout=pipe)
        await asyncio.sleep(WARM_S)
        beside = await _quiet(client)
        if flood.returncode is not None:
            raise RuntimeError(f"flood.py ended with {flood.returncode} before it was told to")
        printed, _ = await flood.communicate(b"")  # which ends its input
    per_s, refused = map(float, printed.split())
    if per_s < 0.95 * QUIET_PER_S * FLOOD:
        raise RuntimeError(f"flood.py sent {per_s:.0f} tasks a second, not {QUIET_PER_S * FLOOD:g}")
    return alone, beside, int(refused)


async def _beside_a_book(address: str) -> tuple[float, list[float], float]:
    """The median time to the first token of a short prompt alone, all beside a long one, and the longest step then."""
    rng = random.Random("book")
    told: list[float] = []
    begins = asyncio.Event()

    async def note(client: AsyncClient) -> float:
        begun = time.perf_counter()
        async for event in client.run("bench", _tokens(rng, NOTE), max_tokens=1, prefix_cache=False):
            if event.HasField("output"):
                return time.perf_counter() - begun
        raise RuntimeError("a task ended without a token")

    async def book(client: AsyncClient) -> None:
        async for event in client.run("bench", _tokens(rng, BOOK), max_tokens=1, prefix_cache=False):
            if event.HasField("progress"):
                told.append(time.perf_counter())
                begins.set()

    async with AsyncClient(address, tenant="short") as short, AsyncClient(address, tenant="long") as long:
        alone = sorted([await note(short) for _ in range(NOTES_ALONE)])[NOTES_ALONE // 2]
        reading, beside = asyncio.create_task(book(long)), list[float]()
        await begins.wait()
        while not reading.done():
            beside.append(await note(short))
            await asyncio.sleep(NOTES_PAUSE_S)
        await reading
    return alone, beside, max(after - before for before, after in pairwise(told))


async def _quiet(client: AsyncClient) -> float:
    """The p99 of the time to the first token of tasks that come one by one."""
    rng = random.Random("quiet")
    times: list[float] = []

    async def ask() -> None:
        begun = time.perf_counter()
        events = client.run("bench", _tokens(rng, QUIET_PROMPT), max_tokens=8, ignore_eos=True, prefix_cache=False)
        async for event in events:
            if event.HasField("output"):
                times.append(time.perf_counter() - begun)
                break

    async with asyncio.TaskGroup() as group:
        for _ in range(QUIET_TASKS):
            group.create_task(ask())
            await asyncio.sleep(1 / QUIET_PER_S)
    return sorted(times)[ceil(len(times) * 0.99) - 1]


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1000, 40000) for _ in range(count)]
