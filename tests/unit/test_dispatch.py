"""How tasks find their places: classes, tenants, stops and further instances. The words are those of test_leases."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from task_bench import CPU, MODEL, Bench, words

from inferd.core import commands, events
from inferd.core.demand import Demand
from inferd.core.ids import InstanceId, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import Outcome, TaskState, Usage
from inferd.errors import QueueFullError, TaskStateError


def test_a_task_of_class_high_takes_the_place_of_a_lower_one_which_goes_on_later() -> None:
    """The youngest of the lowest class is stopped in the same beat; it goes on before others of its class."""
    bench = Bench(places=2)
    bench.submit("normal")
    bench.submit("low", priority=Priority.LOW)
    bench.submit("waiting", priority=Priority.LOW)
    assert words(bench.submit("high", priority=Priority.HIGH)) == ["DropTask low", "SendTask high"]
    assert bench.states("low", "high", "normal") == ["QUEUED", "RUNNING", "RUNNING"]
    assert words(bench.end("high")) == ["SendTask low"]
    assert words(bench.end("low")) == ["SendTask waiting"]


def test_tasks_of_the_same_class_take_no_place_of_each_other() -> None:
    """A second HIGH task waits, and so does a second NORMAL one, however long."""
    bench = Bench()
    bench.submit("high", priority=Priority.HIGH)
    assert words(bench.submit("second", priority=Priority.HIGH)) == []
    bench = Bench()
    bench.submit("normal")
    assert words(bench.submit("another")) == []
    assert words(bench.machine.handle(events.Tick(), 100.0)) == []


def test_a_normal_task_takes_the_place_of_a_low_one_in_time() -> None:
    """One that has waited for `low_yields_s` takes the place of the youngest LOW task, with an alarm set for it."""
    bench = Bench(places=2, low_yields_s=2.0)
    for name in ("first", "second"):
        bench.submit(name, priority=Priority.LOW)
    assert words(bench.submit("normal", now=1.0)) == []
    assert bench.machine.next_alarm() == 3.0
    assert words(bench.machine.handle(events.Tick(), 2.9)) == []
    assert words(bench.machine.handle(events.Tick(), 3.0)) == ["DropTask second", "SendTask normal"]
    assert words(bench.submit("next", now=4.0)) == []
    assert words(bench.machine.handle(events.Tick(), 6.0)) == ["DropTask first", "SendTask next"]
    assert words(bench.submit("third", now=7.0)) == []
    assert words(bench.machine.handle(events.Tick(), 9.5)) == []
    assert words(bench.end("normal", now=9.6)) == ["SendTask third"]
    assert words(bench.end("next", now=9.7)) == ["SendTask first"]


def test_a_normal_task_waits_for_a_low_one_that_had_its_turn() -> None:
    """One of class LOW that was served because it had waited long keeps its place."""
    bench = Bench(low_yields_s=2.0)
    bench.submit("n0")
    bench.submit("low", priority=Priority.LOW)
    bench.submit("n1", now=1.0)
    bench.submit("n2", now=1.0)
    bench.end("n0", now=1.0)
    assert words(bench.end("n1", now=12.0)) == ["SendTask low"]
    assert words(bench.machine.handle(events.Tick(), 30.0)) == []
    assert words(bench.end("low", now=31.0)) == ["SendTask n2"]


def test_a_resumed_task_takes_the_place_of_a_low_one_in_time() -> None:
    """A stopped task that goes on waits like a new one, and has a LOW task give way like one."""
    bench = Bench(low_yields_s=2.0)
    bench.submit("t")
    bench.submit("low", priority=Priority.LOW)
    bench.suspend("t")
    assert bench.states("low") == ["RUNNING"]
    assert words(bench.resume("t", now=1.0)) == []
    assert words(bench.machine.handle(events.Tick(), 3.0)) == ["DropTask low", "SendTask t"]


def test_a_due_class_keeps_no_high_task_from_the_place_of_one_of_its_own() -> None:
    """While class LOW is due and waits for a place, a HIGH task still finds that of a LOW one that runs."""
    bench = Bench(places=2)
    bench.submit("h0", priority=Priority.HIGH)
    for name in ("l0", "l1"):
        bench.submit(name, priority=Priority.LOW)
    bench.submit("h1", priority=Priority.HIGH, now=1.0)
    bench.submit("h2", priority=Priority.HIGH, now=1.0)
    bench.end("h0", now=2.0)
    assert bench.states("l0", "l1", "h1", "h2") == ["QUEUED", "QUEUED", "RUNNING", "RUNNING"]
    bench.submit("h3", priority=Priority.HIGH, now=2.0)
    bench.end("h1", now=13.0)  # the turn of class LOW
    running = [name for name in ("l0", "l1", "h3") if bench.states(name) == ["RUNNING"]]
    assert len(running) == 1
    assert running != ["h3"]


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
    """Its place goes to the next one; it goes on where there is a place, as another attempt."""
    bench = Bench()
    bench.submit("t")
    bench.submit("next")
    assert words(bench.suspend("t")) == ["DropTask t", "SendTask next"]
    assert words(bench.suspend("t")) == []
    assert bench.states("t") == ["SUSPENDED"]
    assert words(bench.resume("t")) == []
    assert bench.states("t") == ["QUEUED"]
    assert words(bench.end("next")) == ["SendTask t"]
    assert bench.machine.tasks.known[TaskId("t")].attempt == 2
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
    demand = Demand(prompt_tokens=20, most_output=10)
    for tenant, weight in (("a", 1.0), ("heavy", 3.0)):
        found = bench.submit(tenant, tenant=Tenant(tenant), demand=demand)
        (sent,) = (command for command in found if isinstance(command, commands.SendTask))
        assert (sent.expected_tokens, sent.weight) == (30.0, weight)


def test_tenants_share_by_weight_in_tokens() -> None:
    """Two backlogged tenants with weights 1 and 3, one with prompts ten times as long, are served tokens 1 to 3."""
    bench = Bench(queued_tasks=10_000, tenant_queued=10_000, model_queued=10_000)
    long, short = Demand(prompt_tokens=100, most_output=10), Demand(prompt_tokens=10, most_output=10)
    for number in range(2000):
        bench.submit(f"l{number}", tenant=Tenant("light"), demand=long)
        bench.submit(f"h{number}", tenant=Tenant("heavy"), demand=short)
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


@pytest.mark.parametrize(("own", "bound"), [(2, "setting 'queued_tasks' is 2"), (9, "scheduler.model_queued is 3")])
def test_a_model_bounds_its_own_queue(own: int, bound: str) -> None:
    """A model's setting is the bound of those that wait for it, where it is below that of the kernel."""
    bench = Bench(model_queued=3)
    bench.machine.fleet.models[MODEL].serving.spec = replace(bench.machine.fleet.models[MODEL].spec, queued_tasks=own)
    for number in range(1 + min(own, 3)):
        bench.submit(f"t{number}")
    with pytest.raises(QueueFullError, match=f"model 'm' has {min(own, 3)} waiting tasks and {bound}"):
        bench.submit("beyond")


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
    chat = Demand(affinity=b"the same system prompt")
    bench.submit("first", demand=chat, now=4.0)
    home = bench.machine.tasks.known[TaskId("first")].instance_id
    bench.submit("second", demand=chat, now=4.0)
    assert bench.machine.tasks.known[TaskId("second")].instance_id == home
    bench.submit("third", demand=Demand(affinity=b"another"), now=4.0)
    assert bench.machine.tasks.known[TaskId("third")].instance_id != home


def sent_of(found: Iterable[object]) -> list[commands.SendTask]:
    return [each for each in found if isinstance(each, commands.SendTask)]


def test_what_needs_its_instance_goes_there_or_waits() -> None:
    """A task that needs what another left goes to its instance however full, waits for it, and not once it is gone."""
    bench = Bench(places=4, instances=2)
    step = Demand(affinity=b"a sequence", sticky=True)
    bench.submit("first", demand=step)  # while there is one instance only
    home = bench.machine.tasks.known[TaskId("first")].instance_id
    for number in range(4):
        bench.submit(f"warm{number}")
    bench.machine.handle(events.Tick(), 2.0)
    bench.come_up("m-2", 2.0)
    bench.end("first", 3.0)
    bench.submit("second", demand=step, now=3.0)
    assert bench.machine.tasks.known[TaskId("second")].instance_id == home
    bench.submit("third", demand=step, now=4.0)
    assert bench.states("third") == ["QUEUED"]
    bench.end("second", 5.0)
    assert bench.machine.tasks.known[TaskId("third")].instance_id == home
    for number in range(4):
        bench.end(f"warm{number}", 5.5)
    died = bench.die("m-1", 6.0)
    assert [sent.moved for sent in sent_of(died) if sent.spec.task_id == "third"] == [True]  # m-2 may have an old state
    fourth = bench.submit("fourth", demand=step, now=7.0)
    assert bench.machine.tasks.known[TaskId("fourth")].instance_id == "m-2"
    assert [sent.moved for sent in sent_of(fourth)] == [False]
