"""A kernel that starts, while what was kept is opened and read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import reason_of
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1.health_pb2_grpc import HealthStub
from stores import opened_store
from structlog.testing import capture_logs
from time_limits import LONG_S

from inferd import server
from inferd.errors import StoreUnavailableError
from inferd.runtime import ended
from inferd.store import sqlite_file
from inferd.store.store import Kind, Put
from inferd.testing.kernel import front_here, kernel_here
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub

SERVING, NOT_SERVING = hp.HealthCheckResponse.SERVING, hp.HealthCheckResponse.NOT_SERVING
DEADLINE_S = LONG_S


@asynccontextmanager
async def starting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False, **limits: int
) -> AsyncIterator[tuple[grpc.aio.Channel, asyncio.Event, "asyncio.Task[None]"]]:
    """A channel to a kernel that reads what was kept until the event is set, and then serves, or fails."""
    reading, read = asyncio.Event(), asyncio.Event()
    read_kept = server.read_kept

    async def slow(*given: Any) -> Any:
        reading.set()
        await read.wait()
        if fails:
            raise StoreUnavailableError("it cannot be read")
        return await read_kept(*given)

    monkeypatch.setattr(server, "read_kept", slow)
    ends = asyncio.Event()

    async def serve() -> None:
        async with kernel_here(folder, listen=(f"unix:{folder}/s",), limits=limits):
            await ends.wait()

    serving = asyncio.create_task(serve())
    async with asyncio.timeout(DEADLINE_S):
        await reading.wait()
        async with grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
            yield channel, read, serving
        ends.set()
        read.set()
        await asyncio.wait([serving])


async def test_health_is_told_while_what_was_kept_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NOT_SERVING for whoever asks or watches, then SERVING; other calls wait for that and are answered."""
    async with starting(tmp_path, monkeypatch) as (channel, read, _):
        health: Any = HealthStub(channel)
        for service in ("", "inferd.v1.TaskService", "model:fake"):
            assert (await health.Check(hp.HealthCheckRequest(service=service))).status == NOT_SERVING
        watch = health.Watch(hp.HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        host: Any = HostServiceStub(channel)
        call = asyncio.ensure_future(host.GetHost(hs.GetHostRequest()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await host.GetHost(hs.GetHostRequest(), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not call.done()
        read.set()
        assert (await call).host.version
        assert (await watch.read()).status == SERVING
        assert (await health.Check(hp.HealthCheckRequest())).status == SERVING
        watch.cancel()


async def test_a_start_that_fails_is_told_to_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that waited are refused by name, and the start raises what it failed of."""
    async with starting(tmp_path, monkeypatch, fails=True) as (channel, read, serving):
        host: Any = HostServiceStub(channel)
        watch = HealthStub(channel).Watch(hp.HealthCheckRequest())  # type: ignore[no-untyped-call] # of the library
        assert (await watch.read()).status == NOT_SERVING
        call = asyncio.ensure_future(host.GetHost(hs.GetHostRequest()))
        with pytest.raises(grpc.aio.AioRpcError):  # it has come behind the other one
            await host.GetHost(hs.GetHostRequest(), timeout=0.1)
        read.set()
        for each in (call, watch.read()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await each
            assert reason_of(caught.value)[0] == "SHUTTING_DOWN"
        await asyncio.wait([serving])
        assert isinstance(serving.exception(), StoreUnavailableError)


async def test_calls_that_wait_for_a_start_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than limits.calls is refused at once, with the bound; health is told all the same."""
    async with starting(tmp_path, monkeypatch, calls=1) as (channel, read, _):
        host: Any = HostServiceStub(channel)
        calls = [asyncio.ensure_future(host.GetHost(hs.GetHostRequest())) for _ in range(2)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        assert reason_of(refused.exception()) == (
            "LIMIT_EXCEEDED",
            {"bound": "limits.calls", "value": "1", "limit": "1"},
        )
        assert (await HealthStub(channel).Check(hp.HealthCheckRequest())).status == NOT_SERVING  # type: ignore[no-untyped-call]
        read.set()
        assert (await next(call for call in calls if call is not refused)).host.version


async def test_a_long_opening_is_told_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many tasks are read so far, and for how long a suspect file is looked through."""
    path = tmp_path / "store"
    with closing(opened_store(path)) as store:
        store.write([Put("a", Kind.PROGRESS, str(n), b"{}") for n in range(3)])
        store.write([Put("a", Kind.TASK, str(n), bytes(5000)) for n in range(3)])
    (tmp_path / "store.suspect").touch()
    monkeypatch.setattr(ended, "TELL_S", 0.0)
    monkeypatch.setattr(sqlite_file, "TELL_S", 0.0)
    monkeypatch.setattr(sqlite_file, "CHECK_STEPS", 1)
    with capture_logs() as logs:
        async with front_here(tmp_path, store={"url": f"sqlite:{path}"}):
            pass
    told = [line for line in logs if line["event"] == "what was kept is being read"]
    assert [(line["tasks"], line["of"]) for line in told] == [(0, 3), (1, 3), (2, 3)]
    assert any(line["event"].startswith("damage was met in the store") for line in logs)
