"""Leases held by the client against a kernel that really gives and takes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from time_limits import LONG_S

from inferd.errors import ShuttingDownError
from inferd.server import Kernel
from inferd.services.leases import Leases
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.lease_pb2 import LEASE_STATE_ACTIVE, LEASE_STATE_EXPIRED, LEASE_STATE_RELEASED, LeaseState
from inferd_client import AsyncClient, Client, HeldLease, LeaseLostError, claims
from inferd_client.errors import LeaseEndedError, LeaseUnavailableError, ModelNotFoundError
from inferd_client.keepers import AsyncKeeper

pytestmark = pytest.mark.usefixtures("_cpu_backend")

GIB = 1 << 30
TTL_S = 1.2


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    """A kernel with 10 GiB and short leases."""
    sizes = {"cpu:0": 10 * GIB, "fake:0": GIB}
    async with kernel_here(tmp_path, devices={"memory_bytes": sizes}, leases={"min_ttl_s": 0.05}) as kernel:
        yield kernel


@pytest.fixture
async def client(kernel: Kernel) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(kernel.addresses[0]) as client:
        yield client


async def state_of(client: AsyncClient, lease: HeldLease) -> LeaseState.ValueType:
    return (await client.get_lease(lease.lease_id)).state


async def renewals(client: AsyncClient, lease: HeldLease, count: int) -> None:
    """Wait until a lease has been kept alive so often."""
    seen = set()
    async with asyncio.timeout(60), aclosing(client.watch_lease(lease.lease_id)) as leases:
        async for told in leases:
            assert told.state == LEASE_STATE_ACTIVE
            seen.add(told.expire_time.ToNanoseconds())
            if len(seen) > count:
                return


def refuse(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Break so many streams of keep-alives off at their next message."""
    left = [times]
    real = Leases._renew

    def break_off(*given: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise ShuttingDownError("the kernel is shutting down")
        return real(*given)

    monkeypatch.setattr(Leases, "_renew", break_off)


async def test_a_lease_is_kept_alive_for_as_long_as_its_block(client: AsyncClient) -> None:
    """Inside the block the lease outlives its TTL several times; behind it, it is released."""
    async with client.lease(claims.memory(GIB), ttl_s=TTL_S, labels={"a": "b"}) as lease:
        assert lease.fencing_token > 0
        await renewals(client, lease, 4)
        assert 0 < lease.remaining_s <= TTL_S
        assert dict((await client.get_lease(lease.lease_id)).spec.labels) == {"a": "b"}
    assert await state_of(client, lease) == LEASE_STATE_RELEASED


async def test_a_block_waits_for_its_grant(client: AsyncClient) -> None:
    """With `wait` the block begins when there is room, the lease kept alive meanwhile, and not before."""
    entered = asyncio.Event()

    async def second() -> HeldLease:
        async with client.lease(claims.memory(6 * GIB), wait=True, ttl_s=TTL_S) as lease:
            entered.set()
            return lease

    async with asyncio.TaskGroup() as group:
        async with client.lease(claims.memory(6 * GIB), ttl_s=TTL_S) as first:
            waiting = group.create_task(second())
            await renewals(client, first, 4)
            assert not entered.is_set()
        await asyncio.wait_for(entered.wait(), LONG_S)
    assert waiting.result().fencing_token > first.fencing_token


async def test_who_waits_in_vain_is_told_why(client: AsyncClient) -> None:
    """Without `wait`, or at the end of the longest wait, the block never begins: LeaseUnavailableError."""
    async with client.lease(claims.memory(6 * GIB)):
        for options in ({}, {"wait": True, "wait_timeout_s": 0.05}):
            with pytest.raises(LeaseUnavailableError):
                await client.lease(claims.memory(6 * GIB), **options).__aenter__()  # type: ignore[arg-type]


async def test_a_block_whose_lease_is_taken_away_is_cancelled(client: AsyncClient) -> None:
    """When someone else releases the lease its block is cancelled and ends with LeaseLostError, which says so."""
    cancelled = []

    async def lose() -> None:
        async with client.lease(claims.memory(GIB), ttl_s=TTL_S) as lease:
            await client.release_lease(lease.lease_id)
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 30)
            except asyncio.CancelledError:
                cancelled.append(lease)
                raise

    with pytest.raises(LeaseLostError, match="RELEASED") as caught:
        await lose()
    (lease,) = cancelled
    assert isinstance(caught.value, LeaseEndedError)
    assert caught.value.metadata["lease_id"] == lease.lease_id
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    with pytest.raises(LeaseLostError):
        await client.generate("any", "x", lease=lease)


async def test_a_block_whose_kernel_is_silent_ends_by_itself(
    client: AsyncClient, kernel: Kernel, monkeypatch: Any
) -> None:
    """Who is not confirmed for a TTL gives up, whatever the kernel may think, and gives the lease back if it can."""
    refuse(monkeypatch, times=1000)

    async def lose() -> None:
        async with client.lease(claims.memory(GIB), ttl_s=TTL_S):
            await asyncio.wait_for(asyncio.Event().wait(), 30)

    with pytest.raises(LeaseLostError, match="has not confirmed it for its TTL"):
        await lose()
    (held,) = kernel.driver.machine.leases.known.values()
    assert held.state.value in (LEASE_STATE_RELEASED, LEASE_STATE_EXPIRED)


async def test_a_broken_stream_is_replaced(client: AsyncClient, monkeypatch: Any) -> None:
    """When the stream of keep-alives breaks off another one goes on in time."""
    refuse(monkeypatch, times=1)
    async with client.lease(claims.memory(GIB), ttl_s=2) as lease:
        await renewals(client, lease, 4)


async def test_a_cancellation_by_someone_else_stays_one(client: AsyncClient) -> None:
    """A block that is cancelled from outside ends as cancelled, and its lease is released."""
    entered: asyncio.Future[HeldLease] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with client.lease(claims.memory(GIB)) as lease:
            entered.set_result(lease)
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    lease = await asyncio.wait_for(entered, LONG_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await state_of(client, lease) == LEASE_STATE_RELEASED


async def test_an_error_of_the_block_stays_its_own(client: AsyncClient) -> None:
    """What a block raises is raised, and its lease is released."""
    with pytest.raises(ModelNotFoundError):
        async with client.lease(claims.memory(GIB)) as lease:
            await client.generate("unknown", "x")
    assert await state_of(client, lease) == LEASE_STATE_RELEASED


async def test_many_leases_share_one_stream(client: AsyncClient, monkeypatch: Any) -> None:
    """All leases of a client are kept alive on one stream, those that fall due together in one message."""
    dialled, sizes = [], []
    dial, renew = client._keeper._dial, AsyncKeeper._renew

    def count_dials() -> Any:
        dialled.append(1)
        return dial()

    async def count_sizes(self: AsyncKeeper, call: Any, batch: Any) -> None:
        sizes.append(len(batch))
        await renew(self, call, batch)

    client._keeper._dial = count_dials
    monkeypatch.setattr(AsyncKeeper, "_renew", count_sizes)
    async with AsyncExitStack() as stack:
        leases = [await stack.enter_async_context(client.lease(claims.cores(1), ttl_s=2)) for _ in range(2)]
        leases += [await stack.enter_async_context(client.lease(claims.memory(1), ttl_s=2)) for _ in range(20)]
        await renewals(client, leases[-1], 4)
    assert sum(dialled) == 1
    assert sum(sizes) > 4 * len(sizes), "a busy machine may make two groups of them, not one each"


async def test_calls_run_under_a_lease(client: AsyncClient, tmp_path: Path) -> None:
    """A model is loaded under a lease and its tasks run under it; with the lease both end."""
    await client.create_model("fake", str(write_fake_model(tmp_path)))
    async with client.lease(claims.memory(GIB // 2, device_id="fake:0")) as lease:
        model = await client.load_model("fake", lease=lease)
        assert [instance.lease_id for instance in model.instances] == [lease.lease_id]
        answer = await client.generate("fake", [{"role": "user", "content": "hi"}], lease=lease, priority="low")
        assert answer.text == "hi"
        task = await client.get_task(answer.task_id)
        assert (task.lease_id, task.priority) == (lease.lease_id, 1)
        plan = await client.plan_load("fake")
        assert plan.fits
    async with aclosing(client.watch_model("fake")) as models, asyncio.timeout(60):
        async for model in models:
            if not model.instances:
                break


def lose_in_thread(client: Client) -> None:
    with client.lease(claims.memory(GIB), ttl_s=TTL_S) as lease:
        client.release_lease(lease.lease_id)
        while lease.remaining_s > 0:  # until the next keep-alive is answered
            client.get_lease(lease.lease_id)
        with pytest.raises(LeaseLostError):
            lease.check()
        with pytest.raises(LeaseLostError):
            client.generate("any", "x", lease=lease)


def hold_in_thread(address: str) -> list[str]:
    """What a synchronous client sees of leases; runs beside the kernel's loop."""
    said = []
    with Client(address) as client:
        with client.lease(claims.memory(GIB), ttl_s=TTL_S) as lease, ExitStack() as stack:
            more = [stack.enter_context(client.lease(claims.memory(1), ttl_s=2)) for _ in range(3)]
            with closing(client.watch_lease(lease.lease_id)) as leases:
                said += [LeaseState.Name(next(leases).state) for _ in range(5)]
            assert all(each.remaining_s > 0 for each in more)
            assert client.get_lease(lease.lease_id).state == LEASE_STATE_ACTIVE
        said.append(LeaseState.Name(client.get_lease(lease.lease_id).state))
        assert [r.lease_id for r in client.keep_alive([lease.lease_id, "no"])] == [lease.lease_id, "no"]
        with pytest.raises(LeaseLostError):
            lose_in_thread(client)
    assert not [t for t in threading.enumerate() if t.name == "keeper of leases"]
    return said


async def test_the_synchronous_client_holds_leases_too(kernel: Kernel) -> None:
    """A thread keeps leases alive for as long as their blocks, `check` tells a loss, and no thread is left."""
    said = await asyncio.to_thread(hold_in_thread, kernel.addresses[0])
    assert said == ["LEASE_STATE_ACTIVE"] * 5 + ["LEASE_STATE_RELEASED"]
