"""Connections on which nobody calls: they end, and nobody who calls is disturbed."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from connection import Connection
from http2 import connected

from inferd.config import Limits
from inferd.services.channel import channel_options
from inferd.testing.kernel import kernel_here
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import RunTaskRequest

DEADLINE_S = 60.0
IDLE_S = 0.1
MOST = 2
TOKENS = 2


def test_idle_connections_end_soon() -> None:
    """A connection without a call lives for half a minute by default."""
    assert dict(channel_options(Limits()))["grpc.max_connection_idle_ms"] == 30_000


async def test_strangers_who_do_nothing_make_room(tmp_path: Path) -> None:
    """Idle connections that fill an address are closed, so that others come; a stream silent for longer goes on."""
    limits = {"connection_idle_s": IDLE_S, "connections": MOST}
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, limits=limits) as kernel, AsyncExitStack() as open_:
        connection = Connection(kernel, tmp_path)
        open_.push_async_callback(connection.channel.close)
        await connection.create("fake", step_s=2 * IDLE_S)
        spec = TaskSpec(model="fake", prompt="la", sampling=SamplingParams(max_tokens=TOKENS))
        running = connection.tasks.RunTask(RunTaskRequest(spec=spec))
        events = aiter(running)
        await anext(events)
        idle = await open_.enter_async_context(connected(kernel.addresses[0]))
        await idle.until(lambda: bool(idle.goaway))
        assert idle.goaway == b"connection idle"
        other = await open_.enter_async_context(connected(kernel.addresses[0]))
        await other.ping()
        assert (other.goaway, other.pongs) == (b"", 1)
        assert len([event async for event in events]) >= TOKENS
