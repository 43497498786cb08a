import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, reason_of
from google.protobuf.duration_pb2 import Duration

from inferd import server
from inferd.addresses import check_address
from inferd.config import Settings
from inferd.errors import InvalidFieldError
from inferd.server import running_kernel
from inferd.testing.kernel import kernel_here
from inferd_api.v1.host_service_pb2 import WatchHostRequest
from inferd_api.v1.lease_service_pb2 import KeepAliveLeasesRequest
from inferd_api.v1.task_service_pb2 import WatchTasksRequest

DEADLINE_S = 60.0


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:7411", "[::1]:7411", "127.8.8.8:1", "unix:/tmp/x.sock"])
def test_the_loopback_is_listened_on(address: str) -> None:
    """Addresses that only this host can reach are accepted."""
    check_address(address)


@pytest.mark.parametrize("address", ["0.0.0.0:7411", "[::]:7411", "192.168.1.2:7411", "example.org:7411"])
def test_the_network_is_refused(address: str) -> None:
    """Without authentication nothing is offered to other hosts, and the error says what to do instead."""
    with pytest.raises(InvalidFieldError, match="loopback"):
        check_address(address)


@pytest.mark.parametrize("address", ["7411", "127.0.0.1", "127.0.0.1:port", ""])
def test_what_is_no_address_is_named(address: str) -> None:
    """Something that is no address is refused as such."""
    with pytest.raises(InvalidFieldError, match="host:port"):
        check_address(address)


async def test_a_second_kernel_on_the_port_is_an_error(tmp_path: Path) -> None:
    """Two kernels never share a port: the second says which address is taken."""
    async with kernel_here(tmp_path / "a") as kernel:
        settings = Settings(
            listen=kernel.addresses, data_dir=tmp_path / "b", state_dir=tmp_path / "b", plugin_modules=()
        )
        with pytest.raises(OSError, match=kernel.addresses[0]):
            async with running_kernel(settings):
                pass


@contextmanager
def few_descriptors() -> Iterator[int]:
    """A low limit, as shells set it; gives the one that cannot be passed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
    try:
        yield before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_kernel_takes_all_descriptors_that_it_may(tmp_path: Path) -> None:
    """A kernel that is started with a low limit raises it to the highest that it may have."""
    with few_descriptors() as most:
        async with kernel_here(tmp_path):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)


async def one_and_no_more() -> AsyncIterator[KeepAliveLeasesRequest]:
    yield KeepAliveLeasesRequest()
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "open_stream",
    [
        lambda connection: connection.leases.KeepAliveLeases(one_and_no_more()),
        lambda connection: connection.hosts.WatchHost(WatchHostRequest(interval=Duration(seconds=60))),
        lambda connection: connection.tasks.WatchTasks(WatchTasksRequest()),
    ],
    ids=["keep alive", "watch host", "watch tasks"],
)
async def test_open_streams_end_at_once_with_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_stream: Callable[[Connection], Any]
) -> None:
    """A stream on which nothing is due ends with UNAVAILABLE when the kernel stops, before the grace is over."""
    monkeypatch.setattr(server, "STOP_GRACE_S", 10 * DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as running:
        kernel = await running.enter_async_context(kernel_here(tmp_path))
        connection = Connection(kernel, tmp_path)
        stream = open_stream(connection)
        await stream.read()
        await running.aclose()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(caught.value)[0] == "SHUTTING_DOWN"
        await connection.channel.close()
