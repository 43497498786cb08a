import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, read_until, reason_of, refusal
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from inferd.testing.kernel import kernel_here, kernel_process
from inferd_api.v1.host_service_pb2 import GetHostRequest
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub
from inferd_api.v1.lease_service_pb2 import KeepAliveLeasesRequest
from inferd_api.v1.model_service_pb2 import ListModelsRequest, LoadModelRequest

DEADLINE_S = 90.0


def outcome(result: Any) -> str:
    """OK, or the reason of a typed error; a bare one is told as it is."""
    if not isinstance(result, grpc.aio.AioRpcError):
        return type(result).__name__
    return reason_of(result)[0] if rpc_status.from_call(result) is not None else f"bare {result.code().name}"


async def until(connection: Connection, wanted: str) -> Any:
    """Call until the outcome is the wanted one; what came."""
    while True:
        (result,) = await asyncio.gather(connection.hosts.GetHost(GetHostRequest()), return_exceptions=True)
        if outcome(result) == wanted:
            return result


def retry_delay(error: grpc.aio.AioRpcError) -> float:
    """When a refused call may be tried again, in seconds."""
    info = error_details_pb2.RetryInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(detail.Unpack(info) for detail in status.details)
    return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)


@pytest.mark.e2e
@pytest.mark.parametrize(("connections", "calls"), [(4, 1000), (1, 4000)])
async def test_thousands_of_calls_at_once(tmp_path: Path, connections: int, calls: int) -> None:
    """Thousands of calls at once, on several connections or on one, all end with OK or an error of ours."""
    with kernel_process(tmp_path) as kernel:
        own = (("grpc.use_local_subchannel_pool", 1),)
        channels = [grpc.aio.insecure_channel(kernel.address, options=own) for _ in range(connections)]
        stubs: list[Any] = [HostServiceStub(channel) for channel in channels]
        results = await asyncio.gather(
            *(stub.GetHost(GetHostRequest(), timeout=DEADLINE_S) for _ in range(calls) for stub in stubs),
            return_exceptions=True,
        )
        told = Counter(outcome(result) for result in results)
        assert sum(told.values()) == connections * calls
        assert set(told) <= {"GetHostResponse", "LIMIT_EXCEEDED"}, told
        for channel in channels:
            await channel.close()


@pytest.mark.parametrize(
    ("settings", "bound"),
    [({"limits": {"calls": 3}}, "limits.calls"), ({"scheduler": {"tenant_calls": 3}}, "scheduler.tenant_calls")],
)
async def test_calls_beyond_a_bound(tmp_path: Path, settings: dict[str, Any], bound: str) -> None:
    """The call beyond a bound is refused with the bound's name, both numbers and a time to wait; room is given back."""
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, **settings) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create("fake", step_s=0.05)
        await connection.create("slow", load_s=3600.0)
        streams = [connection.endless(tokens=900) for _ in range(2)]
        for stream in streams:
            await read_until(stream, "output")
        load = connection.models.LoadModel(LoadModelRequest(name="slow"))  # calls without a stream count, too
        refused = await until(connection, "LIMIT_EXCEEDED")  # once the call above has come
        reason, facts = reason_of(refused)
        assert (reason, facts) == ("LIMIT_EXCEEDED", {"bound": bound, "value": "3", "limit": "3"})
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_delay(refused) > 0
        other = (("inferd-tenant", "other"),)
        if bound == "scheduler.tenant_calls":
            await connection.hosts.GetHost(GetHostRequest(), metadata=other)
        else:
            assert (await refusal(connection.models.ListModels(ListModelsRequest(), metadata=other)))[1] == facts
        load.cancel()
        while outcome(
            (await asyncio.gather(connection.hosts.GetHost(GetHostRequest()), return_exceptions=True))[0]
        ) != ("GetHostResponse"):
            pass
        for stream in streams:
            stream.cancel()
        await connection.channel.close()


async def no_more() -> Any:
    yield KeepAliveLeasesRequest()
    await asyncio.Event().wait()


def watch_health(connection: Connection) -> Any:
    return health_pb2_grpc.HealthStub(connection.channel).Watch(health_pb2.HealthCheckRequest())


@pytest.mark.parametrize(
    ("settings", "bound", "open_stream"),
    [
        ({"limits": {"health_watchers": 2}}, "limits.health_watchers", watch_health),
        ({"leases": {"keepers": 2}}, "leases.keepers", lambda c: c.leases.KeepAliveLeases(no_more())),
    ],
    ids=["health", "keep alive"],
)
async def test_streams_beyond_a_bound(tmp_path: Path, settings: Any, bound: str, open_stream: Any) -> None:
    """The stream beyond a bound is refused with the bound's name, and those that are open go on."""
    async with asyncio.timeout(DEADLINE_S), kernel_here(tmp_path, **settings) as kernel:
        connection = Connection(kernel, tmp_path)
        streams = [open_stream(connection) for _ in range(2)]
        for stream in streams:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await open_stream(connection).read()
        assert reason_of(caught.value) == ("LIMIT_EXCEEDED", {"bound": bound, "value": "2", "limit": "2"})
        assert not any(stream.done() for stream in streams)
        streams[0].cancel()
        await connection.channel.close()
