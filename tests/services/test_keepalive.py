import asyncio
from contextlib import suppress
from pathlib import Path

from connection import Connection, read_until
from http2 import Http2, connected

from inferd.config import Limits
from inferd.services.channel import PING_SLACK, channel_options
from inferd.testing.kernel import kernel_here
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TASK_STATE_SUSPENDED, TaskSpec
from inferd_api.v1.task_service_pb2 import (
    GetTaskRequest,
    ListTasksRequest,
    RunTaskRequest,
    SuspendTaskRequest,
    WatchTaskRequest,
)

DEADLINE_S = 60.0
PINGS = 8  # gRPC lets two pass that come too soon
INTERVAL_S = 0.05


async def ping(client: Http2) -> None:
    for _ in range(PINGS):
        await client.ping()
        with suppress(TimeoutError):  # the next one is due then, unless the connection is given up
            async with asyncio.timeout(INTERVAL_S):
                await client.until(lambda: bool(client.goaway))


async def test_pings_without_calls_are_answered(tmp_path: Path) -> None:
    """A client that pings each time that it may, with no call open, keeps its connection."""
    limits = {"ping_interval_s": INTERVAL_S}
    async with (
        asyncio.timeout(DEADLINE_S),
        kernel_here(tmp_path, limits=limits) as kernel,
        connected(kernel.addresses[0]) as client,
    ):
        await ping(client)
        assert (client.goaway, client.pongs) == (b"", PINGS)


async def test_a_suspended_task_outlives_the_pings_of_its_stream(tmp_path: Path) -> None:
    """Pings on a stream on which nothing comes, because its task is suspended, do not end the stream nor the task."""
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, limits={"ping_interval_s": INTERVAL_S}) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("fake", step_s=0.01)
        spec = TaskSpec(model="fake", prompt="la", sampling=SamplingParams(max_tokens=900))
        async with connected(kernel.addresses[0]) as client:
            client.call(1, "/inferd.v1.TaskService/RunTask", RunTaskRequest(spec=spec).SerializeToString())
            await client.until(lambda: client.heard > 0)
            (task,) = (await connection.tasks.ListTasks(ListTasksRequest())).tasks
            await connection.tasks.SuspendTask(SuspendTaskRequest(task_id=task.task_id))
            await read_until(connection.tasks.WatchTask(WatchTaskRequest(task_id=task.task_id)), "suspended")
            await ping(client)
            task = (await connection.tasks.GetTask(GetTaskRequest(task_id=task.task_id))).task
            assert (client.goaway, task.state) == (b"", TASK_STATE_SUSPENDED)
        await connection.channel.close()


async def test_a_flood_of_pings_is_refused(tmp_path: Path) -> None:
    """A client that pings far more often than it may loses its connection, and is told why."""
    limits = {"ping_interval_s": 3600.0}
    async with (
        asyncio.timeout(DEADLINE_S),
        kernel_here(tmp_path, limits=limits) as kernel,
        connected(kernel.addresses[0]) as client,
    ):
        while not client.goaway:
            await client.ping()
        assert client.goaway == b"too_many_pings"


def test_pings_from_ten_seconds_on_are_accepted() -> None:
    """A ping in ten seconds is no fault by default, nor is one that comes a little early; the setting is obeyed."""
    options = dict(channel_options(Limits()))
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 10_000 * PING_SLACK < 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert dict(channel_options(Limits(ping_interval_s=2.0)))["grpc.http2.min_ping_interval_without_data_ms"] == 1800
