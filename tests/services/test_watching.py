"""Whoever watches a thing is woken by changes of that thing: counted, not timed."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, memory, under
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inferd.core.ids import ModelName
from inferd.core.lease import Lease
from inferd.runtime.front.leases import Leases
from inferd.testing.kernel import kernel_here
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms

GIB = 1 << 30
TIMES = 20


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel with the FakeBackend and 10 GiB."""
    async with kernel_here(tmp_path, devices={"memory_bytes": {"fake:0": 10 * GIB}}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the watchers of each lease have looked at it."""
    looks: Counter[str] = Counter()
    stands = Leases._stands

    def counted(self: Leases, lease: Lease) -> tuple[object, ...]:
        looks[lease.spec.lease_id] += 1
        return stands(self, lease)

    monkeypatch.setattr(Leases, "_stands", counted)
    return looks


async def watch(connection: Connection, lease: lp.Lease) -> Any:
    """A stream that watches a lease; its first message has been read."""
    stream = aiter(connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease.lease_id)))
    await anext(stream)
    return stream


async def keep(connection: Connection, *lease_ids: str) -> None:
    call = connection.leases.KeepAliveLeases(iter([ls.KeepAliveLeasesRequest(lease_ids=lease_ids)]))
    assert [len(answer.renewals) async for answer in call] == [len(lease_ids)]


async def test_keeping_a_lease_alive_wakes_its_own_watcher(connection: Connection, wakes: Counter[str]) -> None:
    """Whatever other leases do wakes no watcher of this one, and one keep-alive of its own wakes it once."""
    watched, other = await connection.claim(memory(GIB, "fake:0")), await connection.claim(memory(GIB, "fake:0"))
    stream, _ = await watch(connection, watched), await watch(connection, other)
    for _ in range(TIMES):
        await keep(connection, other.lease_id)
        brief = await connection.claim(memory(GIB, "fake:0"))
        await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=brief.lease_id))
    assert wakes[watched.lease_id] == 1
    await keep(connection, watched.lease_id)
    assert (await anext(stream)).lease.state == lp.LEASE_STATE_ACTIVE
    assert wakes[watched.lease_id] == 2


async def test_who_waits_hears_how_its_line_moves(connection: Connection, wakes: Counter[str]) -> None:
    """A waiting lease's watcher is told its new position when one before it leaves, and is asleep otherwise."""
    held = await connection.claim(memory(10 * GIB, "fake:0"))
    waiting = [await connection.claim(memory(6 * GIB, "fake:0"), wait=True) for _ in range(4)]
    last = await watch(connection, waiting[-1])
    for _ in range(TIMES):
        await keep(connection, held.lease_id, *(lease.lease_id for lease in waiting[:-1]))
    assert wakes[waiting[-1].lease_id] == 1
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=waiting[1].lease_id))
    assert (await anext(last)).lease.position == 2
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=held.lease_id))
    assert (await anext(last)).lease.position == 1


async def test_who_waits_hears_what_it_waits_for(connection: Connection) -> None:
    """The first in a line is told what it waits for when that changes, though its state does not."""
    first, second = [await connection.claim(memory(5 * GIB, "fake:0")) for _ in range(2)]
    waiting = await connection.claim(memory(8 * GIB, "fake:0"), wait=True)
    stream = await watch(connection, waiting)
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=first.lease_id))
    told = (await anext(stream)).lease
    assert told.state == lp.LEASE_STATE_PENDING
    assert told.waits_for != waiting.waits_for
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=second.lease_id))
    assert (await anext(stream)).lease.state == lp.LEASE_STATE_ACTIVE


async def test_a_lease_tells_of_its_instances(connection: Connection) -> None:
    """An instance that comes under a lease, or goes, is a change of that lease."""
    await connection.create()
    lease = await connection.claim(memory(5 * GIB, "fake:0"))
    stream = await watch(connection, lease)
    loading = ms.LoadModelRequest(name="fake")
    model = (await connection.models.LoadModel(loading, metadata=under(lease.lease_id))).model
    assert list((await anext(stream)).lease.instance_ids) == [model.instances[0].instance_id]
    (worker,) = connection.kernel.driver.supervisor.workers.values()
    worker.end("the test ended it")
    assert list((await anext(stream)).lease.instance_ids) == []


async def test_watchers_of_a_model_sleep_while_others_change(connection: Connection) -> None:
    """Watchers of a model, and of its health, are woken by its own changes; what other models do wakes none of them."""
    await connection.create("one")
    changes = connection.kernel.driver.watchers.models
    stream = aiter(connection.models.WatchModel(ms.WatchModelRequest(name="one")))
    while not (model := (await anext(stream)).model).content_digest:  # its file is read, as somebody asks
        assert model.state == mp.MODEL_STATE_UNLOADED
    health = aiter(
        health_pb2_grpc.HealthStub(connection.channel).Watch(health_pb2.HealthCheckRequest(service="model:one"))
    )
    assert (await anext(health)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    signals = tuple(changes._watchers[ModelName("one")])
    assert len(signals) == 2
    before = [signal.version for signal in signals]
    for n in range(TIMES):
        await connection.create(f"other{n}")
    await connection.models.LoadModel(ms.LoadModelRequest(name="other0"))
    await connection.models.UnloadModel(ms.UnloadModelRequest(name="other0"))
    await connection.models.DeleteModel(ms.DeleteModelRequest(name="other0"))
    assert [signal.version for signal in signals] == before
    await connection.models.LoadModel(ms.LoadModelRequest(name="one"))
    while (await anext(stream)).model.state != mp.MODEL_STATE_READY:
        pass
    assert (await anext(health)).status == health_pb2.HealthCheckResponse.SERVING


async def test_nothing_is_kept_of_what_nobody_watches(connection: Connection) -> None:
    """When the last watcher of a thing has gone, the kernel keeps nothing for it."""
    lease = await connection.claim(memory(GIB, "fake:0"))
    stream = await watch(connection, lease)
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
    assert (await anext(stream)).lease.state == lp.LEASE_STATE_RELEASED
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert not connection.kernel.driver.watchers.leases._watchers
