from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, info_of, memory, read_failing, read_until, reason_of, refusal, under
from google.protobuf.duration_pb2 import Duration

from inferd.testing.kernel import kernel_here
from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import priority_pb2 as pp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import task_service_pb2 as ts

pytestmark = pytest.mark.usefixtures("_cpu_backend")

GIB = 1 << 30
ACTIVE, PENDING = lp.LEASE_STATE_ACTIVE, lp.LEASE_STATE_PENDING


def span(seconds: float) -> Duration:
    value = Duration()
    value.FromNanoseconds(int(seconds * 1e9))
    return value


def selecting(size_bytes: int, device_id: str = "", **selector: str) -> lp.Claim:
    """A claim on memory of any host with these labels."""
    return lp.Claim(memory=lp.MemoryClaim(device_id=device_id, bytes=size_bytes, selector=selector))


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel with the FakeBackend, 10 GiB and short leases."""
    sizes = {"cpu:0": 10 * GIB, "fake:0": GIB}
    leases = {"min_ttl_s": 0.05, "watchers": 2}
    async with kernel_here(tmp_path, devices={"memory_bytes": sizes}, leases=leases) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


async def device(connection: Connection, device_id: str = "cpu:0") -> hp.Device:
    host = (await connection.hosts.GetHost(hs.GetHostRequest())).host
    return next(each for each in host.devices if each.device_id == device_id)


async def keep(connection: Connection, *requests: ls.KeepAliveLeasesRequest) -> list[Any]:
    call = connection.leases.KeepAliveLeases(iter(requests))
    return [answer async for answer in call]


async def test_a_lease_holds_memory_until_it_is_released(connection: Connection) -> None:
    """A grant says what is held, until when and with which token; the device's account follows it both ways."""
    lease = await connection.claim(lp.Claim(memory=lp.MemoryClaim(bytes=4 * GIB)), labels={"for": "training"})
    assert (lease.state, lease.tenant) == (ACTIVE, "default")
    assert lease.fencing_token > 0
    assert lease.spec.claims[0].memory.device_id == "cpu:0"
    assert (lease.spec.ttl.seconds, lease.spec.priority) == (30, pp.PRIORITY_NORMAL)
    assert dict(lease.spec.labels) == {"for": "training"}
    assert 29 < lease.remaining.ToNanoseconds() / 1e9 <= 30
    assert lease.expire_time.ToNanoseconds() > lease.grant_time.ToNanoseconds() >= lease.create_time.ToNanoseconds()
    held = await device(connection)
    assert (held.capacity_bytes, held.lease_bytes, held.free_bytes) == (10 * GIB, 4 * GIB, 6 * GIB)
    assert (await connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease.lease_id))).lease.state == ACTIVE
    released = (await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))).lease
    assert released.state == lp.LEASE_STATE_RELEASED
    assert released.HasField("end_time")
    assert not released.HasField("remaining")
    assert not released.HasField("expire_time")
    assert (await device(connection)).free_bytes == 10 * GIB
    assert (await connection.hosts.GetHost(hs.GetHostRequest())).host.leases == 0


async def test_a_lease_of_any_host_with_labels_tells_its_device(connection: Connection) -> None:
    """What was chosen stands in the lease, beside the labels; the same request is the same lease."""
    cores = lp.Claim(cores=lp.CoresClaim(cores=1, selector={"host": "local"}))
    spec = lp.LeaseSpec(claims=[selecting(GIB, "cpu", host="local"), cores])
    made = [(await connection.leases.CreateLease(ls.CreateLeaseRequest(spec=spec, request_id="r"))).lease for _ in "12"]
    assert made[0].lease_id == made[1].lease_id
    assert [made[0].spec.claims[0].memory.device_id, made[0].spec.claims[1].cores.device_id] == ["cpu:0", "cpu:0"]
    assert made[0].spec.claims[0].memory.selector == {"host": "local"}
    assert (await device(connection)).lease_bytes == GIB


async def test_a_request_id_makes_one_lease(connection: Connection) -> None:
    """The same call again gives the same lease; with other contents it is refused."""
    spec = lp.LeaseSpec(claims=[memory(GIB)])
    first = (await connection.leases.CreateLease(ls.CreateLeaseRequest(spec=spec, request_id="r"))).lease
    again = (await connection.leases.CreateLease(ls.CreateLeaseRequest(spec=spec, request_id="r"))).lease
    assert first.lease_id == again.lease_id
    other = ls.CreateLeaseRequest(spec=lp.LeaseSpec(claims=[memory(1)]), request_id="r")
    assert (await refusal(connection.leases.CreateLease(other)))[0] == "REQUEST_CONFLICT"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.claims"),
        ({"claims": [memory(1)] * 17}, "spec.claims"),
        ({"claims": [lp.Claim()]}, "spec.claims[0]"),
        ({"claims": [memory(1), memory(0)]}, "spec.claims[1].memory.bytes"),
        ({"claims": [lp.Claim(cores=lp.CoresClaim())]}, "spec.claims[0].cores.cores"),
        ({"claims": [lp.Claim(model=lp.ModelClaim())]}, "spec.claims[0].model.model"),
        ({"claims": [memory(1)], "ttl": span(0.01)}, "spec.ttl"),
        ({"claims": [memory(1)], "ttl": span(4000)}, "spec.ttl"),
        ({"claims": [memory(1)], "priority": 9}, "spec.priority"),
        ({"claims": [memory(1)], "wait_timeout": span(1)}, "spec.wait_timeout"),
        ({"claims": [memory(1)], "wait": True, "wait_timeout": span(0)}, "spec.wait_timeout"),
        ({"claims": [memory(1)], "labels": {"": "x"}}, "spec.labels"),
        ({"claims": [selecting(1, "b/cpu:0", host="local")]}, "spec.claims[0].memory.device_id"),
        ({"claims": [selecting(1, zone="no such one")]}, "spec.claims[0].memory.selector"),
        ({"claims": [selecting(1, "cuda", host="local")]}, "spec.claims[0].memory.selector"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_lease_is_refused_by_field(shared: Connection, spec: Any, field: str) -> None:
    """Each field that is out of bounds is INVALID_FIELD and named."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.leases.CreateLease(ls.CreateLeaseRequest(spec=lp.LeaseSpec(**spec)))
    assert reason_of(caught.value)[0] == "INVALID_FIELD"
    assert field.encode() in dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]


async def test_unknown_models_and_devices_are_told_a_near_name(connection: Connection) -> None:
    """A claim on what does not exist names what does."""
    await connection.create()
    with pytest.raises(grpc.aio.AioRpcError, match="'fake'"):
        await connection.claim(lp.Claim(model=lp.ModelClaim(model="fak")))
    with pytest.raises(grpc.aio.AioRpcError, match="'cpu:0'"):
        await connection.claim(memory(1, "cpu:9"))


async def test_without_room_a_lease_is_refused_or_waits(connection: Connection) -> None:
    """No room is LEASE_UNAVAILABLE with the figures; who waits is told its place, and is granted when there is room."""
    first = await connection.claim(memory(8 * GIB))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.claim(memory(4 * GIB))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    reason, facts = reason_of(caught.value)
    assert reason == "LEASE_UNAVAILABLE"
    assert (facts["device"], facts["wanted"], facts["free"]) == ("cpu:0", str(4 * GIB), str(2 * GIB))
    second = await connection.claim(memory(4 * GIB), wait=True)
    third = await connection.claim(memory(5 * GIB), wait=True)
    assert (second.state, second.position, second.fencing_token) == (PENDING, 0, 0)
    assert (third.state, third.position) == (PENDING, 1)
    assert "cpu:0" in second.waits_for
    watch = aiter(connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=third.lease_id)))
    assert (await anext(watch)).lease.state == PENDING
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=first.lease_id))
    granted = (await anext(watch)).lease
    assert (granted.state, granted.waits_for) == (ACTIVE, "")
    assert granted.fencing_token > first.fencing_token
    states = [lease.state for lease in (await connection.leases.ListLeases(ls.ListLeasesRequest())).leases]
    assert states == [lp.LEASE_STATE_RELEASED, ACTIVE, ACTIVE]


async def test_who_waits_in_vain_is_refused_with_the_reason(connection: Connection) -> None:
    """At the end of its longest wait a lease is REFUSED; its watcher is told why, and its stream ends."""
    await connection.claim(memory(8 * GIB))
    late = await connection.claim(memory(4 * GIB), wait=True, wait_timeout=span(0.05))
    told = await connection.until(late.lease_id, lp.LEASE_STATE_REFUSED)
    assert info_of(told[-1].error)[0] == "LEASE_UNAVAILABLE"


async def test_a_lease_that_is_not_kept_alive_expires(connection: Connection) -> None:
    """Without keep-alives a lease ends after its TTL, tells its watcher so, and its memory is free."""
    lease = await connection.claim(memory(10 * GIB), ttl=span(0.1))
    call = connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease.lease_id))
    told = [response.lease async for response in call]
    assert told[-1].state == lp.LEASE_STATE_EXPIRED
    assert told[-1].end_time.ToNanoseconds() - told[-1].grant_time.ToNanoseconds() >= 0.1e9
    assert (await device(connection)).free_bytes == 10 * GIB


async def test_many_leases_are_kept_alive_on_one_stream(connection: Connection) -> None:
    """Each message is answered in order; what is wrong with one lease is told of that one, and the stream goes on."""
    first, second = [await connection.claim(memory(GIB), ttl=span(20)) for _ in range(2)]
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=second.lease_id))
    ids = [first.lease_id, second.lease_id, "unknown"]
    answers = await keep(
        connection,
        ls.KeepAliveLeasesRequest(lease_ids=ids, ttl=span(60)),
        ls.KeepAliveLeasesRequest(lease_ids=[first.lease_id], ttl=span(9999)),
        ls.KeepAliveLeasesRequest(lease_ids=[first.lease_id]),
    )
    kept, ended, unknown = answers[0].renewals
    assert (kept.lease_id, kept.state, kept.fencing_token) == (first.lease_id, ACTIVE, first.fencing_token)
    assert 20 < kept.remaining.ToNanoseconds() / 1e9 <= 60
    assert not kept.HasField("error")
    assert ended.state == lp.LEASE_STATE_RELEASED
    assert info_of(ended.error) == ("LEASE_ENDED", {"lease_id": second.lease_id, "state": "RELEASED"})
    assert (unknown.lease_id, unknown.state, info_of(unknown.error)[0]) == ("unknown", 0, "LEASE_NOT_FOUND")
    (wrong,), (again,) = answers[1].renewals, answers[2].renewals
    assert (wrong.state, info_of(wrong.error)[0]) == (ACTIVE, "INVALID_FIELD")
    assert 20 < again.remaining.ToNanoseconds() / 1e9 <= 60


async def test_too_many_leases_in_a_message_end_the_stream(connection: Connection) -> None:
    """A message with more ids than may be is INVALID_FIELD with both numbers: errors of such streams are typed too."""
    with pytest.raises(grpc.aio.AioRpcError, match="1001 lease_ids in one message; at most 1000") as caught:
        await keep(connection, ls.KeepAliveLeasesRequest(lease_ids=["x"] * 1001))
    assert reason_of(caught.value)[0] == "INVALID_FIELD"


async def test_leases_are_listed_in_pages_by_age(connection: Connection) -> None:
    """Pages follow each other without gap or repeat, filtered by state; an unknown state is refused."""
    ids = [(await connection.claim(memory(1))).lease_id for _ in range(5)]
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=ids.pop(2)))
    seen: list[str] = []
    token = ""
    for _ in range(2):
        page = await connection.leases.ListLeases(
            ls.ListLeasesRequest(page_size=2, page_token=token, states=[ACTIVE, PENDING])
        )
        seen += [lease.lease_id for lease in page.leases]
        token = page.next_page_token
    assert (seen, token) == (ids, "")
    assert (await refusal(connection.leases.ListLeases(ls.ListLeasesRequest(states=[77]))))[0] == "INVALID_FIELD"


async def test_tenants_see_only_their_own_leases(connection: Connection) -> None:
    """Another tenant can neither read, list, watch, keep nor release a lease."""
    mine = (("inferd-tenant", "mine"),)
    lease_id = (await connection.claim(memory(1), metadata=mine)).lease_id
    for call in (
        connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease_id)),
        connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease_id)),
        connection.hosts.GetHost(hs.GetHostRequest(), metadata=under(lease_id)),
    ):
        assert (await refusal(call))[0] == "LEASE_NOT_FOUND"
    watch = connection.leases.WatchLease(ls.WatchLeaseRequest(lease_id=lease_id))
    assert reason_of((await read_failing(watch))[1])[0] == "LEASE_NOT_FOUND"
    (answer,) = await keep(connection, ls.KeepAliveLeasesRequest(lease_ids=[lease_id]))
    assert info_of(answer.renewals[0].error)[0] == "LEASE_NOT_FOUND"
    assert not (await connection.leases.ListLeases(ls.ListLeasesRequest())).leases
    assert len((await connection.leases.ListLeases(ls.ListLeasesRequest(), metadata=mine)).leases) == 1


async def test_any_call_may_name_a_lease_and_is_checked(connection: Connection) -> None:
    """A lease that holds is accepted on any call; one that is no id, unknown, waits or has ended is refused."""
    lease = await connection.claim(memory(8 * GIB))
    waiting = await connection.claim(memory(8 * GIB), wait=True)

    def host(lease_id: str) -> Any:
        return connection.hosts.GetHost(hs.GetHostRequest(), metadata=under(lease_id))

    await host(lease.lease_id)
    assert (await refusal(host("no id")))[0] == "INVALID_FIELD"
    assert (await refusal(host("unknown")))[0] == "LEASE_NOT_FOUND"
    assert (await refusal(host(waiting.lease_id))) == (
        "LEASE_ENDED",
        {"lease_id": waiting.lease_id, "state": "PENDING"},
    )
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
    assert (await refusal(host(lease.lease_id)))[1]["state"] == "RELEASED"
    _, error = await read_failing(connection.chat("x", metadata=under(lease.lease_id)))
    assert reason_of(error)[0] == "LEASE_ENDED"


async def test_a_model_loaded_under_a_lease_ends_with_it(connection: Connection) -> None:
    """`LoadModel` under a lease draws on its memory and tells so; the release ends the instance and its tasks."""
    await connection.create(step_s=0.02)
    lease = await connection.claim(memory(GIB // 2, "fake:0"))
    loading = ms.LoadModelRequest(name="fake")
    model = (await connection.models.LoadModel(loading, metadata=under(lease.lease_id))).model
    (instance,) = model.instances
    assert (instance.lease_id, instance.state) == (lease.lease_id, mp.INSTANCE_STATE_READY)
    assert instance.reserved_bytes >= instance.need.weights_bytes == 1 << 20
    account = await device(connection, "fake:0")
    assert (account.lease_bytes, account.instance_bytes) == (GIB // 2, 0)
    call = connection.endless(metadata=under(lease.lease_id))
    task_id = (await read_until(call, "output"))[0].task_id
    assert (await connection.tasks.GetTask(ts.GetTaskRequest(task_id=task_id))).task.lease_id == lease.lease_id
    read = (await connection.leases.GetLease(ls.GetLeaseRequest(lease_id=lease.lease_id))).lease
    assert (list(read.instance_ids), read.tasks) == ([instance.instance_id], 1)
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
    events, _ = await read_failing(call)
    assert events[-1].finished.state == tp.TASK_STATE_CANCELLED
    assert lease.lease_id in events[-1].finished.error.message


async def test_a_part_of_a_model_is_held_for_its_lease(connection: Connection) -> None:
    """A lease on a model loads it; its tasks find a place while all others are taken."""
    await connection.create(max_sequences=2, step_s=0.02)
    claim = lp.Claim(model=lp.ModelClaim(model="fake", sequences=1, kv_tokens=64))
    lease = await connection.claim(claim, wait=True)
    await connection.until(lease.lease_id, ACTIVE)
    first = connection.endless()
    await read_until(first, "output")
    second = connection.another().endless()
    await read_until(second, "queued")  # the other place is the lease's
    events = await read_until(connection.another().chat("hi", metadata=under(lease.lease_id)), "finished")
    assert events[-1].finished.state == tp.TASK_STATE_SUCCEEDED
    await connection.leases.ReleaseLease(ls.ReleaseLeaseRequest(lease_id=lease.lease_id))
    await read_until(second, "output")
    for call in (first, second):
        call.cancel()


async def test_watchers_of_leases_are_bounded(connection: Connection) -> None:
    """More watchers than `leases.watchers` are refused with both numbers."""
    lease = await connection.claim(memory(1))
    request = ls.WatchLeaseRequest(lease_id=lease.lease_id)
    open_ = [aiter(connection.leases.WatchLease(request)) for _ in range(2)]
    for watch in open_:
        await anext(watch)
    _, error = await read_failing(connection.leases.WatchLease(request))
    assert reason_of(error) == ("LIMIT_EXCEEDED", {"bound": "leases.watchers", "value": "2", "limit": "2"})
