"""What is small on the wire and large in memory is refused as it comes."""

import asyncio
from pathlib import Path

import grpc
import pytest
from connection import Connection

from inferd.config import Limits
from inferd.services.channel import channel_options
from inferd.testing.kernel import kernel_here
from inferd_api.v1.host_service_pb2 import GetHostRequest

CALLED = "/x/Y"


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
    async with asyncio.timeout(60), kernel_here(tmp_path, limits={"connections": 1}) as kernel:
        first, second = Connection(kernel, tmp_path), Connection(kernel, tmp_path)
        await first.hosts.GetHost(GetHostRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.hosts.GetHost(GetHostRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await first.hosts.GetHost(GetHostRequest())
        await first.channel.close()
        await second.channel.close()
