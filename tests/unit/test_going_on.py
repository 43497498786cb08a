"""Tasks that go on: at another instance, after a death of their worker, alone in their batch, or never again."""

import pytest
from task_bench import MODEL, Bench, sent, words

from inferd.core import changes, events
from inferd.core.demand import Demand
from inferd.core.ids import InstanceId, TaskId, Tenant
from inferd.errors import InvalidFieldError, ModelLoadError, PoisonError


def test_the_last_word_of_an_attempt_that_was_stopped_comes_too_late() -> None:
    """A task that ended while it was being stopped goes on later and ends then: nobody has heard of the first end."""
    bench = Bench()
    bench.submit("t")
    bench.suspend("t")
    bench.end("t")
    assert bench.states("t") == ["SUSPENDED"]
    assert bench.instance().idle
    bench.resume("t")
    bench.end("t")
    assert bench.states("t") == ["SUCCEEDED"]


def test_a_suspended_task_goes_on_at_the_instance_that_is_free() -> None:
    """It hangs on no instance: another one takes it, and the one that it ran on may be evicted meanwhile."""
    bench = Bench(instances=2)
    bench.submit("t")
    bench.submit("other")
    bench.machine.handle(events.Tick(), 2.0)
    bench.come_up("m-2", 2.0)
    assert bench.states("t", "other") == ["RUNNING", "RUNNING"]
    bench.suspend("t", 2.0)
    assert bench.instance("m-1").idle
    bench.machine.handle(events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-1")), 2.0)
    bench.end("other", 3.0)
    (again,) = sent(bench.resume("t", 3.0))
    assert (again.instance_id, again.attempt) == ("m-2", 2)


def test_tasks_of_a_dead_worker_go_on_before_their_like() -> None:
    """They wait in the order in which they ran, before the others, for a worker that is started at once."""
    bench = Bench(places=2)
    for name in ("a", "b", "c"):
        bench.submit(name)
    assert words(bench.die()) == ["StartWorker m-2"]
    assert bench.states("a", "b", "c") == ["QUEUED"] * 3
    assert words(bench.come_up("m-2")) == ["SendTask a", "SendTask b"]


def test_a_task_that_has_begun_outlives_deaths_of_workers_that_load() -> None:
    """It waits for the next try, with backoff, and goes on there; one that has not begun ends with the first death."""
    bench = Bench()
    bench.submit("begun")
    bench.submit("new")
    assert words(bench.die()) == ["StartWorker m-2"]
    assert words(bench.die("m-2", 1.0)) == []
    assert bench.states("begun", "new") == ["QUEUED", "FAILED"]
    assert (at := bench.machine.next_alarm()) is not None
    assert at > 1.0
    assert words(bench.machine.handle(events.Tick(), at)) == ["StartWorker m-3"]
    assert [(c.spec.task_id, c.attempt) for c in sent(bench.come_up("m-3", at))] == [("begun", 2)]
    assert bench.machine.views.model(MODEL).failed_loads == 0


def test_a_task_that_has_begun_does_not_wait_for_ever_for_a_load() -> None:
    """It ends with the third death in a row that comes before the model is loaded, or when a load is refused."""
    for refused in (False, True):
        bench = Bench()
        bench.submit("begun")
        bench.die()
        for n in (2, 3):
            bench.die(f"m-{n}", 10.0 * n)
            assert bench.states("begun") == ["QUEUED"]
            bench.machine.handle(events.Tick(), 10.0 * n + 9.0)
        if refused:
            bench.machine.handle(events.InstanceRefused(InstanceId("m-4"), ModelLoadError("truncated")), 40.0)
        else:
            bench.die("m-4", 40.0)
        assert bench.states("begun") == ["FAILED"]


def test_a_task_that_was_present_at_two_deaths_runs_alone_and_is_cleared_when_it_passes() -> None:
    """One at a time on an instance; the others go on beside it in the kernel's eyes, and it in theirs."""
    bench = Bench(places=3)
    for name in ("a", "b"):
        bench.submit(name)
    bench.die()
    bench.come_up("m-2")
    bench.submit("late")
    bench.die("m-2", 1.0)
    bench.machine.handle(events.Tick(), 2.0)
    found = bench.come_up("m-3", 2.0)
    assert [(str(c.spec.task_id), c.alone) for c in sent(found)] == [("a", True), ("late", False)]
    (turn,) = sent(bench.passed("a", 3.0))
    assert (turn.spec.task_id, turn.alone) == ("b", True)
    bench.passed("b", 4.0)
    bench.die("m-3", 5.0)
    assert bench.states("a", "b", "late") == ["QUEUED"] * 3
    assert [bench.machine.tasks.known[TaskId(name)].deaths for name in ("a", "b", "late")] == [1, 1, 2]


def test_a_task_that_its_worker_dies_of_alone_is_poison() -> None:
    """It fails at the third death, the others go on and are not blamed; one like it is refused for a while."""
    bench = Bench(places=2)
    bench.submit("bad", demand=Demand(contents=b"x"))
    bench.submit("good")
    for number, now in ((1, 0.0), (2, 10.0)):
        bench.die(f"m-{number}", now)
        bench.machine.handle(events.Tick(), now + 5.0)
        bench.come_up(f"m-{number + 1}", now + 5.0)
    assert bench.states("bad", "good") == ["RUNNING", "QUEUED"]
    bench.machine.handle(events.TaskAlone(TaskId("bad"), 3), 20.0)
    found = bench.die("m-3", 20.0)
    (end,) = (c.end for c in found if isinstance(c, changes.TaskChanged) and c.end is not None)
    assert end.outcome.error is not None
    assert (end.outcome.error.reason, end.outcome.error.metadata["deaths"]) == ("POISON", "3")
    assert bench.states("bad", "good") == ["FAILED", "QUEUED"]
    assert bench.machine.tasks.known[TaskId("good")].deaths == 2
    with pytest.raises(PoisonError, match="3 workers died"):
        bench.submit("again", demand=Demand(contents=b"x"), now=21.0)
    bench.submit("another tenant's", demand=Demand(contents=b"x"), tenant=Tenant("b"), now=21.0)
    bench.submit("later", demand=Demand(contents=b"x"), now=700.0)


def test_a_death_before_the_turn_of_a_suspect_is_nobody_s() -> None:
    """A worker that dies before a suspect ran alone may have died of any of its tasks, where it had others."""
    bench = Bench(places=2)
    bench.submit("a")
    bench.submit("b")
    for number, now in ((1, 0.0), (2, 10.0)):
        bench.die(f"m-{number}", now)
        bench.machine.handle(events.Tick(), now + 5.0)
        bench.come_up(f"m-{number + 1}", now + 5.0)
    bench.submit("c", now=19.0)
    assert bench.states("a", "b", "c") == ["RUNNING", "QUEUED", "RUNNING"]
    bench.die("m-3", 20.0)
    assert bench.states("a", "c") == ["QUEUED"] * 2
    assert [bench.machine.tasks.known[TaskId(name)].deaths for name in ("a", "b", "c")] == [3, 2, 1]


def test_a_suspect_that_is_all_that_its_worker_has_is_what_that_died_of() -> None:
    """A worker may die before the first step, of what makes tokens of a text: such a task ends with the third death."""
    bench = Bench(places=2)
    bench.submit("bad")
    for number, now in ((1, 0.0), (2, 10.0)):
        bench.die(f"m-{number}", now)
        assert bench.states("bad") == ["QUEUED"]
        bench.machine.handle(events.Tick(), now + 5.0)
        bench.come_up(f"m-{number + 1}", now + 5.0)
    found = bench.die("m-3", 20.0)
    (end,) = (c.end for c in found if isinstance(c, changes.TaskChanged) and c.end is not None)
    assert end.outcome.error is not None
    assert (end.outcome.error.reason, end.outcome.error.metadata["deaths"]) == ("POISON", "3")


def test_an_instance_that_is_emptied_loses_no_task() -> None:
    """Its tasks go on at another one, or wait for one that is started."""
    bench = Bench(places=2, instances=2)
    for name in ("a", "b", "c"):
        bench.submit(name)
    bench.machine.handle(events.Tick(), 2.0)
    bench.come_up("m-2", 2.0)
    drain = events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-1"))
    found = bench.machine.handle(drain, 3.0)
    assert words(found) == ["DropTask b", "DropTask a", "SendTask a"]
    assert bench.states("a", "b", "c") == ["RUNNING", "QUEUED", "RUNNING"]
    with pytest.raises(InvalidFieldError, match=r"m-7.*it has m-2"):
        bench.machine.handle(events.UnloadModel(MODEL, force=False, instance_id=InstanceId("m-7")), 3.0)
