"""A kernel that is to end lets what runs come to its end."""

from pathlib import Path

import grpc
import pytest
from connection import Connection, memory, read_all, read_failing, read_until, reason_of, refusal, text_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from test_kept_leases import renew
from test_kept_tasks import get, kernel, retry_s, wanted, watch

from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import task_pb2 as tp

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(connection: Connection) -> int:
    stub = health_pb2_grpc.HealthStub(connection.channel)
    status: int = (await stub.Check(health_pb2.HealthCheckRequest())).status
    return status


async def test_running_tasks_end_and_new_ones_are_refused(tmp_path: Path) -> None:
    """Who runs has all of its output; who waits is kept, or told SHUTTING_DOWN with a time, as is who comes."""
    devices = {"memory_bytes": {"cpu:0": 1 << 30, "fake:0": 1 << 30}}
    async with kernel(tmp_path, devices=devices) as connection:
        driver = connection.kernel.driver
        await connection.create(max_sequences=1, step_s=0.02)
        lease = await connection.claim(memory(1 << 20))
        runs = connection.endless(tokens=100)
        seen = await read_until(runs, "output")
        kept = (await connection.tasks.CreateTask(wanted(20))).task.task_id
        waits = connection.another().endless(tokens=10)
        await read_until(waits, "queued")
        assert await health(connection) == SERVING
        driver.drain(60.0)
        assert await health(connection) == NOT_SERVING
        events, error = await read_failing(waits)
        assert reason_of(error)[0] == "SHUTTING_DOWN"
        assert retry_s(error) > 0
        assert events[-1].finished.state == tp.TASK_STATE_CANCELLED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.endless(tokens=1).read()
        assert reason_of(caught.value)[0] == "SHUTTING_DOWN"
        assert 30 < retry_s(caught.value) < 62
        assert (await refusal(connection.claim(memory(1))))[0] == "SHUTTING_DOWN"
        assert (await refusal(connection.tasks.CreateTask(wanted(1))))[0] == "SHUTTING_DOWN"
        (renewal,) = await renew(connection, lease.lease_id)
        assert renewal.state == lp.LEASE_STATE_ACTIVE
        seen += await read_all(runs)
        assert text_of(seen) == "la" * 50
        await driver.drained()
        assert (await get(connection, kept)).state == tp.TASK_STATE_QUEUED
    async with kernel(tmp_path, devices=devices) as connection:
        assert text_of(await read_all(watch(connection, kept))) == "la" * 10
