"""No tenant takes what all share: of each kind of stream, others still find a place."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from connection import memory, reason_of
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc
from guarded import failing, guarded

from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_service_pb2 as ms

PLACES = 5
SHARE = {"bound": "scheduler.tenant_share", "value": "4", "free": "1"}  # 4 times what is free of 5
BOUNDS = {
    "limits": {"health_watchers": PLACES, "host_watchers": PLACES, "model_watchers": PLACES},
    "leases": {"keepers": PLACES, "watchers": PLACES},
    "scheduler": {"tenant_calls": 2 * PLACES},
}


async def renew(*lease_ids: str) -> AsyncIterator[ls.KeepAliveLeasesRequest]:
    yield ls.KeepAliveLeasesRequest(lease_ids=lease_ids)
    await asyncio.Event().wait()


async def check_others_find_room(open_: Callable[..., Any], first: Any, other: Any) -> None:
    """One of two tenants opens as many as it may, and is told why no more; the other still gets one."""
    with ExitStack() as calls:
        for _ in range(4):
            call = open_(first)
            calls.callback(call.cancel)
            await call.read()
        reason, told = reason_of(await failing(open_(first)))
        assert (reason, {**told, "model": ""}) == ("LIMIT_EXCEEDED", {**SHARE, "model": ""})  # some are about a model
        last = open_(other)
        calls.callback(last.cancel)
        assert await last.read()


async def test_a_tenant_leaves_streams_to_others(tmp_path: Path) -> None:
    """Whoever opens all the streams it may, another tenant watches hosts, models and leases, and keeps its lease."""
    async with asyncio.timeout(60), guarded(tmp_path, **BOUNDS) as kernel:
        await kernel.owner.create("fake")
        tcp = kernel.tcp
        logins = [await kernel.login("user", principal=who, tenants=[who]) for who in ("mallory", "bob")]
        hosts, models = hs.WatchHostRequest(interval=Duration(seconds=60)), ms.WatchModelRequest(name="fake")
        leases = {login: (await tcp.claim(memory(1), metadata=login)).lease_id for login in logins}
        for open_ in (
            lambda login: tcp.hosts.WatchHost(hosts, metadata=login),
            lambda login: tcp.models.WatchModel(models, metadata=login),
            lambda login: tcp.leases.WatchLease(ls.WatchLeaseRequest(lease_id=leases[login]), metadata=login),
            lambda login: tcp.leases.KeepAliveLeases(renew(leases[login]), metadata=login),
        ):
            await check_others_find_room(open_, *logins)


def health(connection: Any) -> Any:
    return health_pb2_grpc.HealthStub(connection.channel)


async def test_strangers_who_watch_leave_health_to_others(tmp_path: Path) -> None:
    """Whatever calls without a login watch, others watch health, too, and the check of a probe is answered."""
    bounds = {**BOUNDS, "scheduler": {"tenant_calls": 4}}
    async with asyncio.timeout(60), guarded(tmp_path, **bounds) as kernel:
        asked, serving = hp.HealthCheckRequest(), hp.HealthCheckResponse.SERVING
        watched = [health(kernel.tcp).Watch(asked) for _ in range(4)]
        for call in watched:
            await call.read()
        assert (await health(kernel.tcp).Check(asked)).status == serving
        own = health(kernel.owner).Watch(asked)
        assert (await own.read()).status == serving
        for call in (own, *watched):
            call.cancel()


async def test_all_strangers_have_one_share(tmp_path: Path) -> None:
    """Calls without a login have the share of one tenant of the streams that watch health."""
    async with asyncio.timeout(60), guarded(tmp_path, **BOUNDS) as kernel:

        def watch(connection: Any) -> Any:
            return health(connection).Watch(hp.HealthCheckRequest())

        await check_others_find_room(watch, kernel.tcp, kernel.owner)
