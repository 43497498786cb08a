"""How tasks find their places: classes, tenants, stops and further instances. The words are those of test_leases."""

from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.priority import Priority
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, Sampling, TaskSpec, TaskState, TextInput, TokenInput, Usage
from inferd.errors import QueueFullError, TaskStateError, WorkerDiedError

CPU = DeviceId("cpu:0")
MODEL = ModelName("m")
TENANT = Tenant("a")


class Bench:
    """A machine with one device of 1000 bytes and one model, and short words for what happens to it."""

    def __init__(self, *, places: int = 1, instances: int = 1, **limits: Any) -> None:
        policy = QueuePolicy(aging_s=10.0, weights={Tenant("heavy"): 3.0}, tenant_running=limits.pop("running", 100))
        self.machine = KernelMachine(
            CoreLimits(tasks=TaskLimits(policy=policy, **limits), elastic=ElasticTimes(grow_s=2.0, shrink_s=60.0))
        )
        self.machine.handle(events.DevicesFound((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)
        spec = ModelSpec(
            name=MODEL, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="",
            loader="x:Y", device="cpu:0", max_instances=instances,
        )  # fmt: skip
        self.places = places
        self.machine.handle(events.CreateModel(spec), 0.0)
        self.machine.handle(events.LoadModel(MODEL), 0.0)
        self.come_up("m-1")

    def come_up(self, name: str, now: float = 0.0) -> tuple[commands.Command, ...]:
        self.machine.handle(events.InstanceNeeds(InstanceId(name), MemoryNeed(weights_bytes=300)), now)
        facts = InstanceFacts(max_tasks=self.places, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        return self.machine.handle(events.InstanceLoaded(InstanceId(name), facts), now)

    def submit(
        self, name: str, *, now: float = 0.0, priority: Priority = Priority.NORMAL, **changes: Any
    ) -> tuple[commands.Command, ...]:
        fields: dict[str, Any] = {
            "task_id": TaskId(name), "tenant": TENANT, "model": MODEL, "input": TextInput("hi"),
            "sampling": Sampling(max_tokens=10),
        }  # fmt: skip
        return self.machine.handle(events.SubmitTask(TaskSpec(priority=priority, **(fields | changes))), now)

    def end(self, name: str, now: float = 0.0, tokens: int = 10) -> tuple[commands.Command, ...]:
        task = self.machine.tasks.known[TaskId(name)]
        outcome = Outcome(state=TaskState.SUCCEEDED, usage=Usage(output_tokens=tokens))
        return self.machine.handle(events.TaskEnded(TaskId(name), task.attempt, outcome), now)

    def suspend(self, name: str, now: float = 0.0) -> tuple[commands.Command, ...]:
        return self.machine.handle(events.SuspendTask(TaskId(name), TENANT), now)

    def resume(self, name: str, now: float = 0.0) -> tuple[commands.Command, ...]:
        return self.machine.handle(events.ResumeTask(TaskId(name), TENANT), now)

    def states(self, *names: str) -> list[str]:
        return [self.machine.tasks.known[TaskId(name)].state.name for name in names]


def words(found: tuple[commands.Command, ...]) -> list[str]:
    """Commands in words, those to workers and of queues only."""
    told = (commands.SendTask, commands.PauseTask, commands.ContinueTask, commands.DropTask, commands.StartWorker)
    return [f"{type(c).__name__} {_subject(c)}" for c in found if isinstance(c, told)]


def _subject(command: Any) -> str:
    task_id = command.spec.task_id if isinstance(command, commands.SendTask) else getattr(command, "task_id", "")
    return str(task_id or command.instance_id)


def test_a_task_of_class_high_takes_the_place_of_a_lower_one_which_goes_on_later() -> None:
    """The youngest of the lowest class is stopped in the same beat; it goes on before others of its class."""
    bench = Bench(places=2)
    bench.submit("normal")
    bench.submit("low", priority=Priority.LOW)
    bench.submit("waiting", priority=Priority.LOW)
    assert words(bench.submit("high", priority=Priority.HIGH)) == ["PauseTask low", "SendTask high"]
    assert bench.states("low", "high", "normal") == ["QUEUED", "RUNNING", "RUNNING"]
    assert words(bench.end("high")) == ["ContinueTask low"]
    assert words(bench.end("low")) == ["SendTask waiting"]


def test_tasks_of_the_same_class_take_no_place_of_each_other() -> None:
    """A second HIGH task waits, and so does a NORMAL one behind a LOW one that runs."""
    bench = Bench()
    bench.submit("high", priority=Priority.HIGH)
    assert words(bench.submit("second", priority=Priority.HIGH)) == []
    bench = Bench()
    bench.submit("low", priority=Priority.LOW)
    assert words(bench.submit("normal")) == []


def test_without_preemption_a_high_task_is_the_next_one() -> None:
    """`scheduler.preempt = false` leaves running tasks alone."""
    bench = Bench(preempt=False)
    bench.submit("low", priority=Priority.LOW)
    bench.submit("next", priority=Priority.LOW)
    assert words(bench.submit("high", priority=Priority.HIGH)) == []
    assert words(bench.end("low")) == ["SendTask high"]


def test_low_tasks_progress_under_a_flood_of_high_ones() -> None:
    """After the aging time a LOW task gets a place, and keeps it: no HIGH task takes it again."""
    bench = Bench()
    bench.submit("h0", priority=Priority.HIGH)
    bench.submit("low", priority=Priority.LOW)
    ran: list[str] = []
    for number in range(1, 30):
        now = float(number)
        bench.submit(f"h{number}", priority=Priority.HIGH, now=now)
        running = next(iter(bench.machine.fleet.instances[InstanceId("m-1")].running))
        ran.append(running)
        bench.end(running, now=now)
    assert ran.count("low") == 1
    assert ran.index("low") <= 25


def test_a_client_stops_a_task_and_lets_it_go_on() -> None:
    """Its place goes to the next one; it goes on where it was, when a place is free, under the same attempt."""
    bench = Bench()
    bench.submit("t")
    bench.submit("next")
    assert words(bench.suspend("t")) == ["PauseTask t", "SendTask next"]
    assert words(bench.suspend("t")) == []
    assert bench.states("t") == ["SUSPENDED"]
    assert words(bench.resume("t")) == []
    assert bench.states("t") == ["QUEUED"]
    assert words(bench.end("next")) == ["ContinueTask t"]
    assert bench.machine.tasks.known[TaskId("t")].attempt == 1
    bench.end("t")
    with pytest.raises(TaskStateError, match="SUCCEEDED"):
        bench.suspend("t")


def test_a_waiting_task_is_suspended_too_and_its_deadline_goes_on() -> None:
    """It is not dispatched meanwhile, and expires like any other."""
    bench = Bench()
    bench.submit("runs")
    bench.submit("t", deadline=5.0)
    bench.suspend("t")
    assert words(bench.end("runs")) == []
    bench.machine.handle(events.Tick(), 5.0)
    assert bench.states("t") == ["EXPIRED"]


def test_the_last_word_of_a_task_that_is_being_stopped_counts() -> None:
    """A task that ended while the order to stop was under way has ended; nothing of it stays behind."""
    bench = Bench()
    bench.submit("t")
    bench.suspend("t")
    bench.end("t")
    assert bench.states("t") == ["SUCCEEDED"]
    instance = bench.machine.fleet.instances[InstanceId("m-1")]
    assert (dict(instance.running), dict(instance.paused)) == ({}, {})
    assert instance.idle


def test_stopped_tasks_end_with_their_worker() -> None:
    """A worker that dies takes the tasks that were stopped on it, with its error, once each."""
    bench = Bench()
    bench.submit("t")
    bench.suspend("t")
    found = bench.machine.handle(events.WorkerExited(InstanceId("m-1"), WorkerDiedError("gone")), 1.0)
    assert [c.task.spec.task_id for c in found if isinstance(c, commands.TellFinished)] == ["t"]
    assert bench.states("t") == ["FAILED"]


def test_a_tenant_beyond_its_share_leaves_the_last_place_to_others() -> None:
    """While two tenants are about, the one that fills the places stops before the last; alone it takes them all."""
    bench = Bench(places=8)
    for number in range(8):
        bench.submit(f"a{number}")
    assert bench.states("a7") == ["RUNNING"]
    for number in range(8):
        bench.end(f"a{number}", now=1.0)
    bench.submit("b0", tenant=Tenant("b"), now=1.0)
    bench.end("b0", now=1.0)
    for number in range(10, 18):
        bench.submit(f"a{number}", now=1.0)
    assert bench.states("a16", "a17") == ["RUNNING", "QUEUED"]
    assert words(bench.submit("b1", tenant=Tenant("b"), now=1.0)) == ["SendTask b1"]
    bench.submit("later", now=100.0)
    bench.end("b1", now=100.0)
    assert bench.states("a17") == ["RUNNING"]


def test_an_instance_is_told_what_a_task_is_expected_to_cost_and_its_weight() -> None:
    """The tokens of prompt and output, and the weight of the tenant: by them the instance orders prompts."""
    bench = Bench(places=8)
    prompt = TokenInput(tuple(range(20)))
    for tenant, weight in (("a", 1.0), ("heavy", 3.0)):
        found = bench.submit(tenant, tenant=Tenant(tenant), input=prompt)
        (sent,) = (command for command in found if isinstance(command, commands.SendTask))
        assert (sent.expected_tokens, sent.weight) == (30.0, weight)


def test_tenants_share_by_weight_in_tokens() -> None:
    """Two backlogged tenants with weights 1 and 3, one with prompts ten times as long, are served tokens 1 to 3."""
    bench = Bench(queued_tasks=10_000, tenant_queued=10_000, model_queued=10_000)
    long, short = TokenInput(tuple(range(100))), TokenInput(tuple(range(10)))
    for number in range(2000):
        bench.submit(f"l{number}", tenant=Tenant("light"), input=long)
        bench.submit(f"h{number}", tenant=Tenant("heavy"), input=short)
    served = {"light": 0, "heavy": 0}
    for _ in range(1000):
        name = next(iter(bench.machine.fleet.instances[InstanceId("m-1")].running))
        prompt = 100 if name.startswith("l") else 10
        served["light" if name.startswith("l") else "heavy"] += prompt + 10
        task = bench.machine.tasks.known[name]
        usage = Usage(prompt_tokens=prompt, output_tokens=10)
        bench.machine.handle(events.TaskEnded(name, task.attempt, Outcome(state=TaskState.SUCCEEDED, usage=usage)), 0.0)
    assert served["heavy"] / served["light"] == pytest.approx(3.0, rel=0.1)


def test_bounds_of_tenant_and_model_are_refused_by_name() -> None:
    """Each refusal names the bound and both numbers, and says when to try again."""
    bench = Bench(tenant_queued=1, model_queued=2)
    bench.submit("runs")
    bench.submit("w1")
    with pytest.raises(
        QueueFullError, match=r"tenant 'a' has 1 waiting tasks and scheduler.tenant_queued is 1"
    ) as full:
        bench.submit("w2")
    assert full.value.retry_after_s
    bench.submit("other", tenant=Tenant("b"))
    with pytest.raises(QueueFullError, match=r"scheduler.model_queued is 2"):
        bench.submit("third", tenant=Tenant("c"))


def test_a_tenant_at_its_bound_of_running_tasks_blocks_nobody() -> None:
    """Its tasks wait, those of others pass them."""
    bench = Bench(places=3, running=1)
    bench.submit("a1")
    bench.submit("a2")
    assert words(bench.submit("b1", tenant=Tenant("b"))) == ["SendTask b1"]
    assert words(bench.end("a1")) == ["SendTask a2"]


def test_a_waiting_task_is_told_its_place_and_an_estimate_once_one_was_measured() -> None:
    """The estimate is the position and the mean time of a task over the places."""
    bench = Bench()
    bench.submit("t1", now=0.0)
    first = [c for c in bench.submit("t2", now=0.0) if isinstance(c, commands.TellQueued)]
    assert [(c.position, c.eta_s) for c in first] == [(0, None)]
    bench.end("t1", now=4.0)
    third = [c for c in bench.submit("t3", now=4.0) if isinstance(c, commands.TellQueued)]
    assert [(c.position, c.eta_s) for c in third] == [(0, 4.0)]


def test_a_model_grows_under_pressure_and_shrinks_when_idle() -> None:
    """After `grow_s` of waiting one more instance starts, shares the load, and stops after `shrink_s` without work."""
    bench = Bench(instances=2)
    bench.submit("t1")
    bench.submit("t2")
    assert words(bench.machine.handle(events.Tick(), 1.9)) == []
    assert words(bench.machine.handle(events.Tick(), 2.0)) == ["StartWorker m-2"]
    assert words(bench.come_up("m-2", 2.5)) == ["SendTask t2"]
    bench.end("t1", 3.0)
    bench.end("t2", 3.0)
    found = bench.machine.handle(events.Tick(), 63.0)
    assert len([c for c in found if isinstance(c, commands.StopWorker)]) == 1
    found = bench.machine.handle(events.Tick(), 200.0)
    assert not [c for c in found if isinstance(c, commands.StopWorker)], "the last one stays until its room is needed"


def test_growth_evicts_nobody() -> None:
    """Without free memory for a second instance the model stays as it is."""
    bench = Bench(instances=2)
    bench.machine.handle(events.ForeignMeasured(CPU, 600), 0.0)
    bench.submit("t1")
    bench.submit("t2")
    assert words(bench.machine.handle(events.Tick(), 2.0)) == []
    bench.machine.handle(events.ForeignMeasured(CPU, 0), 3.0)
    assert words(bench.machine.handle(events.Tick(), 4.0)) == ["StartWorker m-2"]


def test_prompts_with_the_same_beginning_go_to_the_same_instance() -> None:
    """Of two instances with room the one that computed the prefix before is taken, unless it is much fuller."""
    bench = Bench(places=8, instances=2)
    for number in range(9):
        bench.submit(f"warm{number}")
    bench.machine.handle(events.Tick(), 2.0)
    bench.come_up("m-2", 2.0)
    for number in range(9):
        bench.end(f"warm{number}", 3.0)
    chat = TextInput("the same system prompt " * 100)
    bench.submit("first", input=chat, now=4.0)
    home = bench.machine.tasks.known[TaskId("first")].instance_id
    bench.submit("second", input=chat, now=4.0)
    assert bench.machine.tasks.known[TaskId("second")].instance_id == home
    bench.submit("third", input=TextInput("another"), now=4.0)
    assert bench.machine.tasks.known[TaskId("third")].instance_id != home
