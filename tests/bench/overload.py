"""Overload: ten times as many tasks as can be served. Refusals must be fast, and as much be served as ever.

The backend computes nothing but waits, as one on a device of its own does: the figures are the kernel's. Refusals are
timed in a process that does nothing else, for a tenant whose part of the queue is full of suspended tasks.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from limits import Figure
from refusals import PER_S
from served import clients

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_client import AsyncClient, Client
from inferd_client.errors import QueueFullError

SECONDS = 20.0
OVERLOAD = 10
TOKENS = 32
STEP_S = 0.02
PLACES = 32
QUEUE = 100  # tasks of a tenant that may wait
REFUSED = "refused"  # the tenant whose refusals are timed
SCHEDULER = {
    "INFERD_SCHEDULER__TENANT_QUEUED": str(QUEUE),
    "INFERD_SCHEDULER__HEADROOM": "0",  # the other tenant runs nothing, so that no place is to be left to it
}
NAMES = ("overload.refusal.p50", "overload.refusal.p99", "overload.goodput", "overload.rss")


def figures(*, only: str) -> Iterator[Figure]:
    """`overload.*`."""
    if not any(name.startswith(only) for name in NAMES):
        return
    with TemporaryDirectory() as folder, kernel_process(Path(folder), environment=SCHEDULER) as process:
        path = write_fake_model(process.folder, blocks=8192, step_s=STEP_S, max_sequences=PLACES)
        with Client(process.address) as client:
            client.create_model("bench", source=str(path))
            client.load_model("bench")
            _fill_queue(process.address)
            peak = asyncio.run(_closed(process.address))
            before = client.get_host().memory_bytes
            served, refusals = asyncio.run(_open(process.address, OVERLOAD * peak))
            grown = (client.get_host().memory_bytes - before) / 2**20
    refusals.sort()
    detail = f"{OVERLOAD * peak:.0f} tasks a second offered, {peak:.1f} a second at the peak, {len(refusals)} refused"
    values = (
        (refusals[len(refusals) // 2] * 1e3, "ms"),
        (refusals[int(len(refusals) * 0.99)] * 1e3, "ms"),
        (served / peak, "of the peak"),
        (grown, "MiB more"),
    )
    for name, (value, unit) in zip(NAMES, values, strict=True):
        if name.startswith(only):
            yield Figure(name=name, value=round(value, 3), unit=unit, detail=detail)


def _fill_queue(address: str) -> None:
    """Fill the queue of the tenant that is to be refused with tasks that never run."""
    with Client(address, tenant=REFUSED) as client:
        for _ in range(QUEUE):
            events = client.run("bench", "la", max_tokens=TOKENS, ignore_eos=True, detach_on_disconnect=True)
            task_id = next(events).task_id
            client.suspend_task(task_id)
            events.close()


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
    """Tasks served a second when so many a second are offered, and how long each timed refusal took."""
    served = 0
    full = asyncio.Event()

    async def ask(client: AsyncClient) -> None:
        nonlocal served
        try:
            await client.generate("bench", "la", max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        except QueueFullError:
            full.set()
        else:
            served += 1

    async def offer(made: list[AsyncClient]) -> None:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in count():
                await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
                group.create_task(ask(made[number % 2]))

    async with clients(address, 2) as made:
        offering = asyncio.create_task(offer(made))
        await full.wait()
        begun, before = time.perf_counter(), served
        refusals = await _time_refusals(address)
        rate_served = (served - before) / (time.perf_counter() - begun)
        offering.cancel()
        await asyncio.wait([offering])
    return rate_served, refusals


async def _time_refusals(address: str) -> list[float]:
    """How long each refusal took, in seconds."""
    program = [str(Path(__file__).with_name("refusals.py")), address, REFUSED, "bench", str(int(SECONDS * PER_S))]
    timing = await asyncio.create_subprocess_exec(sys.executable, *program, stdout=asyncio.subprocess.PIPE)
    printed, _ = await timing.communicate()
    if timing.returncode:
        raise RuntimeError(f"refusals.py ended with {timing.returncode}")
    times: list[float] = json.loads(printed)
    return times
