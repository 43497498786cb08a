"""Kernels with one store in PostgreSQL: one leads, the others stand by and follow it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, read_all, read_until, reason_of, text_of
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from postgres_server import PostgresServer
from stores import Postgres
from test_kept_tasks import wanted, watch
from time_limits import LONG_S

from inferd import server
from inferd.cli import doctor
from inferd.errors import StoreUnavailableError, present
from inferd.runtime.driver import Driver
from inferd.runtime.leading import Leadership
from inferd.server import Kernel
from inferd.standing import StandbyEndedError, Watch
from inferd.store.kernels import KernelEntry
from inferd.store.postgres import PostgresStore
from inferd.store.store import SealError
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import host_pb2 as host_messages
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1.host_service_pb2_grpc import HostServiceStub

TIMES = {"beat_s": 0.1, "silence_s": 1.5, "look_s": 0.05}
DEADLINE_S = LONG_S


@pytest.fixture
def stores(postgres: PostgresServer, database: str) -> Postgres:
    """The store of all kernels of a test."""
    return Postgres(postgres, database)


class Member:
    """A kernel of a store, which leads or stands by.

    Attributes:
        told: Who leads, each time that it said so while it stood by.
        leads: Done once it serves.
        addresses: Where it listens, once it stands by.
    """

    def __init__(self, folder: Path, stores: Postgres, **settings: Any) -> None:
        self.told: asyncio.Queue[KernelEntry | None] = asyncio.Queue()
        self.leads: asyncio.Future[Kernel] = asyncio.get_running_loop().create_future()
        self.addresses: tuple[str, ...] = ()
        self._ended = asyncio.Event()
        store = {**stores.settings, "output_interval_s": 0.0, "retry_s": 0.01}
        self._settings = {"store": store, "standby": TIMES, "workers": {"restart_backoff_s": 0.01}, **settings}
        self._running = asyncio.create_task(self._run(folder))

    async def _run(self, folder: Path) -> None:
        watch = Watch(told=self._tell, ended=self._ended)
        with suppress(StandbyEndedError):
            async with kernel_here(folder, watch, **self._settings) as kernel:
                self.leads.set_result(kernel)
                await self._ended.wait()

    def _tell(self, me: KernelEntry, leader: KernelEntry | None) -> None:
        self.addresses = me.addresses
        self.told.put_nowait(leader)

    async def kernel(self) -> Kernel:
        """It, once it leads."""
        await asyncio.wait([self.leads, self._running], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        return self.leads.result()

    async def stands_by(self) -> KernelEntry:
        """The leader that it tells of."""
        async with asyncio.timeout(DEADLINE_S):
            while (leader := await self.told.get()) is None:
                pass
        return leader

    async def leave(self) -> None:
        """End it in order."""
        self._ended.set()
        await self._running


@asynccontextmanager
async def members(folder: Path, stores: Postgres, *, count: int = 2) -> AsyncIterator[list[Member]]:
    """So many kernels, of which the first leads."""
    made = [Member(folder / "k0", stores)]
    try:
        await made[0].kernel()
        made += [Member(folder / f"k{number}", stores) for number in range(1, count)]
        for each in made[1:]:
            await each.stands_by()
        yield made
    finally:
        for each in made:
            await each.leave()


def leadership_of(kernel: Kernel) -> Leadership:
    return present(present(kernel.driver.keeper).leadership)


def silence(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have a leader tell nothing until this is set, as if it were stopped."""
    goes_on, roll = threading.Event(), leadership_of(kernel)._telling.roll
    sign = roll.sign

    def silent(*args: Any, **more: Any) -> Any:
        goes_on.wait(DEADLINE_S)
        return sign(*args, **more)

    monkeypatch.setattr(roll, "sign", silent)
    return goes_on


def details_of(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for each in present(rpc_status.from_call(error)).details:  # type: ignore[arg-type] # it is one
        assert each.Unpack(info) or each.Unpack(retry)
    return info, retry


async def test_a_standby_says_who_leads_and_follows_with_all_that_was_kept(tmp_path: Path, stores: Postgres) -> None:
    """Its health is NOT_SERVING and calls are refused with where to go; then a stream goes on behind what it told."""
    async with members(tmp_path, stores, count=1) as made:
        first, leader = made[0], await made[0].kernel()
        connection = Connection(leader, tmp_path)
        await connection.create(step_s=0.002)
        made.append(second := Member(tmp_path / "k1", stores))
        await second.stands_by()
        task_id = (await connection.tasks.CreateTask(wanted(300))).task.task_id
        told = await read_until(watch(connection, task_id), "output")
        (address,) = second.addresses
        async with grpc.aio.insecure_channel(address) as channel:
            health = HealthStub(channel).Watch(hp.HealthCheckRequest())
            checked = await HealthStub(channel).Check(hp.HealthCheckRequest())
            assert checked.status == hp.HealthCheckResponse.NOT_SERVING
            assert (await health.read()).status == hp.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await HostServiceStub(channel).GetHost(hs.GetHostRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            info, retry = details_of(caught.value)
            assert (info.reason, dict(info.metadata)) == ("NOT_LEADER", {"leader": ",".join(leader.addresses)})
            assert retry.retry_delay.ToTimedelta().total_seconds() > 0
            epoch = leader.driver.clock.epoch
            await connection.channel.close()
            await first.leave()
            follower = await second.kernel()
            assert follower.driver.clock.epoch > epoch
            assert (await health.read()).status == hp.HealthCheckResponse.SERVING
        connection = Connection(follower, tmp_path)
        rest = await read_all(watch(connection, task_id, told[-1].sequence))
        assert text_of([*told, *rest]) == "la" * 150
        numbers = [each.sequence for each in [*told, *rest]]
        assert numbers == sorted(set(numbers))
        await connection.channel.close()


async def test_a_silent_leader_is_followed_and_ends_when_it_wakes_up(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no call before the other one can lead; what it still runs is written no more, and ends as retryable."""
    async with members(tmp_path, stores, count=1) as made:
        leader = await made[0].kernel()
        connection = Connection(leader, tmp_path)
        await connection.create(step_s=0.01)
        kept = (await connection.tasks.CreateTask(wanted(300))).task.task_id
        stream = watch(connection, kept)
        told = await read_until(stream, "output")
        made.append(Member(tmp_path / "k1", stores))
        await made[1].stands_by()
        goes_on = silence(leader, monkeypatch)
        follower = await made[1].kernel()
        assert follower.reports is present(leadership_of(follower).plugins).reports  # it had looked for them before
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.hosts.GetHost(hs.GetHostRequest())
        assert reason_of(caught.value)[0] == "NOT_LEADER"
        goes_on.set()
        await asyncio.wait_for(leadership_of(leader).lost.wait(), DEADLINE_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            told += await read_all(stream)
        assert reason_of(caught.value)[0] in {"SHUTTING_DOWN", "STORE_UNAVAILABLE"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.hosts.GetHost(hs.GetHostRequest())
        where = reason_of(caught.value)[1]["leader"]
        assert where == ",".join(follower.addresses)
        other = Connection(follower, tmp_path)
        everything = await read_all(watch(other, kept))
        assert text_of(everything) == "la" * 150
        assert text_of(everything).startswith(text_of(told))
        assert everything[-1].finished.state == tp.TASK_STATE_SUCCEEDED
        await connection.channel.close()
        await other.channel.close()


async def test_one_of_several_follows(tmp_path: Path, stores: Postgres) -> None:
    """Of two that stand by one leads next, and the other one tells of it and stands by on."""
    async with members(tmp_path, stores, count=3) as (first, second, third):
        await first.leave()
        await asyncio.wait([second.leads, third.leads], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        chosen, left = (second, third) if second.leads.done() else (third, second)
        assert (await left.stands_by()).addresses == (await chosen.kernel()).addresses
        assert not left.leads.done()
        connection = Connection(await chosen.kernel(), tmp_path)
        host = await _host_with_standbys(connection)
        assert [tuple(each.addresses) for each in host.standbys] == [left.addresses]
        assert host.epoch == (await chosen.kernel()).driver.clock.epoch
        by_leader = await asyncio.to_thread(doctor_of, host_of(chosen))
        by_standby = await asyncio.to_thread(doctor_of, left.addresses[0])
        assert ("standby", "ok") in by_leader
        assert by_standby == [("kernel", "note")]
        page = (await chosen.kernel()).driver.metrics.registry.page().decode()
        assert "inferd_leads 1\n" in page
        assert "inferd_other_kernels 1\n" in page
        await connection.channel.close()


def host_of(member: Member) -> str:
    """Where a member that leads is reached."""
    return member.leads.result().addresses[0]


def doctor_of(address: str) -> list[tuple[str, str]]:
    """What `inferd doctor` finds of a kernel: names and results."""
    return [(check.name, check.result) for check in doctor._kernel(address)]


async def _host_with_standbys(connection: Connection) -> host_messages.Host:
    """The host, once its kernel has seen another one."""
    async with asyncio.timeout(DEADLINE_S):
        async for response in connection.hosts.WatchHost(hs.WatchHostRequest(interval=Duration(nanos=100_000_000))):
            if response.host.standbys:
                found: host_messages.Host = response.host
                return found
    raise AssertionError("the stream ended")


async def test_who_loses_the_race_for_the_store_stands_by_on(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that has the lock and finds that another one's epoch came first does not end: it tries again later."""
    async with members(tmp_path, stores) as (first, second):
        lead, lost = PostgresStore.lead, list[str]()

        def late(store: PostgresStore, entry: KernelEntry | None = None) -> int:
            if not lost:
                lost.append(store.name)
                stores.run(store, "UPDATE inferd_store SET epoch = epoch + 1")
            return lead(store, entry)

        monkeypatch.setattr(PostgresStore, "lead", late)
        await first.leave()
        assert (await second.kernel()).driver.clock.epoch
        assert lost


async def test_who_is_not_to_stand_by_ends_with_who_has_the_store(tmp_path: Path, stores: Postgres) -> None:
    """As kernels did before there were several."""
    async with members(tmp_path, stores, count=1):
        other = Member(tmp_path / "other", stores, standby={**TIMES, "enabled": False})
        with pytest.raises(StoreUnavailableError, match="in use by process"):
            await other.leave()


async def test_a_standby_that_could_not_open_the_store_says_so_at_once(tmp_path: Path, stores: Postgres) -> None:
    """With another key than the store is sealed with it ends now, and not when it is to lead."""
    async with members(tmp_path, stores, count=1):
        store = {**stores.settings, "key_file": tmp_path / "another.key"}
        other = Member(tmp_path / "other", stores, store=store)
        with pytest.raises(SealError):
            await other.leave()
        assert not (tmp_path / "another.key").exists()


async def test_a_start_that_failed_late_leaves_nothing_of_itself(
    tmp_path: Path, stores: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that lost its store once its services were offered serves those of its next start, and takes tasks."""
    read, failed = server.read_kept, list[Driver]()

    async def cut_off(driver: Driver, lacking: Any) -> Any:
        if not failed:
            failed.append(driver)
            raise StoreUnavailableError("another kernel has it", metadata={"cause": "taken over"})
        return await read(driver, lacking)

    monkeypatch.setattr(server, "read_kept", cut_off)
    async with members(tmp_path, stores, count=1) as (only,):
        kernel = await only.kernel()
        assert failed[0] is not kernel.driver
        connection = Connection(kernel, tmp_path)
        await connection.create()
        assert text_of(await read_all(connection.chat("a b"))) == "a b"
        await connection.channel.close()
