"""Tasks for requests: started with what was asked for, their events told in the order in which they come."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeVar

from inferd.http.problems import Refusal
from inferd.http.traces import traced
from inferd_client.generations import Generation, collect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from inferd.http.calls import Call
    from inferd_api.v1.task_pb2 import TaskEvent
    from inferd_client import AsyncClient, Prompt

GATHERED_S: Final = 10.0  # how often the kernel sends what nobody looks at before all of it is there
REASONS: Final = {"END_OF_TEXT": "stop", "STOP_STRING": "stop", "MAX_TOKENS": "length"}
"""Why an output ended, in OpenAI's words."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def start(client: AsyncClient, model: str, prompt: Prompt, options: Mapping[str, Any]) -> AsyncGenerator[TaskEvent]:
    """The events of a new task; closing the generator early cancels it.

    Raises:
        Refusal: The client refuses it.
    """
    try:
        return client.run(model, prompt, **traced(options))
    except (TypeError, ValueError) as error:
        raise Refusal(str(error)) from None


async def whole(call: Call, model: str, prompt: Prompt, options: Mapping[str, Any]) -> Generation:
    """Run a task to its end.

    Raises:
        Refusal, InferdError: It was refused, or failed.
    """
    gathered = {**options, "output_interval_s": GATHERED_S}
    async with aclosing(await call.aside(start, call.client, model, prompt, gathered)) as events:
        return collect([event async for event in events])


async def each(items: Sequence[Item], work: Callable[[Item], Awaitable[Made]], *, at_once: int) -> list[Made]:
    """The results for some items in their order, so many at once; the first error ends the others."""
    gate = asyncio.Semaphore(at_once)

    async def do(item: Item) -> Made:
        async with gate:
            return await work(item)

    tasks = [asyncio.ensure_future(do(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def merged(streams: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[Item]:
    """What several streams give, each as it comes; the first error ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0]):
            async for item in streams[0]:
                yield item
        return
    queue: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(len(streams))
    tasks = [asyncio.create_task(_pass_on(stream, queue)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            got = await queue.get()
            if isinstance(got, BaseException):
                raise got
            left -= got is None
            if got is not None:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(stream: AsyncGenerator[Item], into: asyncio.Queue[Item | BaseException | None]) -> None:
    async with aclosing(stream):
        try:
            async for item in stream:
                await into.put(item)
        except Exception as error:  # noqa: BLE001 - raised where it is read
            await into.put(error)
        else:
            await into.put(None)
