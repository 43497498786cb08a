"""Overload: ten times as many tasks as can be served. Refusals must be fast, and as much be served as ever.

The backend computes nothing but waits, as one on a device of its own does: the figures are the kernel's.
"""

import asyncio
import time
from collections.abc import Iterator

from limits import Figure
from served import clients, kernel

from inferd.testing.kernel import write_fake_model
from inferd_client import AsyncClient, Client
from inferd_client.errors import LimitExceededError, QueueFullError

SECONDS = 20.0
OVERLOAD = 10
TOKENS = 32
STEP_S = 0.02
PLACES = 32
NAMES = ("overload.refusal.p99", "overload.goodput", "overload.rss")


def figures(*, only: str) -> Iterator[Figure]:
    """`overload.*`."""
    if not any(name.startswith(only) for name in NAMES):
        return
    with kernel() as process, Client(process.address) as client:
        path = write_fake_model(process.folder, blocks=8192, step_s=STEP_S, max_sequences=PLACES)
        client.create_model("bench", source=str(path))
        client.load_model("bench")
        peak = asyncio.run(_closed(process.address))
        before = client.get_host().memory_bytes
        served, refusals = asyncio.run(_open(process.address, OVERLOAD * peak))
        grown = (client.get_host().memory_bytes - before) / 2**20
    refusals.sort()
    detail = f"{OVERLOAD * peak:.0f} tasks a second offered, {peak:.1f} a second at the peak, {len(refusals)} refused"
    values = (
        (refusals[int(len(refusals) * 0.99)] * 1e3, "ms"),
        (served / peak, "of the peak"),
        (grown, "MiB more"),
    )
    for name, (value, unit) in zip(NAMES, values, strict=True):
        if name.startswith(only):
            yield Figure(name=name, value=round(value, 3), unit=unit, detail=detail)


async def _closed(address: str) -> float:
    """Tasks served a second when as many run as can."""
    ended = 0
    started = time.perf_counter()

    async def ask(client: AsyncClient) -> None:
        nonlocal ended
        while time.perf_counter() - started < SECONDS:
            await client.generate("bench", "la", max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
            ended += 1

    async with clients(address, 1) as (client,), asyncio.TaskGroup() as group:
        for _ in range(2 * PLACES):
            group.create_task(ask(client))
    return ended / (time.perf_counter() - started)


async def _open(address: str, rate: float) -> tuple[float, list[float]]:
    """Tasks served a second when so many a second are offered, and how long each refusal took."""
    served = 0
    refusals: list[float] = []

    async def ask(client: AsyncClient) -> None:
        nonlocal served
        begun = time.perf_counter()
        try:
            await client.generate("bench", "la", max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        except (QueueFullError, LimitExceededError):
            refusals.append(time.perf_counter() - begun)
        else:
            served += begun - started < SECONDS

    async with clients(address, 2) as made, asyncio.TaskGroup() as group:
        started = time.perf_counter()
        count = 0
        while (elapsed := time.perf_counter() - started) < SECONDS:
            while count < elapsed * rate:
                group.create_task(ask(made[count % 2]))
                count += 1
            await asyncio.sleep(0.005)
        counted = time.perf_counter() - started
        at_end = served
    return at_end / counted, refusals
