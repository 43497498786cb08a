"""Who waits for memory that others use: models drain, and small claims pass large ones that they do not delay."""

from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import Claim, CoresClaim, Lease, LeaseSpec, LeaseState, MemoryClaim, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, InstanceState, ModelSpec
from inferd.core.priority import Priority
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState
from inferd.errors import LeaseUnavailableError

CPU = DeviceId("cpu:0")
TENANT = Tenant("a")
SIZES = {"a": 600, "b": 600, "c": 200, "d": 100}  # of a device of 1000 bytes


class Bench:
    """A machine with one device of 1000 bytes and 4 cores, and four models."""

    def __init__(self) -> None:
        self.machine = KernelMachine(CoreLimits(elastic=ElasticTimes(drain_s=5.0)))
        self.tell(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)
        for name in SIZES:
            spec = ModelSpec(
                name=ModelName(name), source=f"/{name}", path=f"/{name}", format="gguf", size_bytes=1, backend="cpu",
                backend_reason="", loader="x:Y", devices=(CPU,),
            )  # fmt: skip
            self.tell(events.CreateModel(spec), 0.0)

    def tell(self, event: events.Event, now: float) -> list[str]:
        """What the machine asks of workers, in words; what it starts is loaded as far as it may."""
        words = []
        for command in self.machine.handle(event, now):
            match command:
                case commands.StartWorker():
                    words += [f"start {command.instance_id}", *self._measure(command.instance_id, now)]
                case commands.ProceedLoad():
                    words += [f"load {command.instance_id}", *self._load(command.instance_id, now)]
                case commands.StopWorker():
                    words.append(f"stop {command.instance_id}")
                case commands.SendTask():
                    words.append(f"send {command.spec.task_id} to {command.instance_id}")
                case commands.DropTask():
                    words.append(f"drop {command.task_id}")
                case _:
                    pass
        return words

    def _measure(self, instance_id: InstanceId, now: float) -> list[str]:
        need = MemoryNeed(weights_bytes=SIZES[instance_id[0]])
        return self.tell(events.InstanceNeeds(instance_id, need), now)

    def _load(self, instance_id: InstanceId, now: float) -> list[str]:
        facts = InstanceFacts(max_tasks=4, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        return self.tell(events.InstanceLoaded(instance_id, facts), now)

    def submit(self, name: str, now: float, **more: Any) -> list[str]:
        """Submit a task of the model that its name begins with."""
        spec = TaskSpec(task_id=TaskId(name), tenant=TENANT, model=ModelName(name[0]), work=object(), **more)
        return self.tell(events.SubmitTask(spec), now)

    def end(self, name: str, now: float) -> list[str]:
        attempt = self.machine.tasks.known[TaskId(name)].attempt
        return self.tell(events.TaskEnded(TaskId(name), attempt, Outcome(state=TaskState.SUCCEEDED)), now)

    def exit(self, name: str, now: float) -> list[str]:
        return self.tell(events.WorkerExited(InstanceId(name), LeaseUnavailableError("asked for")), now)

    def tick(self, now: float) -> list[str]:
        return self.tell(events.Tick(), now)

    def claim(self, name: str, *claims: Claim, now: float, wait: bool = True, **more: Any) -> Lease:
        spec = LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=claims, wait=wait, ttl_s=600.0, **more)
        self.tell(events.CreateLease(spec), now)
        return self.machine.leases.known[LeaseId(name)]

    def state(self, name: str) -> InstanceState:
        return self.machine.fleet.instances[InstanceId(name)].state


def memory(size_bytes: int) -> MemoryClaim:
    return MemoryClaim(device_id=CPU, memory_bytes=size_bytes)


def test_overlapping_traffic_does_not_keep_another_model_waiting() -> None:
    """Five seconds after a task for another model came, the busy one takes no more, ends what it has, and gives way."""
    bench = Bench()
    assert bench.submit("a1", 0.0) == ["start a-1", "load a-1", "send a1 to a-1"]
    assert bench.submit("b1", 1.0, priority=Priority.HIGH) == ["start b-1"]
    assert bench.submit("a2", 3.0) == ["send a2 to a-1"]
    assert bench.end("a1", 4.0) == []
    assert bench.machine.next_alarm() == 6.0
    bench.tick(6.0)
    assert bench.submit("a3", 6.5) == []
    assert bench.end("a2", 7.0) == ["stop a-1"]
    assert bench.exit("a-1", 7.5) == ["load b-1", "send b1 to b-1", "start a-2"]
    bench.end("b1", 8.0)
    assert bench.state("b-1") is InstanceState.STOPPING
    assert bench.exit("b-1", 8.5) == ["load a-2", "send a3 to a-2"]


def test_turns_of_two_models_do_not_keep_a_claim_waiting_for_both() -> None:
    """An idle instance that must go with a busy one takes no task before that one is idle; one that may stay does."""
    bench = Bench()
    for name in ("a1", "c1", "d1"):
        bench.submit(name, 0.0)
    bench.end("c1", 0.5)
    bench.end("d1", 0.5)
    large = bench.claim("large", memory(800), now=1.0)
    bench.tick(6.0)
    assert bench.submit("c2", 6.5) == bench.submit("a2", 6.5) == []
    assert bench.submit("d2", 6.5) == ["send d2 to d-1"]
    assert bench.end("a1", 7.0) == ["stop c-1", "stop a-1"]
    bench.exit("a-1", 7.5)
    bench.exit("c-1", 7.5)
    assert large.state is LeaseState.ACTIVE
    assert bench.submit("d3", 8.0) == ["send d3 to d-1"]


def test_an_idle_instance_takes_tasks_until_the_claim_has_waited_for_long() -> None:
    """For five seconds idle and busy instances alike take tasks beside a claim that needs both; then neither does."""
    bench = Bench()
    bench.submit("a1", 0.0)
    bench.submit("c1", 0.0)
    bench.end("c1", 0.5)
    bench.claim("large", memory(900), now=1.0)
    assert bench.submit("c2", 5.5) == ["send c2 to c-1"]
    bench.end("c2", 5.75)
    bench.tick(6.0)
    assert bench.submit("c3", 6.5) == bench.submit("a2", 6.5) == []
    bench.tell(events.ReleaseLease(LeaseId("large"), TENANT), 7.0)
    for task in ("c3", "a2"):
        assert bench.machine.tasks.known[TaskId(task)].state is TaskState.RUNNING


def test_an_idle_instance_that_was_ready_late_takes_tasks_until_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that became ready after the claim came is held back five seconds after that, not with the busy one before."""
    bench = Bench()
    bench.submit("a1", 0.0)
    with monkeypatch.context() as slow:
        slow.setattr(Bench, "_load", lambda *_: [])
        assert bench.submit("c1", 0.5) == ["start c-1", "load c-1"]
    bench.claim("large", memory(900), now=1.0)
    assert bench._load(InstanceId("c-1"), 3.0) == ["send c1 to c-1"]
    bench.end("c1", 3.5)
    bench.tick(6.0)
    assert bench.submit("a2", 6.5) == []
    assert bench.machine.next_alarm() == 8.0
    bench.tick(8.0)
    assert bench.submit("c2", 8.5) == []
    assert bench.end("a1", 9.0) == ["stop c-1", "stop a-1"]


def test_what_was_stopped_goes_on_where_an_instance_drains() -> None:
    """A task that was stopped for another waits like all others; where its instance drains it goes on elsewhere."""
    bench = Bench()
    for number in range(4):
        bench.submit(f"a{number}", 0.0, priority=Priority.LOW)
    assert bench.submit("ah", 0.5, priority=Priority.HIGH) == ["drop a3", "send ah to a-1"]
    bench.submit("b1", 1.0)
    bench.tick(6.0)
    assert bench.submit("ai", 6.0, priority=Priority.HIGH) == []
    assert bench.end("ah", 7.0) == []
    assert bench.end("a0", 8.0) == bench.end("a1", 8.0) == []
    assert bench.end("a2", 9.0) == ["stop a-1"]
    assert bench.exit("a-1", 9.5) == ["load b-1", "send b1 to b-1", "start a-2"]
    bench.end("b1", 10.0)
    assert bench.exit("b-1", 10.5) == ["load a-2", "send a3 to a-2", "send ai to a-2"]


def test_an_instance_that_cannot_give_way_does_not_drain() -> None:
    """Where a lease holds a part, new tasks are taken; when that is over, no more. A suspended task holds nothing."""
    bench = Bench()
    bench.submit("a1", 0.0)
    bench.submit("a2", 0.0)
    bench.tell(events.SuspendTask(TaskId("a1"), TENANT), 0.5)
    bench.claim("part", ModelClaim(model=ModelName("a")), now=0.5)
    bench.submit("b1", 1.0)
    assert bench.submit("a3", 20.0) == ["send a3 to a-1"]
    bench.tell(events.ReleaseLease(LeaseId("part"), TENANT), 21.0)
    assert bench.submit("a4", 21.0) == []


def test_who_does_not_wait_any_more_lets_a_model_go_on() -> None:
    """A draining instance takes tasks again when the one that waited for its memory is gone."""
    bench = Bench()
    bench.submit("a1", 0.0)
    bench.submit("b1", 1.0)
    bench.tick(6.0)
    assert bench.submit("a2", 6.5) == []
    assert "stop b-1" in bench.tell(events.UnloadModel(ModelName("b"), force=True), 7.0)
    assert bench.machine.tasks.known[TaskId("a2")].state is TaskState.RUNNING


def test_nobody_drains_for_what_would_not_be_enough() -> None:
    """A claim that waits for another lease leaves running models alone."""
    bench = Bench()
    bench.claim("held", memory(300), now=0.0)
    bench.submit("a1", 0.0)
    bench.claim("large", memory(800), now=1.0)
    bench.tick(30.0)
    assert bench.submit("a2", 30.0) == ["send a2 to a-1"]


def test_a_load_passes_a_claim_that_cannot_be_served_yet() -> None:
    """A small model loads beside a lease that waits for more than is free, and gives way at once when that can go."""
    bench = Bench()
    bench.claim("held", memory(600), now=0.0)
    large = bench.claim("large", memory(900), now=1.0)
    assert bench.submit("c1", 2.0) == ["start c-1", "load c-1", "send c1 to c-1"]
    assert bench.submit("c2", 3.0) == ["send c2 to c-1"]
    bench.tell(events.ReleaseLease(LeaseId("held"), TENANT), 4.0)
    assert large.state is LeaseState.PENDING
    assert bench.submit("c3", 4.0) == []
    bench.end("c1", 5.0)
    assert bench.end("c2", 5.0) == ["stop c-1"]
    bench.exit("c-1", 5.5)
    assert large.state is LeaseState.ACTIVE


def test_a_load_does_not_pass_one_that_is_about_to_go() -> None:
    """What is free is kept for the first in line when the rest of what it waits for is being given back."""
    bench = Bench()
    bench.submit("a1", 0.0)
    bench.end("a1", 0.5)
    bench.claim("large", memory(900), now=1.0)
    assert bench.state("a-1") is InstanceState.STOPPING
    assert bench.submit("c1", 2.0) == ["start c-1"]
    bench.exit("a-1", 3.0)
    assert bench.machine.leases.known[LeaseId("large")].state is LeaseState.ACTIVE
    assert bench.state("c-1") is InstanceState.WAITING


def test_a_claim_passes_those_that_wait_for_something_else() -> None:
    """Memory that stays free for those before it, too, goes to a later claim; other memory does not."""
    bench = Bench()
    bench.claim("cores", CoresClaim(device_id=CPU, cores=3), now=0.0)
    both = bench.claim("both", memory(500), CoresClaim(device_id=CPU, cores=2), now=1.0)
    assert bench.claim("small", memory(400), now=2.0).state is LeaseState.ACTIVE
    assert bench.claim("more", memory(200), now=3.0).state is LeaseState.PENDING
    with pytest.raises(LeaseUnavailableError, match="others wait for the same"):
        bench.claim("never", memory(100), now=4.0, wait=False)
    bench.tell(events.ReleaseLease(LeaseId("cores"), TENANT), 5.0)
    assert both.state is LeaseState.ACTIVE


def test_a_lease_gets_no_part_of_what_another_waits_for() -> None:
    """Whoever waits for the memory of a model is not passed by a later lease that would keep the model there."""
    bench = Bench()
    bench.submit("a1", 0.0)
    large = bench.claim("large", memory(900), now=1.0)
    part = bench.claim("part", ModelClaim(model=ModelName("a")), now=10.0)
    assert part.state is LeaseState.PENDING
    bench.end("a1", 11.0)
    bench.exit("a-1", 12.0)
    assert large.state is LeaseState.ACTIVE
    bench.tell(events.ReleaseLease(LeaseId("large"), TENANT), 13.0)
    assert part.state is LeaseState.ACTIVE
