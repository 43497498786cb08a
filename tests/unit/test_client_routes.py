"""Calls of a client with several addresses, to kernels that are silent or there."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as hp
from grpc_status import rpc_status

from inferd.errors import NotLeaderError
from inferd.services.status import status_of
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1.lease_service_pb2_grpc import LeaseServiceStub
from inferd_client import routes, routes_async
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.errors import InferdError, KernelUnreachableError
from inferd_client.kernels import AGAIN_S, why_not

ASK_S = 0.1
DEADLINE_S = 60.0
TIMEOUT_S = 0.3
TRIES = 20  # more than fit into it
SERVING = hp.HealthCheckResponse(status=hp.HealthCheckResponse.SERVING)
STANDS_BY = hp.HealthCheckResponse(status=hp.HealthCheckResponse.NOT_SERVING)


class Leader:
    """A kernel that serves, as far as its health and the release of leases go.

    Attributes:
        address: Where.
        released: Requests that came.
        refuses: How many requests it refuses, as if another kernel led.
        goes_on: What answers wait for; cleared, the kernel stands by once a request has come.
    """

    def __init__(self) -> None:
        self.released: list[str] = []
        self.refuses = 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._server = grpc.server(ThreadPoolExecutor(4))
        check = grpc.unary_unary_rpc_method_handler(
            self._check, hp.HealthCheckRequest.FromString, hp.HealthCheckResponse.SerializeToString
        )
        release = grpc.unary_unary_rpc_method_handler(
            self._release, ls.ReleaseLeaseRequest.FromString, ls.ReleaseLeaseResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
                grpc.method_handlers_generic_handler("inferd.v1.LeaseService", {"ReleaseLease": release}),
            )
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _check(self, *_: object) -> hp.HealthCheckResponse:
        return SERVING if self.goes_on.is_set() or not self.released else STANDS_BY

    def _release(self, request: ls.ReleaseLeaseRequest, context: Any) -> ls.ReleaseLeaseResponse:
        self.released.append(request.lease_id)
        if len(self.released) <= self.refuses:
            context.abort_with_status(rpc_status.to_status(status_of(NotLeaderError("another kernel leads"))))
        self.goes_on.wait(DEADLINE_S)
        return ls.ReleaseLeaseResponse()

    def stop(self) -> None:
        """End it."""
        self.goes_on.set()
        self._server.stop(None).wait()


@pytest.fixture
def leader() -> Iterator[Leader]:
    made = Leader()
    yield made
    made.stop()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    """One that leads until it has taken a request, which it never answers."""
    for module in (routes, routes_async):
        monkeypatch.setattr(module, "LOOK_S", ASK_S)
    made = Leader()
    made.goes_on.clear()
    yield made
    made.stop()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where no connection comes about: what is sent there is not answered."""
    for module in (routes, routes_async):
        monkeypatch.setattr(module, "ASK_S", ASK_S)
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield f"127.0.0.1:{made.getsockname()[1]}"


def test_a_call_that_was_never_sent_is_repeated_at_the_leader(leader: Leader, silent: str) -> None:
    """The first changing call of a client whose first address is silent is made where a kernel leads, once."""
    with Connection(f"{silent},{leader.address}", credential="") as connection:
        release = LeaseServiceStub(connection._channel).ReleaseLease
        connection._call(release, ls.ReleaseLeaseRequest(lease_id="a"))
    assert leader.released == ["a"]


async def test_an_asynchronous_call_that_was_never_sent_is_repeated_at_the_leader(leader: Leader, silent: str) -> None:
    """The same of an asynchronous client."""
    async with asyncio.timeout(DEADLINE_S), AsyncConnection(f"{silent},{leader.address}", credential="") as connection:
        release = LeaseServiceStub(connection._channel).ReleaseLease
        await connection._call(release, ls.ReleaseLeaseRequest(lease_id="a"))
    assert leader.released == ["a"]


def test_a_call_that_may_have_been_sent_is_not_repeated(leader: Leader, hung: Leader) -> None:
    """A changing call to a kernel that took it and leads no more fails: what came of it is not known."""
    with Connection(f"{hung.address},{leader.address}", credential="") as connection:
        release = LeaseServiceStub(connection._channel).ReleaseLease
        with pytest.raises(KernelUnreachableError, match="another kernel leads"):
            connection._call(release, ls.ReleaseLeaseRequest(lease_id="a"))
    assert (hung.released, leader.released) == (["a"], [])


async def test_an_asynchronous_call_that_may_have_been_sent_is_not_repeated(leader: Leader, hung: Leader) -> None:
    """The same of an asynchronous client."""
    addresses = f"{hung.address},{leader.address}"
    async with asyncio.timeout(DEADLINE_S), AsyncConnection(addresses, credential="") as connection:
        release = LeaseServiceStub(connection._channel).ReleaseLease
        with pytest.raises(KernelUnreachableError, match="another kernel leads"):
            await connection._call(release, ls.ReleaseLeaseRequest(lease_id="a"))
    assert (hung.released, leader.released) == (["a"], [])


def test_tries_of_a_call_have_one_deadline_and_pauses(leader: Leader) -> None:
    """A kernel that says that it serves and refuses is not asked without end, nor without pause."""
    leader.refuses = TRIES
    with Connection(f"{leader.address},127.0.0.1:1", credential="", timeout_s=TIMEOUT_S) as connection:
        release = LeaseServiceStub(connection._channel).ReleaseLease
        with pytest.raises(InferdError):
            connection._call(release, ls.ReleaseLeaseRequest(lease_id="a"))
    assert 1 <= len(leader.released) <= 1 + TIMEOUT_S / AGAIN_S


async def test_tries_of_an_asynchronous_call_have_one_deadline_and_pauses(leader: Leader) -> None:
    """The same of an asynchronous client."""
    leader.refuses = TRIES
    addresses = f"{leader.address},127.0.0.1:1"
    async with AsyncConnection(addresses, credential="", timeout_s=TIMEOUT_S) as connection:
        release = LeaseServiceStub(connection._channel).ReleaseLease
        with pytest.raises(InferdError):
            await connection._call(release, ls.ReleaseLeaseRequest(lease_id="a"))
    assert 1 <= len(leader.released) <= 1 + TIMEOUT_S / AGAIN_S


def test_what_has_no_health_is_no_kernel(leader: Leader) -> None:
    """Another server than a kernel at one of the addresses is not taken for the one that leads."""
    with grpc.insecure_channel(leader.address) as channel:
        ask: Any = channel.unary_unary("/grpc.health.v1.Health/List")
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=DEADLINE_S)
    assert "no kernel" in why_not(caught.value, "kernel:1")
