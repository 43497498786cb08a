"""A tenant that sends far more than is served, in a process of its own: flood.py ADDRESS TENANT MODEL PER_S.

It sends until its standard input ends, and then prints how many tasks it sent a second, and how many were refused.
"""

import asyncio
import random
import sys
import time
from itertools import count

from inferd_client import AsyncClient
from inferd_client.errors import LimitExceededError, QueueFullError

PROMPT, OUTPUT = 16, 64  # tokens


async def main(address: str, tenant: str, model: str, per_s: float) -> None:
    """Send tasks until there is no more input, and print their rate and how many were refused."""
    rng = random.Random("flood")
    refused = 0

    async def ask(client: AsyncClient) -> None:
        nonlocal refused
        prompt = [rng.randrange(1000, 40000) for _ in range(PROMPT)]
        try:
            await client.generate(model, prompt, max_tokens=OUTPUT, ignore_eos=True)
        except (QueueFullError, LimitExceededError):
            refused += 1

    async with AsyncClient(address, tenant=tenant) as client, asyncio.TaskGroup() as group:
        ended = group.create_task(asyncio.to_thread(sys.stdin.read))
        begun, tasks = time.perf_counter(), []
        for number in count(1):
            if ended.done():
                break
            tasks.append(group.create_task(ask(client)))
            await asyncio.sleep(max(0.0, begun + number / per_s - time.perf_counter()))
        for task in tasks:
            task.cancel()
    print(len(tasks) / (time.perf_counter() - begun), refused)


if __name__ == "__main__":
    kernel, whose, named, rate = sys.argv[1:]
    asyncio.run(main(kernel, whose, named, float(rate)))
