"""Workers that a host has kept: which of them are instances again, what that takes, and why others are not."""

from dataclasses import replace

import pytest
from adoption_bench import FACTS, LACKED, MODEL, ON_A, A, B, Bench, ends, held, lacking, refusal, submit

from inferd.core import changes, commands, events
from inferd.core.admission import NO_HOST
from inferd.core.host import HostChange, HostState
from inferd.core.host_events import AwaitHosts, CordonHost, HeldWorker, OrderHosts
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceState, ModelState
from inferd.core.placement_rules import PlacementRules
from inferd.core.resources import MemoryNeed
from inferd.core.task import TaskSpec
from inferd.errors import ModelLoadError, WorkerDiedError


def test_a_kept_worker_is_an_instance_without_a_load() -> None:
    """It has its name and its memory at once, before its host gives anything, and takes tasks when it has said so."""
    bench = Bench()
    (adopted,) = bench.adopt(held())
    assert (adopted.instance_id, adopted.device_id, adopted.held_id) == ("m-7", ON_A, 1)
    account = bench.machine.views.devices[ON_A]
    assert (account.instance_bytes, account.expected_bytes, account.free_bytes) == (300, 0, 0)
    bench.tell(events.SubmitTask(TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object())))
    said = bench.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    assert [each.instance_id for each in said if isinstance(each, commands.SendTask)] == ["m-7"]
    assert not [c for c in bench.join() if isinstance(c, commands.StartWorker | commands.ProceedLoad)]
    assert account.free_bytes == 700
    bench.tell(events.WorkerExited(InstanceId("m-7"), WorkerDiedError("so")), 1.0)
    assert "m-8" in bench.instances
    assert account.instance_bytes == 0


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        (held(model=ModelName("other")), "model 'other' is not known"),
        (held(differs="other files"), "other files"),
        (held(size_bytes=1001), "more than others leave"),
        (held(device_ids=()), "may not use no device"),
        (held(device_ids=(DeviceId("gpu:1"),)), "may not use a/gpu:1"),
        (held(device_ids=(DeviceId("b/gpu:0"),)), "may not use a/b/gpu:0"),
        (held(device_ids=(DeviceId("gpu:0"),) * 200), "may not use a/gpu:0, a/gpu:0, a/gpu:0 and others"),
        (held(device_ids=(DeviceId("gpu:0"),) * 2), "may not use a/gpu:0, a/gpu:0"),
    ],
)
def test_what_would_not_be_loaded_there_is_refused(worker: HeldWorker, why: str) -> None:
    """Whatever a host says: no model, no device and no memory that is not its own or its model's; nothing is held."""
    bench = Bench(max_instances=2)
    bench.adopt(held("m-1"), host_id=B)
    before = dict(bench.instances)
    assert why in refusal(bench.adopt(worker))
    assert bench.instances == before
    assert bench.machine.views.devices[ON_A].instance_bytes == 0


def test_rules_of_placement_hold_for_kept_workers() -> None:
    """A selector, one host for each instance, and as many devices as it spans."""
    selected = Bench(placement=PlacementRules(selector={"host": "b"}))
    assert "may not use a/gpu:0" in refusal(selected.adopt(held()))
    assert "on 1 devices, and its model on 2" in refusal(Bench(span=2).adopt(held()))
    apart = Bench(max_instances=3, placement=PlacementRules(apart=True))
    first, second = apart.adopt(held("m-1"), held("m-2"))
    assert isinstance(first, commands.AdoptWorker)
    assert "they are to be apart" in refusal([second])


def test_as_many_are_kept_as_may_be_and_the_busiest_first() -> None:
    """Of two where one may be the one that ran more goes on; one that comes up elsewhere makes way, a READY one not."""
    bench = Bench()
    idle, busy = held("m-1", held_id=1), held("m-2", held_id=2, tasks=3)
    adopted, refused = bench.adopt(idle, busy)
    assert (adopted.held_id, refused.instance_id) == (2, "m-1")
    assert "1 instances, which are as many as may be" in refused.why
    fresh = Bench()
    fresh.join(B)
    fresh.tell(events.LoadModel(MODEL, Tenant("t")))
    assert fresh.instances == {"m-1": "STARTING"}
    fresh.adopt(held("m-1"))
    assert fresh.instances == {"m-1": "STOPPING", "m-2": "LOADING"}
    ready = Bench()
    ready.join(B)
    ready.tell(events.LoadModel(MODEL, Tenant("t")))
    ready.tell(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=1)))
    ready.tell(events.InstanceLoaded(InstanceId("m-1"), FACTS))
    assert "as many as may be" in refusal(ready.adopt(held("m-1")))


def test_one_that_has_loaded_goes_before_one_that_loads() -> None:
    """Where only one may be; alone, one that loads goes on, holds its memory, and takes tasks once it has loaded."""
    adopted, refused = Bench().adopt(held("m-1", loading=True, tasks=9), held("m-2", held_id=2))
    assert (adopted.held_id, refused.instance_id) == (2, "m-1")
    bench = Bench()
    bench.adopt(held("m-1", loading=True))
    bench.join()
    assert bench.instances == {"m-1": "LOADING"}
    assert bench.machine.views.devices[ON_A].instance_bytes == 300
    failed = ModelLoadError("no", metadata={"cause": "no"})
    bench.tell(events.InstanceRefused(InstanceId("m-1"), failed))
    assert bench.machine.views.model(MODEL).failed_loads == 1


@pytest.mark.parametrize("name", ["m-0", "m-x", "other-3", "m", f"m-{1 << 31}", "m-" + "9" * 40, "m-²"])
def test_a_name_that_no_kernel_gives_is_not_taken(name: str) -> None:
    """The worker is adopted under the next name of its model."""
    (adopted,) = Bench().adopt(held(name))
    assert adopted.instance_id == "m-1"


def test_what_operators_want_of_a_host_holds_for_kept_workers() -> None:
    """One that drains keeps none; one that is cordoned keeps what it has, and gets no other."""
    drains = Bench()
    drains.tell(OrderHosts({A: HostChange.DRAIN}))
    assert "takes no instances" in refusal(drains.adopt(held()))
    cordoned = Bench()
    cordoned.tell(OrderHosts({A: HostChange.CORDON}))
    cordoned.adopt(held())
    cordoned.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    cordoned.join()
    assert cordoned.machine.hosts.known[A].state is HostState.CORDONED
    assert cordoned.instances == {"m-7": "READY"}
    joined = Bench()
    joined.join()
    assert "takes no instances" in refusal(joined.adopt(held()))


def test_an_adoption_that_comes_to_nothing_is_no_load_that_failed() -> None:
    """A worker that is gone before it has said anything costs its model nothing: another one is loaded at once."""
    bench = Bench()
    bench.adopt(held())
    bench.tell(events.SubmitTask(TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object())))
    bench.join()
    said = bench.tell(events.WorkerExited(InstanceId("m-7"), WorkerDiedError("it has ended meanwhile")))
    assert [each.instance_id for each in said if isinstance(each, commands.StartWorker)] == ["m-8"]
    model = bench.machine.views.model(MODEL)
    assert (model.failures, model.failed_loads, model.state) == (0, 0, ModelState.LOADING)
    assert bench.machine.tasks.known[TaskId("t")].state.name == "QUEUED"


def test_a_model_that_lacked_a_host_takes_tasks_once_that_has_kept_it() -> None:
    """A kernel that was started again knows no host of a model until one has kept it: from then on tasks are taken."""
    bench, task = Bench(), TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object())
    spec = bench.machine.views.model(MODEL).spec
    bench.machine = KernelMachine(CoreLimits())
    bench.tell(events.CreateModel(spec, kept=True, lacks="no host that is known has it"))
    with pytest.raises(ModelLoadError):
        bench.tell(events.SubmitTask(task))
    bench.adopt(held())
    bench.tell(events.SubmitTask(task))
    said = bench.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    assert [each.instance_id for each in said if isinstance(each, commands.SendTask)] == ["m-7"]


def test_new_tasks_wait_for_hosts_of_before_for_a_while() -> None:
    """Behind a start, tasks of a model that only lacks a host wait; then they end by name, but for kept ones."""
    spec = Bench().machine.views.model(MODEL).spec
    made = [TaskSpec(task_id=TaskId(name), tenant=Tenant("t"), model=MODEL, work=object()) for name in ("t", "kept")]
    lacks = f"{NO_HOST}gpu:0 now"
    bench = Bench()
    bench.machine = KernelMachine(CoreLimits())
    bench.tell(AwaitHosts(waits=True))
    bench.tell(events.CreateModel(spec, kept=True, lacks=lacks))
    for each in made:
        bench.tell(events.SubmitTask(each))
    bench.tell(events.AskModel(MODEL))
    bench.tell(events.DetachTask(TaskId("kept"), Tenant("t")))
    model, tasks = bench.machine.views.model(MODEL), bench.machine.tasks.known
    assert (model.asked, tasks[TaskId("t")].state.name) == (True, "QUEUED")
    bench.tell(AwaitHosts(waits=False))
    assert (model.asked, tasks[TaskId("kept")].state.name) == (False, "QUEUED")
    ended = tasks[TaskId("t")]
    assert ended.outcome is not None
    assert (ended.state.name, str(ended.outcome.error)) == ("FAILED", f"model 'm' cannot be loaded now: {lacks}")
    with pytest.raises(ModelLoadError):
        bench.tell(events.SubmitTask(replace(made[0], task_id=TaskId("late"))))
    bench.tell(AwaitHosts(waits=True))
    bench.tell(events.CreateModel(spec, kept=True, lacks="backend 'x' is not there"))
    with pytest.raises(ModelLoadError, match="backend 'x'"):
        bench.tell(events.SubmitTask(replace(made[0], task_id=TaskId("other"))))


@pytest.mark.parametrize("then", ["kept", "without", "removed"])
def test_tasks_wait_for_a_lost_host_that_alone_could_serve_them(then: str) -> None:
    """Its model lacks a file: they go on with the worker that it has kept, and end where it has not, or is removed."""
    bench = lacking(LACKED)
    bench.adopt(held())
    bench.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    bench.join()
    submit(bench, "runs", "also", "waits")
    bench.tell(events.HostLost(A, "no word"), 1.0)
    bench.tell(AwaitHosts(waits=False))
    assert ends(bench) == dict.fromkeys(("runs", "also", "waits"), "QUEUED")
    with pytest.raises(ModelLoadError, match="its file"):
        submit(bench, "late")
    match then:
        case "kept":
            (adopted,) = bench.adopt(held())
            said = bench.tell(events.InstanceLoaded(adopted.instance_id, FACTS))
            bench.join()
            assert len([each for each in said if isinstance(each, commands.SendTask)]) == 2
            assert {*ends(bench).values()} == {"RUNNING", "QUEUED"}
            return
        case "without":
            bench.join()
        case _:
            bench.tell(events.HostLeft(A))
    assert {*ends(bench).values()} == {f"model 'm' cannot be loaded now: {LACKED}"}


@pytest.mark.parametrize("lost", [True, False])
def test_tasks_do_not_wait_for_an_adopted_worker_that_cannot_be_loaded_again(*, lost: bool) -> None:
    """Its model lacks a file, so behind it nothing serves: who waits ends as who comes is refused, but kept ones."""
    bench = lacking(LACKED)
    bench.adopt(held())
    bench.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    bench.join()
    submit(bench, "runs", "also", "waits", "kept")
    bench.tell(events.DetachTask(TaskId("kept"), Tenant("t")))
    gone = WorkerDiedError("so")
    bench.tell(events.HostLeft(A) if lost else events.WorkerExited(InstanceId("m-7"), gone), 1.0)
    failed = f"model 'm' cannot be loaded now: {LACKED}"
    assert ends(bench) == {"runs": failed, "also": failed, "waits": failed, "kept": "QUEUED"}
    with pytest.raises(ModelLoadError, match="its file"):
        submit(bench, "late")
    spec = bench.machine.views.model(MODEL).spec
    bench.join()
    said = bench.tell(events.CreateModel(spec, kept=True), 100.0)
    assert [each.spec.name for each in said if isinstance(each, commands.StartWorker)] == [MODEL]


def test_tasks_that_waited_for_a_host_end_when_more_is_lacking() -> None:
    """The host has joined within the time that it is waited for, and the model's file is not there."""
    bench = lacking(f"{NO_HOST}gpu:0 now")
    submit(bench, "t")
    bench.tell(events.HostFound(A))
    bench.join()
    assert ends(bench) == {"t": "QUEUED"}
    bench.tell(events.CreateModel(bench.machine.views.model(MODEL).spec, kept=True, lacks=LACKED))
    assert ends(bench) == {"t": f"model 'm' cannot be loaded now: {LACKED}"}


@pytest.mark.parametrize("then", ["loads", "lacks", "leaves"])
def test_a_host_that_joins_in_the_last_moment_is_in_time(then: str) -> None:
    """What a model lacks is seen anew a moment later: until then its tasks wait, and others are taken."""
    bench, lacks = lacking(f"{NO_HOST}gpu:0 now"), f"{NO_HOST}gpu:0 now"
    submit(bench, "t")
    bench.tell(events.HostFound(A))
    bench.join()
    bench.tell(AwaitHosts(waits=False))
    submit(bench, "late")
    assert ends(bench) == {"t": "QUEUED", "late": "QUEUED"}
    spec = bench.machine.views.model(MODEL).spec
    match then:
        case "loads":
            said = bench.tell(events.CreateModel(spec, kept=True))
            assert any(isinstance(each, commands.StartWorker) for each in said)
            assert ends(bench) == {"t": "QUEUED", "late": "QUEUED"}
            return
        case "lacks":
            lacks = LACKED
            bench.tell(events.CreateModel(spec, kept=True, lacks=lacks))
        case _:
            bench.tell(events.HostLeft(A))
    assert ends(bench) == dict.fromkeys(("t", "late"), f"model 'm' cannot be loaded now: {lacks}")


def test_a_host_that_is_lost_before_it_is_ready_takes_its_workers_along() -> None:
    """What was adopted is gone with it, and nothing of its memory is held any more."""
    bench = Bench()
    bench.adopt(held())
    said = bench.tell(events.HostLost(A, "no word"))
    assert [each.instance_id for each in said if isinstance(each, commands.AbandonWorker)] == ["m-7"]
    assert not bench.instances
    assert bench.machine.views.devices[ON_A].instance_bytes == 0
    assert any(isinstance(each, changes.InstanceForgotten) for each in said)


def test_a_cordoned_host_keeps_what_it_adopts_meanwhile() -> None:
    """An order that comes between is as of any instance that has begun to load."""
    bench = Bench()
    bench.adopt(held())
    bench.join()
    bench.tell(CordonHost(A))
    assert bench.machine.fleet.instances[InstanceId("m-7")].state is InstanceState.LOADING


@pytest.mark.parametrize("ready", [True, False])
def test_a_host_that_is_to_drain_while_it_joins_drains_what_it_adopted(*, ready: bool) -> None:
    """The order comes behind the adoption and before the host is READY: the instance goes, and takes no task."""
    bench = Bench()
    bench.adopt(held())
    if ready:
        bench.tell(events.InstanceLoaded(InstanceId("m-7"), FACTS))
    bench.tell(events.DrainHost(A))
    said = bench.join()
    assert bench.machine.hosts.known[A].state is HostState.DRAINING
    assert [each.instance_id for each in said if isinstance(each, commands.StopWorker)] == ["m-7"]
    said = bench.tell(events.SubmitTask(TaskSpec(task_id=TaskId("t"), tenant=Tenant("t"), model=MODEL, work=object())))
    assert not [each for each in said if isinstance(each, commands.SendTask)]
