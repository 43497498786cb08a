"""Leases that outlive their kernel."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory, read_all, read_until, reason_of, refusal, under, until_written
from google.protobuf.duration_pb2 import Duration
from stores import opened_store
from structlog.testing import capture_logs
from test_kept_clocks import step
from test_kept_tasks import kernel as kept_kernel
from test_kept_tasks import retry_s, wanted, watch
from time_limits import LONG_S

from inferd.errors import StoreUnavailableError
from inferd.store.store import NO_TENANT, Drop, Kind
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

GIB = 1 << 30
ACTIVE, PENDING = lp.LEASE_STATE_ACTIVE, lp.LEASE_STATE_PENDING
SIZES = {"memory_bytes": {"cpu:0": 10 * GIB, "fake:0": GIB}}


@asynccontextmanager
async def kernel(folder: Path, **settings: Any) -> AsyncIterator[Connection]:
    """A kernel that keeps what it has, with a device of 10 GiB and short leases."""
    chosen = {"devices": SIZES, "leases": {"min_ttl_s": 0.05}, **settings}
    async with kept_kernel(folder, **chosen) as connection:
        yield connection


async def get(connection: Connection, lease_id: str) -> lp.Lease:
    lease: lp.Lease = (await connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease_id))).lease
    return lease


async def renew(connection: Connection, *lease_ids: str, **more: Any) -> Any:
    call = connection.leases.KeepAliveLeases(iter([ls.KeepAliveLeasesRequest(lease_ids=lease_ids, **more)]))
    return (await call.read()).renewals


async def list_all(connection: Connection) -> list[lp.Lease]:
    return list((await connection.leases.ListLeases(ls.ListLeasesRequest())).leases)


def left_s(lease: lp.Lease) -> float:
    return lease.remaining.ToNanoseconds() / 1e9


def on_disk(folder: Path) -> list[str]:
    with closing(opened_store(folder / "kept/store")) as store:
        return [record.key for record in store.records(Kind.LEASE)]


def refuse(_: Any) -> None:
    raise StoreUnavailableError("no room", metadata={"cause": "a test"})


async def test_a_lease_is_held_by_the_kernel_after_this_one(tmp_path: Path) -> None:
    """It is as it was, with what remains of its TTL; it is kept alive and released, and what it holds is no other's."""
    async with kernel(tmp_path) as connection:
        request = ls.CreateLeaseRequest(
            spec=lp.LeaseSpec(
                claims=[memory(4 * GIB), lp.Claim(cores=lp.CoresClaim(cores=1))],
                ttl=Duration(seconds=100),
                labels={"for": "me"},
            ),
            request_id="once",
        )
        before = (await connection.leases.CreateLease(request)).lease
        call = connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=before.lease_id))
        assert (await call.read()).lease.state == ACTIVE
        connection.kernel.driver.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert reason_of(caught.value)[0] == "SHUTTING_DOWN"
        assert retry_s(caught.value) > 0
    async with kernel(tmp_path) as connection:
        after = await get(connection, before.lease_id)
        assert left_s(before) - 60 < left_s(after) < left_s(before)
        for lease in (before, after):
            lease.ClearField("remaining")
            for field in ("create_time", "grant_time", "expire_time"):  # a clock may have been adjusted
                lease.ClearField(field)
        assert after == before
        assert (await connection.leases.CreateLease(request)).lease.lease_id == before.lease_id
        reason, _ = await refusal(connection.claim(memory(7 * GIB)))
        assert reason == "LEASE_UNAVAILABLE"
        other = await connection.claim(memory(6 * GIB))
        assert other.fencing_token > before.fencing_token
        (renewal,) = await renew(connection, before.lease_id, ttl=Duration(seconds=300))
        assert (renewal.state, renewal.fencing_token) == (ACTIVE, before.fencing_token)
        assert 200 < renewal.remaining.ToNanoseconds() / 1e9 <= 300
        await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=before.lease_id))
        await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=other.lease_id))
    assert on_disk(tmp_path) == []
    async with kernel(tmp_path) as connection:
        assert (await connection.claim(memory(10 * GIB))).fencing_token > other.fencing_token


async def test_fencing_tokens_rise_whatever_becomes_of_the_store(tmp_path: Path) -> None:
    """No kernel gives a token that an earlier one gave, be its record damaged or gone, or the whole store."""
    given = []
    for turn in range(4):
        async with kernel(tmp_path, store={"url": "memory:"} if turn == 3 else {}) as connection:
            lease = await connection.claim(memory(GIB))
            given.append(lease.fencing_token)
            await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
        with closing(opened_store(tmp_path / "kept/store")) as store:
            if turn == 0:
                store._database.execute("UPDATE records SET value = x'0102' WHERE kind = 'count'")
            else:
                store.write([Drop(NO_TENANT, Kind.COUNT, "fencing")])
    assert given == sorted(set(given))


async def test_fencing_tokens_rise_behind_a_clock_that_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept says which was the highest, where the wall clock says less."""
    given = []
    for seconds in (0, -3600):
        step(monkeypatch, seconds, str(seconds))
        async with kernel(tmp_path) as connection:
            given.append((await connection.claim(memory(GIB))).fencing_token)
    assert given == sorted(set(given))


async def test_what_runs_under_a_lease_runs_under_it_again(tmp_path: Path) -> None:
    """A part of a model is kept, a model loaded under a lease is loaded again, and the tasks under both go on."""
    async with kernel(tmp_path) as connection:
        for name in ("part", "whole"):
            await connection.create(name, max_sequences=2, step_s=0.002)
        part = await connection.claim(lp.Claim(model=lp.ModelClaim(model="part", sequences=1)), wait=True)
        await connection.until(part.lease_id, ACTIVE)
        whole = await connection.claim(memory(64 << 20, "fake:0"), memory(64 << 20))
        await connection.models.LoadModel(ms.LoadModelRequest(name="whole"), metadata=under(whole.lease_id))
        tasks = []
        for model, lease in (("part", part), ("whole", whole)):
            request = wanted(200)
            request.spec.model = model
            metadata = under(lease.lease_id)
            tasks.append((await connection.tasks.CreateTask(request, metadata=metadata)).task.task_id)
            await read_until(watch(connection, tasks[-1]), "output")
    async with kernel(tmp_path) as connection:
        for task_id in tasks:
            end = (await read_all(watch(connection, task_id)))[-1].finished
            assert end.state == tp.TASK_STATE_SUCCEEDED, end
        for model, lease in (("part", part), ("whole", whole)):
            request = wanted(5)
            request.spec.model = model
            call = connection.tasks.RunTask(ts.RunTaskRequest(spec=request.spec), metadata=under(lease.lease_id))
            assert (await read_all(call))[-1].finished.state == tp.TASK_STATE_SUCCEEDED
        host = (await get(connection, whole.lease_id)).instance_ids
        assert len(host) == 1


async def test_a_lease_ends_while_no_kernel_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time goes on: the next kernel gives what it held to others, knows how it ended, and drops it."""
    step(monkeypatch, 0.0, sure=True)
    async with kernel(tmp_path) as connection:
        lease = await connection.claim(memory(10 * GIB), ttl=Duration(seconds=60))
    step(monkeypatch, 60.0, "second", sure=True)
    async with kernel(tmp_path) as connection:
        assert (await get(connection, lease.lease_id)).state == lp.LEASE_STATE_EXPIRED
        (renewal,) = await renew(connection, lease.lease_id)
        assert renewal.HasField("error")
        await connection.claim(memory(10 * GIB))
    assert lease.lease_id not in on_disk(tmp_path)


async def test_no_step_of_the_clock_ends_or_prolongs_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what remained, however the wall clock is set; after another boot, too, unless that one is confirmed."""
    step(monkeypatch, 0)
    async with kernel(tmp_path) as connection:
        lease = await connection.claim(memory(GIB), ttl=Duration(seconds=1000))
        before = left_s(lease)
    step(monkeypatch, 3600.0)
    async with kernel(tmp_path) as connection:
        assert before - 60 < left_s(await get(connection, lease.lease_id)) <= before
    step(monkeypatch, 0.0, "second")
    async with kernel(tmp_path) as connection:
        assert before - 60 < left_s(await get(connection, lease.lease_id)) <= before
    step(monkeypatch, 3600.0, "third")
    async with kernel(tmp_path) as connection:
        assert before - 60 < left_s(await get(connection, lease.lease_id)) <= before
    step(monkeypatch, 0.0, "third", sure=True)
    async with kernel(tmp_path) as connection:
        await renew(connection, lease.lease_id)
    step(monkeypatch, 3600.0, "fourth", sure=True)
    async with kernel(tmp_path) as connection:
        assert (await get(connection, lease.lease_id)).state == lp.LEASE_STATE_EXPIRED


async def test_requests_that_wait_are_not_kept(tmp_path: Path) -> None:
    """Who waits has its call broken with SHUTTING_DOWN; the next kernel does not know the request."""
    async with kernel(tmp_path) as connection:
        await connection.claim(memory(10 * GIB))
        waits = await connection.claim(memory(GIB), wait=True)
        assert waits.state == PENDING
        call = connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=waits.lease_id))
        assert (await call.read()).lease.state == PENDING
        connection.kernel.driver.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert reason_of(caught.value)[0] == "SHUTTING_DOWN"
    async with kernel(tmp_path) as connection:
        reason, _ = await refusal(connection.leases.GetLease(ls.GetLeaseRequest(lease_id=waits.lease_id)))
        assert reason == "LEASE_NOT_FOUND"
        assert len(await list_all(connection)) == 1


async def test_a_grant_is_told_once_it_is_written(tmp_path: Path) -> None:
    """While the store is busy nobody hears of a grant: not its creator, nor who reads, lists, watches or renews it."""
    async with kernel(tmp_path) as connection:
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write, going_on, entered = keeper._store.write, threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(writes: Any) -> None:
            loop.call_soon_threadsafe(entered.set)
            going_on.wait(LONG_S)
            write(writes)

        keeper._store.write = slow  # type: ignore[method-assign]
        creation = asyncio.ensure_future(connection.claim(memory(GIB)))
        await entered.wait()
        (lease_id,) = connection.kernel.driver.machine.leases.known
        calls = [
            creation,
            asyncio.ensure_future(get(connection, lease_id)),
            asyncio.ensure_future(list_all(connection)),
            asyncio.ensure_future(connection.until(lease_id, ACTIVE)),
            asyncio.ensure_future(renew(connection, lease_id)),
        ]
        await connection.models.ListModels(ms.ListModelsRequest())  # a round trip, in which all of them have come
        assert not [call for call in calls if call.done()]
        going_on.set()
        await asyncio.gather(*calls)
        assert (await creation).state == ACTIVE


async def test_while_nothing_can_be_written_no_lease_is_granted_or_lost(tmp_path: Path) -> None:
    """Grants and renewals are refused by name and hold nothing; a lease that is held stays; with room all goes on."""
    async with kernel(tmp_path) as connection:
        held = await connection.claim(memory(4 * GIB))
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write = keeper._store.write
        keeper._store.write = refuse  # type: ignore[method-assign]
        request = ls.CreateLeaseRequest(spec=lp.LeaseSpec(claims=[memory(6 * GIB)]), request_id="again")
        for _ in range(2):  # refused by its own write, then by what is known of the one before
            assert (await refusal(connection.leases.CreateLease(request)))[0] == "STORE_UNAVAILABLE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await renew(connection, held.lease_id)
        assert reason_of(caught.value)[0] == "STORE_UNAVAILABLE"
        assert (await get(connection, held.lease_id)).state == ACTIVE
        keeper._store.write = write  # type: ignore[method-assign]
        await until_written(connection.kernel)
        (renewal,) = await renew(connection, held.lease_id)
        assert renewal.state == ACTIVE
        granted = (await connection.leases.CreateLease(request)).lease
        assert granted.state == ACTIVE
    assert sorted(on_disk(tmp_path)) == sorted([held.lease_id, granted.lease_id])


async def test_a_waiting_lease_whose_grant_cannot_be_written_ends_with_that(tmp_path: Path) -> None:
    """Its watcher is told the reason and never that it is ACTIVE; what it would have held is free."""
    async with kernel(tmp_path) as connection:
        held = await connection.claim(memory(10 * GIB))
        waits = await connection.claim(memory(GIB), wait=True)
        call = connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=waits.lease_id))
        assert (await call.read()).lease.state == PENDING
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        keeper._store.write = refuse  # type: ignore[method-assign]
        reason, _ = await refusal(connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=held.lease_id)))
        assert reason == "STORE_UNAVAILABLE"
        told = (await call.read()).lease
        assert told.state == lp.LEASE_STATE_EXPIRED
        assert "STORE_UNAVAILABLE" in str(told.error)
        assert connection.kernel.driver.views.devices["cpu:0"].lease_bytes == 0  # type: ignore[index] # a name


async def test_a_kept_lease_holds_more_than_there_is_by_now(tmp_path: Path) -> None:
    """Lowered bounds take nothing from a lease that is kept, and give nothing to others; the log tells of it."""
    async with kernel(tmp_path) as connection:
        leases = [await connection.claim(memory(4 * GIB), ttl=Duration(seconds=100)) for _ in range(2)]
    small = {"memory_bytes": {"cpu:0": 5 * GIB, "fake:0": GIB}}
    bounds = {"leases": 1, "max_ttl_s": 20.0, "default_ttl_s": 20.0, "min_ttl_s": 0.05}
    with capture_logs() as logs:
        async with kernel(tmp_path, devices=small, leases=bounds) as connection:
            renewals = await renew(connection, *(lease.lease_id for lease in leases))
            assert [renewal.state for renewal in renewals] == [ACTIVE, ACTIVE]
            assert connection.kernel.driver.views.devices["cpu:0"].free_bytes == 0  # type: ignore[index] # a name
            assert (await refusal(connection.claim(memory(1), ttl=Duration(seconds=10))))[0] == "LIMIT_EXCEEDED"
            for lease in leases:
                await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
            assert (await connection.claim(memory(5 * GIB), ttl=Duration(seconds=10))).state == ACTIVE
    assert [line["lease_bytes"] for line in logs if "hold more than" in line["event"]] == [8 * GIB]


async def test_a_lease_of_what_is_gone_ends_with_that(tmp_path: Path) -> None:
    """A lease whose model is not known any more is EXPIRED with the reason, and so are no others."""
    async with kernel(tmp_path) as connection:
        await connection.create("gone")
        lost = await connection.claim(lp.Claim(model=lp.ModelClaim(model="gone", sequences=1)), wait=True)
        await connection.until(lost.lease_id, ACTIVE)
        held = await connection.claim(memory(GIB))
    with closing(opened_store(tmp_path / "kept/store")) as store:
        store.write([Drop(NO_TENANT, Kind.MODEL, "gone")])
    async with kernel(tmp_path) as connection:
        ended = await get(connection, lost.lease_id)
        assert ended.state == lp.LEASE_STATE_EXPIRED
        assert "'gone'" in ended.error.message
        assert (await get(connection, held.lease_id)).state == ACTIVE


async def test_what_becomes_of_a_lease_is_not_told_before_it_is_kept(tmp_path: Path) -> None:
    """Who reads, lists or watches a lease hears of a renewal and of a release when the next kernel would know, too."""
    async with kernel(tmp_path) as connection:
        lease = await connection.claim(memory(GIB), ttl=Duration(seconds=10))
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write, gate, entered = keeper._store.write, threading.Semaphore(0), threading.Semaphore(0)

        def slow(writes: Any) -> None:
            entered.release()
            gate.acquire(timeout=LONG_S)
            write(writes)

        keeper._store.write = slow  # type: ignore[method-assign]
        watching = connection.another().leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease.lease_id))
        assert left_s((await watching.read()).lease) <= 10
        for change in (
            lambda: renew(connection, lease.lease_id, ttl=Duration(seconds=3000)),
            lambda: connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id)),
        ):
            changing = asyncio.ensure_future(change())
            assert await asyncio.to_thread(entered.acquire, timeout=LONG_S)
            reads = [get(connection, lease.lease_id), list_all(connection), watching.read()]
            readers = [asyncio.ensure_future(each) for each in reads]
            await connection.hosts.GetHost(hs.GetHostRequest())  # they have arrived before it
            assert not any(reader.done() for reader in (changing, *readers))
            gate.release()
            await changing
            one, (listed,), watched = await asyncio.gather(*readers)
            assert one.state == listed.state == watched.lease.state
        assert one.state == lp.LEASE_STATE_RELEASED


async def test_a_release_that_cannot_be_kept_is_not_shown(tmp_path: Path) -> None:
    """While the store takes nothing, who reads such a lease is told STORE_UNAVAILABLE, and who watches it waits."""
    async with kernel(tmp_path) as connection:
        lease = await connection.claim(memory(GIB), ttl=Duration(seconds=100))
        watching = connection.another().leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease.lease_id))
        await watching.read()
        keeper = connection.kernel.driver.keeper
        assert keeper is not None
        write = keeper._store.write
        keeper._store.write = refuse  # type: ignore[method-assign]
        reason, _ = await refusal(connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id)))
        assert reason == "STORE_UNAVAILABLE"
        assert (await refusal(get(connection, lease.lease_id)))[0] == "STORE_UNAVAILABLE"
        watched = asyncio.ensure_future(watching.read())
        assert (await refusal(get(connection, lease.lease_id)))[0] == "STORE_UNAVAILABLE"
        assert not watched.done()
        keeper._store.write = write  # type: ignore[method-assign]
        assert (await watched).lease.state == lp.LEASE_STATE_RELEASED
        assert (await get(connection, lease.lease_id)).state == lp.LEASE_STATE_RELEASED
