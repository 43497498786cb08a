"""What is small on the wire and large in memory is refused as it comes."""

import asyncio
from pathlib import Path

import grpc
import pytest
from connection import Connection, refusal
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from guarded import guarded, refused

from inferd.config import Limits
from inferd.services.channel import channel_options
from inferd.testing.kernel import kernel_here
from inferd_api.v1.host_service_pb2 import GetHostRequest

CALLED = "/x/Y"
TCP = ("127.0.0.1:0",)


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_message_is_never_inflated(algorithm: grpc.Compression) -> None:
    """A call with a compressed message is refused by name; its method is not run, and a plain one after it is."""
    seen: list[bytes] = []

    async def answer(request: bytes, _: object) -> bytes:
        seen.append(request)
        return request

    server = grpc.aio.server(options=channel_options(Limits()))
    method = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x", {"Y": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError, match="disabled") as caught:
            await channel.unary_unary(CALLED)(bytes(2 << 20), compression=algorithm)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await channel.unary_unary(CALLED)(b"plain") == b"plain"
    await server.stop(0)
    assert seen == [b"plain"]


async def test_connections_have_a_bound(tmp_path: Path) -> None:
    """One connection more than `limits.connections` is closed as it comes; those that are there go on."""
    async with (
        asyncio.timeout(60),
        kernel_here(tmp_path, limits={"connections": 1}, hosts={"connections": 0}) as kernel,
    ):
        first, second = Connection(kernel, tmp_path), Connection(kernel, tmp_path)
        await first.hosts.GetHost(GetHostRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.hosts.GetHost(GetHostRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await first.hosts.GetHost(GetHostRequest())
        await first.channel.close()
        await second.channel.close()


async def test_what_was_sent_is_read_when_it_is_known_who_sent_it(tmp_path: Path) -> None:
    """Bytes that are no message: a stranger is asked who that is, one who is known is told that they are none."""
    async with asyncio.timeout(60), guarded(tmp_path) as kernel:
        call = kernel.tcp.channel.unary_unary("/inferd.v1.TaskService/GetTask")
        assert (await refused(call(b"\xff\xff")))[0] == "UNAUTHENTICATED"
        assert (await refused(call(b"\xff\xff", metadata=await kernel.login("viewer"))))[0] == "INVALID_FIELD"


async def test_calls_are_begun_at_a_bounded_rate(tmp_path: Path) -> None:
    """One connection that begins calls too fast is refused with the bound and when to try again; another is not."""
    async with asyncio.timeout(60), kernel_here(tmp_path, listen=TCP, limits={"calls_per_s": 0.5}) as kernel:
        fast, slow = Connection(kernel, tmp_path), Connection(kernel, tmp_path)
        first, second = (HealthStub(each.channel).Check for each in (fast, slow))  # type: ignore[no-untyped-call]
        await first(HealthCheckRequest())
        assert await refusal(first(HealthCheckRequest())) == (
            "LIMIT_EXCEEDED",
            {"bound": "limits.calls_per_s", "limit": "0.5"},
        )
        await second(HealthCheckRequest())
        await fast.channel.close()
        await slow.channel.close()
