"""Hosts that join, drain, are lost, come back and leave, and what becomes of all that hangs on them."""

from dataclasses import replace
from typing import Any

import pytest

from inferd.core import changes, commands, events
from inferd.core.elastic import ElasticTimes
from inferd.core.host import LOCAL_HOST, HostChange, HostState, device_on, host_of, name_of
from inferd.core.host_events import CordonHost, OrderHosts
from inferd.core.ids import DeviceId, HostId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import CoresClaim, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec, ModelState
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import TaskSpec
from inferd.errors import InvalidFieldError, ModelBusyError, ModelLoadError, WorkerDiedError

A, B = HostId("a"), HostId("b")
GPU = DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=1000, cores=4)
ON_A, ON_B = DeviceId("a/gpu:0"), DeviceId("b/gpu:0")
MODEL, TENANT = ModelName("m"), Tenant("t")


class Bench:
    """A machine with two hosts and a model that may use both; the backend names that of the first one first."""

    def __init__(self, **spec: Any) -> None:
        self.machine = KernelMachine(CoreLimits(elastic=ElasticTimes(grow_s=2.0)))
        for host_id in (A, B):
            self.tell(events.HostJoined((GPU,), host_id))
        fields: dict[str, Any] = {
            "name": MODEL, "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "x",
            "backend_reason": "", "loader": "x:Y", "devices": (ON_A, ON_B),
        }  # fmt: skip
        self.tell(events.CreateModel(ModelSpec(**(fields | spec))))

    def tell(self, event: events.Event, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, now)

    def come_up(self, instance_id: str, now: float = 0.0) -> None:
        facts = InstanceFacts(max_tasks=2, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        self.tell(events.InstanceNeeds(InstanceId(instance_id), MemoryNeed(weights_bytes=300)), now)
        self.tell(events.InstanceLoaded(InstanceId(instance_id), facts), now)

    def submit(self, name: str, **more: Any) -> tuple[commands.Reply, ...]:
        spec = TaskSpec(task_id=TaskId(name), tenant=TENANT, model=MODEL, work=object(), **more)
        return self.tell(events.SubmitTask(spec))

    def claim(self, *claims: Any, wait: bool = False) -> LeaseId:
        lease_id = LeaseId(f"l{len(self.machine.leases.known)}")
        self.tell(events.CreateLease(LeaseSpec(lease_id=lease_id, tenant=TENANT, claims=claims, wait=wait)))
        return lease_id

    def states(self, *names: str) -> list[str]:
        return [self.machine.tasks.known[TaskId(name)].state.name for name in names]

    @property
    def places(self) -> dict[str, DeviceId]:
        return {i.instance_id: i.device_id for i in self.machine.fleet.instances.values() if i.living}


def of(found: tuple[commands.Reply, ...], kind: type) -> list[Any]:
    return [each for each in found if isinstance(each, kind)]


def test_devices_are_named_with_their_host() -> None:
    """A far host's device is `host/name` in the core and for clients; one of the kernel's own has its name alone."""
    bench = Bench()
    bench.tell(events.HostJoined((GPU,)))
    assert [*bench.machine.views.devices] == [ON_A, ON_B, "gpu:0"]
    for host_id in (A, LOCAL_HOST):
        device_id = device_on(host_id, "gpu:0")
        assert (host_of(device_id), name_of(device_id)) == (host_id, "gpu:0")


def test_tasks_of_a_lost_host_go_on_elsewhere() -> None:
    """Its instances are gone at once, and no task, and no model, is to blame: nobody waits out a backoff."""
    bench = Bench()
    bench.submit("t1")
    bench.come_up("m-1")
    assert bench.places == {"m-1": ON_A}
    found = bench.tell(events.HostLost(A, "no word for 10 s"), 1.0)
    assert [c.instance_id for c in of(found, commands.AbandonWorker)] == ["m-1"]
    assert [(c.instance_id, c.device_id) for c in of(found, commands.StartWorker)] == [("m-2", ON_B)]
    bench.come_up("m-2", 1.0)
    assert bench.states("t1") == ["RUNNING"]
    task = bench.machine.tasks.known[TaskId("t1")]
    assert (task.instance_id, task.attempt, task.deaths) == ("m-2", 2, 0)
    assert bench.machine.views.model(MODEL).failures == 0


def test_what_a_lost_worker_still_says_changes_nothing() -> None:
    """Its last frames and its exit come late: the core knows it no longer."""
    bench = Bench()
    bench.submit("t1")
    bench.come_up("m-1")
    bench.tell(events.HostLost(A, "no word"), 1.0)
    for late in (
        events.WorkerExited(InstanceId("m-1"), WorkerDiedError("abandoned")),
        events.MemoryMeasured(InstanceId("m-1"), 400),
        events.HostLost(A, "no word"),
        events.HostLost(HostId("unknown"), "never heard of"),
    ):
        assert bench.tell(late, 2.0) == ()
    assert bench.states("t1") == ["QUEUED"]


def test_a_model_waits_for_a_host() -> None:
    """Where no host of a model takes instances its tasks wait, and it starts as soon as one comes back."""
    bench = Bench(devices=(ON_A,))
    bench.tell(events.HostLost(A, "no word"))
    assert not of(bench.submit("t1"), commands.StartWorker)
    with pytest.raises(ModelBusyError, match="no host of a/gpu:0 takes instances"):
        bench.tell(events.LoadModel(MODEL))
    bench.tell(events.HostFound(A))
    assert bench.machine.hosts.known[A].state is HostState.JOINING
    assert [c.device_id for c in of(bench.tell(events.HostJoined((GPU,), A)), commands.StartWorker)] == [ON_A]
    assert bench.machine.hosts.known[A].state is HostState.READY


def test_a_load_is_no_failure_of_a_model_whose_host_is_lost() -> None:
    """The model is UNLOADED, not FAILED, and what waits for it goes on waiting."""
    bench = Bench(devices=(ON_A,))
    bench.submit("t1")
    bench.tell(events.HostLost(A, "no word"))
    assert bench.machine.views.model(MODEL).state is ModelState.UNLOADED
    assert bench.states("t1") == ["QUEUED"]


def test_a_host_drains() -> None:
    """What runs there ends there; another instance comes up elsewhere first, and takes the tasks once it is READY."""
    bench = Bench()
    bench.submit("t1")
    bench.come_up("m-1")
    assert [c.device_id for c in of(bench.tell(events.DrainHost(A)), commands.StartWorker)] == [ON_B]
    assert not of(bench.submit("t2"), commands.StartWorker)
    assert bench.states("t1", "t2") == ["RUNNING", "RUNNING"]
    assert not bench.tell(events.DrainHost(A))
    bench.come_up("m-2")
    bench.submit("t3")
    assert bench.machine.tasks.known[TaskId("t3")].instance_id == "m-2"
    bench.tell(events.CancelTask(TaskId("t1"), TENANT))
    found = bench.tell(events.CancelTask(TaskId("t2"), TENANT))
    assert [c.instance_id for c in of(found, commands.StopWorker)] == ["m-1"]
    assert bench.places == {"m-2": ON_B}


def test_a_drain_that_finds_no_place_elsewhere_waits_for_what_runs() -> None:
    """Where nothing is free on another host, or what comes up there fails, the instance takes no new task at once."""
    bench = Bench()
    bench.claim(MemoryClaim(device_id=ON_B, memory_bytes=900))
    bench.submit("t1")
    bench.come_up("m-1")
    bench.machine.views.model(MODEL).versions[1].needs.clear()
    bench.tell(events.ModelMeasured(MODEL, {ON_A: MemoryNeed(weights_bytes=300)}))
    assert not of(bench.tell(events.DrainHost(A)), commands.StartWorker)
    bench.submit("t2")
    assert bench.states("t1", "t2") == ["RUNNING", "QUEUED"]


@pytest.mark.parametrize("fails", [True, False])
def test_an_instance_whose_stand_in_fails_goes_all_the_same(fails: bool) -> None:  # noqa: FBT001
    """And one whose host need not drain any more stays: then what was to stand in for it ends."""
    bench = Bench()
    bench.submit("t1")
    bench.come_up("m-1")
    bench.tell(events.DrainHost(A))
    if fails:
        bench.tell(events.WorkerExited(InstanceId("m-2"), WorkerDiedError("it died")))
    else:
        found = bench.tell(events.ResumeHost(A))
        assert [c.instance_id for c in of(found, commands.StopWorker)] == ["m-2"]
    bench.submit("t2")
    assert bench.states("t1", "t2") == ["RUNNING", "QUEUED" if fails else "RUNNING"]


def test_a_cordoned_host_keeps_its_instances() -> None:
    """They take tasks, nothing new comes, also when it was lost and is back, until it is resumed; then it may."""
    bench = Bench(max_instances=2)
    bench.tell(events.LoadModel(MODEL))
    bench.come_up("m-1")
    bench.tell(CordonHost(A))
    bench.submit("t1")
    assert bench.states("t1") == ["RUNNING"]
    assert bench.machine.hosts.known[A].state is HostState.CORDONED
    bench.tell(events.HostLost(A, "no word"))
    bench.tell(events.HostJoined((GPU,), A))
    assert bench.machine.hosts.known[A].state is HostState.CORDONED
    assert not bench.machine.views.devices[ON_A].open
    bench.tell(events.ResumeHost(A))
    assert bench.machine.views.devices[ON_A].open


def test_what_operators_wanted_of_hosts_holds_when_these_join() -> None:
    """A kernel that was started anew drains and cordons the hosts that the one before did, once they are there."""
    bench = Bench()
    bench.tell(OrderHosts({HostId("c"): HostChange.DRAIN, HostId("d"): HostChange.CORDON}))
    states = []
    for name in "cde":
        bench.tell(events.HostJoined((GPU,), HostId(name)))
        states.append(bench.machine.hosts.known[HostId(name)].state)
    assert states == [HostState.DRAINING, HostState.CORDONED, HostState.READY]


def test_a_host_that_need_not_drain_takes_tasks_again() -> None:
    """`ResumeHost` gives its instances back to all tasks."""
    bench = Bench(devices=(ON_A,))
    bench.submit("t1")
    bench.come_up("m-1")
    bench.tell(events.DrainHost(A))
    bench.submit("t2")
    assert bench.states("t1", "t2") == ["RUNNING", "QUEUED"]
    bench.tell(events.ResumeHost(A))
    assert bench.states("t1", "t2") == ["RUNNING", "RUNNING"]


def test_a_resumed_host_gives_a_model_no_more_instances_than_it_may_have() -> None:
    """An instance that another one has replaced meanwhile goes on leaving; one that none has replaced stays."""
    bench = Bench()
    bench.submit("t1")
    bench.come_up("m-1")
    bench.tell(events.DrainHost(A))
    bench.come_up("m-2")
    bench.submit("t2")
    bench.tell(events.ResumeHost(A))
    assert len(bench.machine.views.model(MODEL).shared) == 1
    found = bench.tell(events.CancelTask(TaskId("t1"), TENANT))
    assert [c.instance_id for c in of(found, commands.StopWorker)] == ["m-1"]


def test_a_host_that_drains_leaves_leases_what_they_hold() -> None:
    """What a lease keeps is used to its end, then it goes; nothing new is given of the host."""
    bench = Bench()
    bench.tell(events.LoadModel(MODEL))
    bench.come_up("m-1")
    lease_id = bench.claim(ModelClaim(model=MODEL, sequences=1))
    bench.tell(events.DrainHost(A))
    waits = bench.claim(CoresClaim(device_id=ON_A, cores=1), wait=True)
    bench.submit("t1", lease_id=lease_id)
    assert bench.states("t1") == ["RUNNING"]
    found = bench.tell(events.ReleaseLease(lease_id, TENANT))
    assert [c.instance_id for c in of(found, commands.StopWorker)] == ["m-1"]
    assert bench.machine.leases.known[waits].state is LeaseState.PENDING
    bench.tell(events.ResumeHost(A))
    assert bench.machine.leases.known[waits].state is LeaseState.ACTIVE


def test_leases_end_with_what_they_hold() -> None:
    """One that holds a part of a lost host ends, and says why; one that waits for that ends when the host leaves."""
    bench = Bench()
    holds = bench.claim(MemoryClaim(device_id=ON_A, memory_bytes=900))
    waits = bench.claim(MemoryClaim(device_id=ON_A, memory_bytes=800), wait=True)
    bench.tell(events.HostLost(A, "no word for 10 s"))
    known = bench.machine.leases.known
    assert (known[holds].state, known[waits].state) == (LeaseState.EXPIRED, LeaseState.PENDING)
    assert "host 'a' is lost: no word for 10 s" in str(known[holds].error)
    bench.tell(events.HostLeft(A))
    assert known[waits].state is LeaseState.REFUSED
    assert "a/gpu:0 has left for good" in str(known[waits].error)
    assert ON_A not in bench.machine.views.devices


def test_a_host_may_come_again_after_it_has_left() -> None:
    """It is GONE with its devices, known no longer, and joins like a new one."""
    bench = Bench()
    bench.submit("t1")
    bench.come_up("m-1")
    found = bench.tell(events.HostLeft(A))
    assert [c.state for c in of(found, changes.HostChanged)] == [HostState.GONE]
    assert changes.HostForgotten(A) in found
    assert A not in bench.machine.hosts.known
    found = bench.tell(events.HostJoined((GPU,), A))
    assert [c.state for c in of(found, changes.HostChanged)] == [HostState.JOINING, HostState.READY]
    assert bench.machine.views.devices[ON_A].free_bytes == 1000


def test_an_operator_is_told_of_a_host_that_is_not_there() -> None:
    """Draining an unknown host is refused with the nearest name, and cordoning one that drains with what helps."""
    bench = Bench()
    with pytest.raises(InvalidFieldError, match="no host 'aa'; did you mean 'a'"):
        bench.tell(events.DrainHost(HostId("aa")))
    bench.tell(events.DrainHost(A))
    with pytest.raises(InvalidFieldError, match="host 'a' is DRAINING, not READY; resume it first"):
        bench.tell(CordonHost(A))


@pytest.mark.parametrize("away", [events.HostLost(A, "no word"), events.HostLeft(A)], ids=["lost", "forgotten"])
def test_what_is_wanted_of_a_host_that_is_away_holds_once_it_is_back(away: events.Event) -> None:
    """A lost host, and one that has not joined since the kernel was started, may be drained, cordoned and resumed."""
    orders: list[tuple[events.Event, HostState]] = [
        (events.DrainHost(A), HostState.DRAINING),
        (CordonHost(A), HostState.CORDONED),
        (events.ResumeHost(A), HostState.READY),
    ]
    for event, state in orders:
        bench = Bench()
        bench.tell(away)
        bench.tell(OrderHosts({A: HostChange.DRAIN}))
        assert not of(bench.tell(event), changes.HostChanged)
        bench.tell(events.HostFound(A))
        bench.tell(event)  # again, while it is JOINING
        bench.tell(events.HostJoined((GPU,), A))
        assert bench.machine.hosts.known[A].state is state


def test_nothing_is_wanted_of_a_host_that_was_removed() -> None:
    """One that is forgotten, too: when it joins it takes instances, and what is wanted of it is nothing."""
    bench = Bench()
    bench.tell(OrderHosts({HostId("c"): HostChange.DRAIN}))
    bench.tell(events.HostLeft(HostId("c")))
    with pytest.raises(InvalidFieldError, match="no host 'c'"):
        bench.tell(events.ResumeHost(HostId("c")))
    bench.tell(events.HostJoined((GPU,), HostId("c")))
    assert bench.machine.hosts.known[HostId("c")].state is HostState.READY


def test_minimum_instances_move_to_another_host() -> None:
    """What a model always keeps loaded is started elsewhere when its host drains."""
    bench = Bench(min_instances=1)
    bench.come_up("m-1")
    found = bench.tell(events.DrainHost(A))
    assert [c.device_id for c in of(found, commands.StartWorker)] == [ON_B]
    assert not of(found, commands.StopWorker)
    bench.tell(events.InstanceNeeds(InstanceId("m-2"), MemoryNeed(weights_bytes=300)))
    facts = InstanceFacts(max_tasks=2, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
    found = bench.tell(events.InstanceLoaded(InstanceId("m-2"), facts))
    assert [c.instance_id for c in of(found, commands.StopWorker)] == ["m-1"]


def smaller(memory_bytes: int, cores: int = 4) -> DeviceCapacity:
    return DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=memory_bytes, cores=cores)


def test_a_host_that_comes_back_without_a_device_has_it_no_more() -> None:
    """What it does not name is forgotten: loads go to what is left, and leases that wait for it are refused."""
    second = DeviceCapacity(device_id=DeviceId("gpu:1"), memory_bytes=5000, cores=4)
    gone = DeviceId("a/gpu:1")
    bench = Bench()
    bench.tell(events.HostJoined((GPU, second), A))
    spec = replace(bench.machine.views.model(MODEL).spec, name=ModelName("n"), devices=(gone, ON_A))
    bench.tell(events.CreateModel(spec))
    waits = [bench.claim(MemoryClaim(device_id=gone, memory_bytes=size), wait=True) for size in (5000, 1)]
    bench.tell(events.HostLost(A, "no word"))
    bench.tell(events.HostJoined((GPU,), A))
    assert [*bench.machine.views.devices] == [ON_A, ON_B]
    assert [bench.machine.leases.known[each].state for each in waits] == [LeaseState.EXPIRED, LeaseState.REFUSED]
    found = bench.tell(events.LoadModel(ModelName("n")))
    assert [c.device_id for c in of(found, commands.StartWorker)] == [ON_A]


def test_a_host_that_drains_does_so_again_when_it_comes_back() -> None:
    """Only an operator ends that: being lost and found is no reason to give it anything."""
    bench = Bench(devices=(ON_A,))
    bench.tell(events.DrainHost(A))
    bench.tell(events.HostLost(A, "no word"))
    bench.tell(events.HostFound(A))
    bench.submit("t1")
    assert not of(bench.tell(events.HostJoined((GPU,), A)), commands.StartWorker)
    assert bench.machine.hosts.known[A].state is HostState.DRAINING
    assert of(bench.tell(events.ResumeHost(A)), commands.StartWorker)
    bench.tell(events.HostLost(A, "no word"))
    bench.tell(events.HostJoined((GPU,), A))
    assert bench.machine.hosts.known[A].state is HostState.READY


@pytest.mark.parametrize("leaves", [events.HostLeft(A), events.HostJoined((), A)], ids=["left", "back without it"])
def test_nobody_waits_for_a_model_whose_devices_are_gone(leaves: events.Event) -> None:
    """Its tasks, leases and askers end with MODEL_LOAD_FAILED, and new ones are refused, until a device comes again."""
    bench = Bench(devices=(ON_A,))
    bench.tell(events.LoadModel(MODEL))
    bench.come_up("m-1")
    holds = bench.claim(ModelClaim(model=MODEL, sequences=1))
    for name in ("runs", "asleep"):
        bench.submit(name)
    bench.submit("leased", lease_id=holds)
    bench.tell(events.SuspendTask(TaskId("asleep"), TENANT))
    bench.tell(events.HostLost(A, "no word"))
    waits = bench.claim(ModelClaim(model=MODEL, sequences=1), wait=True)
    bench.tell(events.AskModel(MODEL))
    assert bench.states("runs", "asleep", "leased") == ["QUEUED", "SUSPENDED", "QUEUED"]
    bench.tell(leaves)
    assert bench.states("runs", "asleep", "leased") == ["FAILED", "SUSPENDED", "CANCELLED"]
    known, model = bench.machine.leases.known, bench.machine.views.model(MODEL)
    assert (known[holds].state, known[waits].state) == (LeaseState.EXPIRED, LeaseState.REFUSED)
    assert (model.asked, type(model.error)) == (False, ModelLoadError)
    later = LeaseSpec(lease_id=LeaseId("x"), tenant=TENANT, claims=(ModelClaim(model=MODEL, sequences=1),), wait=True)
    late = TaskSpec(task_id=TaskId("late"), tenant=TENANT, model=MODEL, work=object())
    for event in (
        events.SubmitTask(late),
        events.ResumeTask(TaskId("asleep"), TENANT),
        events.CreateLease(later),
        events.AskModel(MODEL),
        events.LoadModel(MODEL),
    ):
        with pytest.raises(ModelLoadError, match="'m' can be loaded nowhere: no host that is known has a/gpu:0"):
            bench.tell(event)
    bench.tell(events.HostJoined((GPU,), A))
    assert of(bench.submit("again"), commands.StartWorker)


@pytest.mark.parametrize("lost", [True, False])
def test_a_host_with_less_than_before_refuses_what_it_can_never_give(lost: bool) -> None:  # noqa: FBT001
    """A lease that waits for more than there is now ends and says so; nobody stands behind it in vain."""
    bench = Bench()
    holds = bench.claim(MemoryClaim(device_id=ON_A, memory_bytes=50), CoresClaim(device_id=ON_A, cores=4))
    large = bench.claim(MemoryClaim(device_id=ON_A, memory_bytes=1000), wait=True)
    wide = bench.claim(CoresClaim(device_id=ON_A, cores=3), wait=True)
    small = bench.claim(MemoryClaim(device_id=ON_A, memory_bytes=60), wait=True)
    if lost:
        bench.tell(events.HostLost(A, "no word"))
    bench.tell(events.HostJoined((smaller(100, cores=2),), A))
    if not lost:
        bench.tell(events.ReleaseLease(holds, TENANT))
    known = bench.machine.leases.known
    assert [known[each].state for each in (large, wide)] == [LeaseState.REFUSED] * 2
    assert "1.0 kB of a/gpu:0 are claimed, which has 100 B to give" in str(known[large].error)
    assert known[small].state is LeaseState.ACTIVE


def test_a_load_that_waits_for_more_than_there_is_fails_or_goes_elsewhere() -> None:
    """An instance in the line of a device that has become smaller goes where it fits, else its tasks end."""
    for devices, state in (((ON_A,), "FAILED"), ((ON_A, ON_B), "QUEUED")):
        bench = Bench(devices=devices)
        for device_id in devices:
            bench.claim(MemoryClaim(device_id=device_id, memory_bytes=900))
        bench.submit("t1")
        bench.tell(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=300)))
        place = bench.machine.fleet.instances[InstanceId("m-1")].device_id
        found = bench.tell(events.HostJoined((smaller(100),), host_of(place)))
        assert [c.instance_id for c in of(found, commands.StopWorker)] == ["m-1"]
        assert bench.states("t1") == [state]
        assert bench.places == ({} if len(devices) == 1 else {"m-2": ({ON_A, ON_B} - {place}).pop()})


def test_what_others_held_of_a_host_that_was_lost_is_not_counted_twice() -> None:
    """A host that comes back has to give what they leave by then: what was measured before its loss counts no more."""
    bench = Bench()
    bench.tell(events.ForeignMeasured(ON_A, 400))
    account = bench.machine.views.devices[ON_A]
    assert account.free_bytes == 600
    bench.tell(events.HostLost(A, "no word"))
    bench.tell(events.HostFound(A))
    bench.tell(events.HostJoined((replace(GPU, memory_bytes=600),), A))
    assert account.free_bytes == 600
    bench.tell(events.ForeignMeasured(ON_A, 100))
    assert account.free_bytes == 500
