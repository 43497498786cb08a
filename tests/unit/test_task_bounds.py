"""How many tasks may wait, be suspended and be detached, and what their inputs may take. The words of test_dispatch."""

from typing import Any

import pytest
from task_bench import MODEL, Bench

from inferd.core import events
from inferd.core.demand import NO_DEMAND, Demand
from inferd.core.headroom import MOST_TENANTS, Headroom
from inferd.core.ids import TaskId, Tenant
from inferd.core.priority import Priority
from inferd.errors import LimitExceededError, QueueFullError


def fill(bench: Bench, tenant: str, **changes: Any) -> int:
    """Submit tasks of a tenant until one is refused; how many were not."""
    for number in range(10_000):
        try:
            bench.submit(f"{tenant}{number}{changes.get('priority', '')}", tenant=Tenant(tenant), **changes)
        except (QueueFullError, LimitExceededError):
            return number
    raise AssertionError("no bound")


def test_one_tenant_leaves_room_for_others() -> None:
    """Alone it comes to four fifths of the queue, each that comes next to four fifths of what is left."""
    bench = Bench(queued_tasks=1000)
    bench.submit("runs")
    assert [fill(bench, name) for name in "abc"] == [800, 160, 32]


def test_a_refusal_says_how_much_a_tenant_has_and_how_much_is_free() -> None:
    """It is QUEUE_FULL, with the bound, both numbers, and when to try again."""
    bench = Bench(queued_tasks=10)
    bench.submit("runs")
    assert fill(bench, "a") == 8
    with pytest.raises(QueueFullError, match=r"tenant 'a' has 8 waiting tasks, .* 4 times the 2 places") as caught:
        bench.submit("more")
    assert caught.value.metadata == {"bound": "scheduler.tenant_share", "queued": "8", "free": "2"}
    assert caught.value.retry_after_s is not None


def test_class_high_has_room_of_its_own() -> None:
    """When the queue is full of others, so many of class HIGH still find room, of a tenant that has much, too."""
    bench = Bench(queued_tasks=100, queued_high=20, tenant_share=1000.0)
    bench.submit("runs", priority=Priority.HIGH)
    assert fill(bench, "a") == 100
    assert fill(bench, "b", priority=Priority.HIGH) == 20
    shared = Bench(queued_tasks=100, queued_high=20)
    shared.submit("runs", priority=Priority.HIGH)
    assert fill(shared, "a") == 80
    assert fill(shared, "a", priority=Priority.HIGH) == 16


def test_suspended_tasks_have_a_bound_of_their_own() -> None:
    """They take nothing of the queue, too many are refused by name, and one that is resumed makes room for another."""
    bench = Bench(queued_tasks=5, suspended_tasks=5)
    bench.submit("runs")
    for number in range(4):
        bench.submit(f"s{number}")
        bench.suspend(f"s{number}")
    assert fill(bench, "a") == 4
    with pytest.raises(LimitExceededError, match=r"limits.suspended_tasks") as caught:
        bench.suspend("a0")
    assert caught.value.metadata == {"bound": "scheduler.tenant_share", "value": "4", "free": "1"}
    assert bench.states("a0") == ["QUEUED"]
    bench.suspend("s0")
    bench.resume("s0")
    bench.suspend("a0")
    other = {"task_id": TaskId("b"), "tenant": Tenant("b")}
    bench.submit("b", **other)
    bench.machine.handle(events.SuspendTask(TaskId("b"), Tenant("b")), 0.0)
    with pytest.raises(LimitExceededError, match=r"5 tasks are suspended and limits.suspended_tasks is 5"):
        bench.suspend("a1")


def test_tasks_that_have_not_ended_are_bounded() -> None:
    """Running, waiting and suspended ones together; a tenant has its share of them, and one that ended makes room."""
    bench = Bench(places=6, tasks=20)
    for number in range(8):
        bench.submit(f"r{number}")
    bench.suspend("r7")
    assert fill(bench, "a") == 8
    with pytest.raises(QueueFullError, match=r"'a' has 16 tasks .* not ended, .* 4 times the 4 .* of 20") as caught:
        bench.submit("more")
    assert caught.value.metadata == {"bound": "scheduler.tenant_share", "value": "16", "free": "4"}
    assert [fill(bench, name) for name in "bcdef"] == [4, 0, 0, 0, 0]
    bench.end("r0")
    bench.submit("more", tenant=Tenant("c"))
    alone = Bench(places=3, tasks=3, tenant_share=1000.0)
    assert fill(alone, "a") == 3
    with pytest.raises(QueueFullError, match=r"3 tasks have not ended and limits.tasks is 3") as caught:
        alone.submit("more")
    assert caught.value.metadata == {"bound": "limits.tasks", "value": "3", "limit": "3"}
    assert caught.value.retry_after_s is not None


def test_tenants_that_sent_lately_are_bounded() -> None:
    """However many tenants send a task in a minute, so many are told apart as their bound says."""
    headroom = Headroom(1 / 16)
    for number in range(3 * MOST_TENANTS):
        headroom.see(Tenant(f"t{number}"), now=1.0)
    assert not headroom.allows(free=1, places=MOST_TENANTS, running=1)  # its share of the places is one
    assert headroom.allows(free=1, places=2 * MOST_TENANTS, running=1)  # and of twice as many two


def test_detached_tasks_are_bounded_and_expire() -> None:
    """One too many is refused by name; one without a deadline expires by default, one with a deadline then."""
    bench = Bench(detached_tasks=5, detached_s=60.0)
    bench.submit("runs")
    assert fill(bench, "a", detached=True, deadline=9.0) == 4
    bench.machine.handle(events.Tick(), 9.0)
    assert bench.states("a0") == ["EXPIRED"]
    bench.submit("d", detached=True, now=10.0)
    assert bench.machine.tasks.known[TaskId("d")].expires == 70.0
    assert bench.machine.next_alarm() == 70.0
    bench.machine.handle(events.Tick(), 70.0)
    assert bench.states("d", "runs") == ["EXPIRED", "RUNNING"]


def test_a_task_that_is_detached_later_is_bounded_too() -> None:
    """Detaching is refused when too many are, counts once however often it is asked for, and sets the expiry."""
    bench = Bench(detached_tasks=1, detached_s=60.0)
    for name in ("t", "u"):
        bench.submit(name)
    for now in (1.0, 2.0):
        bench.machine.handle(events.DetachTask(TaskId("t"), Tenant("a")), now)
    assert bench.machine.tasks.known[TaskId("t")].expires == 61.0
    with pytest.raises(LimitExceededError, match=r"1 tasks are detached and limits.detached_tasks is 1"):
        bench.machine.handle(events.DetachTask(TaskId("u"), Tenant("a")), 3.0)
    bench.end("t", now=4.0)
    bench.machine.handle(events.DetachTask(TaskId("u"), Tenant("a")), 5.0)
    bench.machine.handle(events.DetachTask(TaskId("t"), Tenant("a")), 5.0)
    assert bench.machine.tasks.census.all.detached == 1


def test_a_task_that_is_detached_behind_its_end_is_known_as_one_that_was_before() -> None:
    """It is retained with the detached ones, and counts as none that lives."""
    bench = Bench(retained_tasks=1, kept_tasks=2)
    known = bench.machine.tasks.known
    for name, left in (("a", {"a"}), ("b", {"a", "b"}), ("c", {"b", "c"})):
        bench.submit(name)
        bench.end(name)
        for _ in range(2):
            bench.machine.handle(events.DetachTask(TaskId(name), Tenant("a")), 1.0)
        assert set(known) == left
    assert bench.machine.tasks.census.all.detached == 0
    for name in ("d", "e"):
        bench.submit(name)
        bench.end(name)
    assert set(known) == {"b", "c", "e"}


def test_nobodys_ended_task_is_forgotten_for_one_of_who_has_more() -> None:
    """Beyond the bound the tenant that has most ended tasks loses its oldest; one alone may have all of them."""
    bench = Bench(retained_tasks=4)
    for name in ("a1", "a2", "a3", "a4", "a5", "b1", "c1", "a6", "b2", "b3"):
        bench.submit(name, tenant=Tenant(name[0]))
        bench.end(name)
        if name == "a5":
            assert set(bench.machine.tasks.known) == {"a2", "a3", "a4", "a5"}
    assert set(bench.machine.tasks.known) == {"a6", "c1", "b2", "b3"}


def test_inputs_are_bounded_in_bytes() -> None:
    """All inputs of living tasks together stay under the bound, of one tenant under its share; ended ones count not."""
    bench = Bench(input_bytes=100_000)
    big = Demand(memory_bytes=9_000)
    bench.submit("runs", demand=big)
    assert fill(bench, "a", demand=big) == 8
    with pytest.raises(QueueFullError, match=r"limits.input_bytes") as caught:
        bench.submit("more", demand=big)
    assert caught.value.metadata["bound"] == "scheduler.tenant_share"
    with pytest.raises(QueueFullError, match=r"limits.input_bytes is 100000") as caught:
        bench.submit("huge", demand=Demand(memory_bytes=100_001), tenant=Tenant("b"))
    assert int(caught.value.metadata["value"]) > 100_000
    assert caught.value.metadata["limit"] == "100000"
    bench.end("runs")
    bench.submit("more", demand=big)


@pytest.mark.parametrize("how", ["ended", "cancelled", "expired"])
def test_an_ended_task_keeps_neither_work_nor_demand(how: str) -> None:
    """What was given is dropped with the task's end, and is counted no more; what is shown of a task is kept."""
    bench = Bench()
    bench.submit("t", work="x" * 6000, demand=Demand(memory_bytes=6000), deadline=5.0, labels={"a": "b"})
    assert bench.machine.tasks.census.all.input_bytes == 6000
    match how:
        case "ended":
            bench.end("t")
        case "cancelled":
            bench.machine.handle(events.CancelTask(TaskId("t"), Tenant("a")), 1.0)
        case _:
            bench.machine.handle(events.Tick(), 5.0)
    spec = bench.machine.tasks.known[TaskId("t")].spec
    assert (spec.work, spec.demand) == (None, NO_DEMAND)
    assert (spec.labels, spec.model) == ({"a": "b"}, MODEL)
    assert bench.machine.tasks.census.all.input_bytes == 0
