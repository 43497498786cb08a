"""Workers that hosts have kept under leases, and leases of what hosts have that are to return."""

from typing import Any

import pytest
from adoption_bench import FACTS, MODEL, ON_A, ON_B, A, Bench, ends, held, lacking, refusal

from inferd.core import commands, events
from inferd.core.admission import NO_HOST
from inferd.core.host_events import AwaitHosts, HeldWorker
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.restored import RestoredLease
from inferd.core.task import TaskSpec
from inferd.errors import WorkerDiedError

L = LeaseId("l")


def restored(*models: ModelName, size_bytes: int = 400, device_id: DeviceId = ON_A, **more: Any) -> RestoredLease:
    """A lease of memory of a host that is to return, under which these models were loaded."""
    claim = MemoryClaim(device_id=device_id, memory_bytes=size_bytes)
    spec = LeaseSpec(lease_id=L, tenant=Tenant("t"), claims=(claim,))
    chosen: dict[str, Any] = {"expires": 100.0, "fencing_token": 7} | more
    return RestoredLease(spec=spec, number=1, ttl_s=100.0, created=0.0, granted=0.0, models=models, **chosen)


def leased_bench(*leases: RestoredLease) -> Bench:
    """A kernel that was started again a moment ago, with these leases."""
    bench = lacking(f"{NO_HOST}gpu:0 now")
    bench.tell(events.RestoreLeases(leases, 7))
    return bench


def lease_state(bench: Bench) -> str:
    lease = bench.machine.leases.known[L]
    return f"{lease.state.name} {lease.error or ''}".strip()


def under(**more: Any) -> HeldWorker:
    return held(**{"lease_id": L, "fencing_token": 7} | more)


def test_a_worker_under_a_lease_is_adopted_under_it() -> None:
    """It draws on what the lease holds of its device again, beside an instance for all; and ends with the lease."""
    bench = leased_bench(restored(MODEL))
    assert lease_state(bench) == "ACTIVE"
    leased, shared = bench.adopt(under(tasks=1), held("m-8", held_id=2))
    assert [type(each) for each in (leased, shared)] == [commands.AdoptWorker] * 2
    account = bench.machine.views.devices[ON_A]
    assert (account.lease_bytes, account.drawn_bytes, account.instance_bytes) == (400, 300, 300)
    assert not [each for each in bench.join() if isinstance(each, commands.StartWorker)]
    assert account.free_bytes == 300
    bench.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    task = TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object(), lease_id=L)
    said = bench.tell(events.SubmitTask(task))
    assert [each.instance_id for each in said if isinstance(each, commands.SendTask)] == ["m-7"]
    said = bench.tell(events.ReleaseLease(L, Tenant("t")))
    assert [each.instance_id for each in said if isinstance(each, commands.StopWorker)] == ["m-7"]


@pytest.mark.parametrize(
    ("worker", "lease", "why"),
    [
        (under(lease_id=LeaseId("other")), restored(MODEL), "its lease has ended"),
        (under(), restored(MODEL, expires=-1.0), "its lease has ended"),
        (under(fencing_token=6), restored(MODEL), "its fencing token is 7, not 6"),
        (under(), restored(), "its model is not loaded under its lease"),
        (under(size_bytes=401), restored(MODEL), "more than its lease has"),
        (under(), restored(MODEL, device_id=ON_B), "more than its lease has"),
    ],
)
def test_a_worker_under_a_lease_that_is_not_what_it_had_is_refused(
    worker: HeldWorker, lease: RestoredLease, why: str
) -> None:
    """It gets nothing that its lease does not hold there now, whatever a host says, nor is it anybody else's."""
    bench = leased_bench(lease)
    assert why in refusal(bench.adopt(worker))
    assert not bench.instances


def test_one_lease_gets_one_worker_of_a_model() -> None:
    """As many as are loaded again under it: a second one is refused."""
    adopted, refused = leased_bench(restored(MODEL, size_bytes=1000)).adopt(under(), under(held_id=2))
    assert isinstance(adopted, commands.AdoptWorker)
    assert "not loaded under its lease" in refusal([refused])


def test_what_no_host_has_kept_is_loaded_again_under_its_lease() -> None:
    """Once its host takes instances, and the model lacks nothing: before that its tasks are taken, and wait."""
    bench = leased_bench(restored(MODEL))
    task = TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object(), lease_id=L)
    bench.tell(events.SubmitTask(task))
    bench.tell(events.LoadModel(MODEL, Tenant("t"), L))
    bench.tell(events.HostFound(A))
    assert not [each for each in bench.join() if isinstance(each, commands.StartWorker)]
    said = bench.tell(events.CreateModel(bench.machine.views.model(MODEL).spec, kept=True))
    (started,) = [each for each in said if isinstance(each, commands.StartWorker)]
    instance = bench.machine.fleet.instances[started.instance_id]
    assert (instance.lease_id, instance.device_id) == (L, ON_A)
    assert ends(bench) == {"t": "QUEUED"}
    assert not [each for each in bench.join() if isinstance(each, commands.StartWorker)]


@pytest.mark.parametrize("joined", [True, False])
def test_an_adoption_under_a_lease_that_comes_to_nothing_is_made_good(*, joined: bool) -> None:
    """A worker that is gone before it has said anything: its model is loaded again, once its host takes instances."""
    bench = leased_bench(restored(MODEL))
    task = TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object(), lease_id=L)
    bench.tell(events.SubmitTask(task))
    bench.adopt(under(tasks=1))
    bench.tell(events.CreateModel(bench.machine.views.model(MODEL).spec, kept=True))  # which lacks nothing any more
    gone = events.WorkerExited(InstanceId("m-7"), WorkerDiedError("it has ended meanwhile"))
    said = (*bench.join(), *bench.tell(gone)) if joined else (*bench.tell(gone), *bench.join())
    assert [each.instance_id for each in said if isinstance(each, commands.StartWorker)] == ["m-8"]
    assert [each.lease_id for each in bench.machine.fleet.instances.values()] == [L]
    assert ends(bench) == {"t": "QUEUED"}
    bench.tell(events.ReleaseLease(L, Tenant("t")))
    assert bench.machine.views.devices[ON_A].lease_bytes == 0


def test_leases_wait_for_hosts_of_before_for_a_while() -> None:
    """Then they end; and so does one whose host is back without the device. Meanwhile it can be kept alive."""
    late = leased_bench(restored())
    late.tell(events.KeepAlive(L, Tenant("t"), 50.0), 10.0)
    late.tell(AwaitHosts(waits=False), 20.0)
    assert lease_state(late) == (
        "EXPIRED host 'a', of which it held a part, is not back in time since the kernel was started again"
    )
    other = leased_bench(restored(device_id=DeviceId("a/gpu:1")))
    other.tell(events.HostFound(A))
    other.join()
    assert lease_state(other) == "EXPIRED device 'a/gpu:1', of which it held a part, is there no more"
    there = leased_bench(restored())
    there.tell(events.HostFound(A))
    there.join()
    there.tell(AwaitHosts(waits=False))
    assert lease_state(there) == "ACTIVE"
    assert there.machine.views.devices[ON_A].free_bytes == 600
    gone = leased_bench(restored(device_id=DeviceId("gpu:9")))
    assert "is not known to the kernel started again" in lease_state(gone)


def test_a_model_that_is_deleted_meanwhile_is_none_that_the_lease_loads_again() -> None:
    """Another model of its name, made before the host is back, is not loaded under the lease unasked."""
    bench = leased_bench(restored(MODEL))
    spec = bench.machine.views.model(MODEL).spec
    bench.tell(events.UnloadModel(MODEL, force=True))
    bench.tell(events.DeleteModel(MODEL))
    assert not bench.machine.leases.known[L].models
    said = bench.tell(events.CreateModel(spec, waits=True))
    said = (*said, *bench.join())
    assert lease_state(bench) == "ACTIVE"
    assert not [each for each in said if isinstance(each, commands.StartWorker)]
