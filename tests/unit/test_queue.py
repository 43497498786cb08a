from collections.abc import Mapping

import pytest

from inferd.core.ids import TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.queue import FairQueue, QueuePolicy

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")
LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH


def queue(
    *, aging_s: float = 10.0, weights: Mapping[Tenant, float] | None = None, tenant_running: int = 100
) -> FairQueue:
    return FairQueue(QueuePolicy(aging_s=aging_s, weights=weights or {}, tenant_running=tenant_running))


def push(
    q: FairQueue,
    name: str,
    tenant: Tenant = A,
    priority: Priority = NORMAL,
    *,
    tokens: float = 10.0,
    front: bool = False,
) -> None:
    q.push(TaskId(name), tenant=tenant, priority=priority, tokens=tokens, now=0.0, front=front)


def fill(q: FairQueue, names: str, tenant: Tenant = A, priority: Priority = NORMAL, *, tokens: float = 10.0) -> None:
    for name in names.split():
        push(q, name, tenant, priority, tokens=tokens)


def drain(q: FairQueue) -> str:
    return " ".join(q.pop(0.0) for _ in range(len(q)))


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    """Inside a tenant it is first in, first out; what is removed is not served."""
    q = queue()
    fill(q, "1 2 3 4")
    q.remove(TaskId("2"))
    assert len(q) == 3
    assert drain(q) == "1 3 4"
    assert q.peek(0.0) is None
    assert q.priority(0.0) is None
    with pytest.raises(IndexError):
        q.pop(0.0)


def test_a_task_at_the_front_goes_before_its_tenants_others() -> None:
    """`front` puts a task before the tenant's others, and before those that were put to the front earlier."""
    q = queue()
    fill(q, "1 2")
    push(q, "f", front=True)
    push(q, "g", front=True)
    push(q, "b1", B)
    assert q.position(TaskId("2")) == 4
    assert q.position(TaskId("g")) == 0
    assert drain(q) == "g b1 f 1 2"


def test_a_higher_class_goes_first() -> None:
    """Without waiting long, classes go from the highest to the lowest."""
    q = queue()
    fill(q, "l1 l2", priority=LOW)
    fill(q, "n1", priority=NORMAL)
    fill(q, "h1 h2", priority=HIGH)
    assert q.priority(0.0) is HIGH
    assert drain(q) == "h1 h2 n1 l1 l2"


def test_a_class_gets_a_turn_when_it_was_passed_over_for_long() -> None:
    """A class ages from when a higher one was served in its place, and gets one turn for each time that it aged."""
    q = queue(aging_s=10.0)
    fill(q, "n1 n2 n3", priority=NORMAL)
    fill(q, "l1 l2 l3", priority=LOW)
    fill(q, "h1 h2 h3 h4 h5 h6 h7 h8", priority=HIGH)
    assert q.priority(1000.0) is HIGH  # that nothing was served is no reason to let a lower class go first
    assert [q.pop(t) for t in (1000.0, 1009.0)] == ["h1", "h2"]
    assert q.pop(1010.0) == "n1"  # passed over since 1000
    assert [q.pop(t) for t in (1010.0, 1019.0)] == ["h3", "h4"]  # it begins to age again
    assert q.pop(1020.0) == "l1"  # two classes above it; due as long as the other, and lower
    assert q.pop(1020.0) == "n2"
    assert q.pop(1020.0) == "h5"
    assert q.pop(1029.0) == "h6"
    assert q.priority(1100.0) is NORMAL
    assert q.priority(1100.0, aging=False) is HIGH
    assert q.pop(1100.0, aging=False) == "h7"
    assert [q.pop(1100.0) for _ in range(3)] == ["n3", "l2", "h8"]


def test_a_class_ages_from_when_it_was_passed_over_for_the_highest_one() -> None:
    """A turn of a class that is due lets none age: the highest is passed over twice in a row, not a third time."""
    q = queue(aging_s=10.0)
    fill(q, "h1 h2 h3 h4", priority=HIGH)
    fill(q, "l1 l2", priority=LOW)
    assert q.pop(0.0) == "h1"
    fill(q, "n1 n2", priority=NORMAL)
    assert q.pop(12.0) == "h2"
    assert [q.pop(20.0), q.pop(30.0)] == ["l1", "n1"]  # due at 20, and at 22
    assert q.pop(60.0) == "h3"  # LOW was passed over at 30, for NORMAL, and ages from now
    assert q.priority(69.0) is HIGH
    assert [q.pop(80.0), q.pop(80.0)] == ["n2", "l2"]  # the second turn after twice the aging


def test_a_slow_service_goes_round_the_classes() -> None:
    """When each turn takes longer than the aging, no class is passed over more than twice, the highest neither."""
    q = queue(aging_s=1.0)
    for priority in Priority:
        fill(q, " ".join(f"{priority.name[0]}{n}" for n in range(10)), priority=priority)
    assert "".join(q.pop(30.0 * n)[0] for n in range(12)) == "HNL" * 4


def test_tenants_share_by_tokens_and_weights() -> None:
    """Of tenants that wait, the one with the fewest tokens for its weight goes first."""
    q = queue(weights={B: 3.0})
    fill(q, "a1 a2 a3 a4", A, tokens=30.0)
    fill(q, "b1 b2 b3 b4 b5 b6 b7 b8", B, tokens=30.0)
    assert drain(q).split()[:8] == ["a1", "b1", "b2", "b3", "a2", "b4", "b5", "b6"]


def test_an_ended_task_is_charged_what_it_cost() -> None:
    """A tenant whose tasks cost less than was expected gets the rest back, one whose tasks cost more pays for it."""
    q = queue()
    fill(q, "a1 a2 a3", A, tokens=100.0)
    fill(q, "b1 b2 b3", B, tokens=100.0)
    assert [q.pop(0.0), q.pop(0.0)] == ["a1", "b1"]
    q.settle(A, expected=100.0, used=350.0)
    q.settle(B, expected=100.0, used=10.0)
    assert drain(q) == "b2 b3 a2 a3"


def test_idle_time_gives_no_credit() -> None:
    """A tenant that comes back starts with the least that the waiting ones have used, not with what it had."""
    q = queue()
    fill(q, " ".join(f"a{n}" for n in range(20)), A)
    push(q, "b0", B)
    for _ in range(12):
        q.settle(A if q.pop(0.0)[0] == "a" else B, expected=10.0, used=10.0)
    fill(q, "b1 b2 b3", B)
    assert drain(q).split()[:6] == ["a11", "b1", "a12", "b2", "a13", "b3"]


def test_a_tenant_that_used_much_is_remembered_while_it_is_idle() -> None:
    """Going idle for a moment does not make a tenant's use forgotten, as long as others wait."""
    q = queue()
    push(q, "a1", A)
    fill(q, "b1 b2 b3", B)
    assert q.pop(0.0) == "a1"
    q.settle(A, expected=10.0, used=25.0)
    push(q, "a2", A)
    assert drain(q) == "b1 b2 b3 a2"


def test_a_newcomer_goes_before_a_tenant_that_has_all_places() -> None:
    """What runs is no use yet: a newcomer starts beside those who fill the places, and so goes before them."""
    q = queue()
    fill(q, "a1 a2 a3 a4 a5", A, tokens=1000.0)
    for _ in range(3):
        q.pop(0.0)
    fill(q, "b1 b2", B)
    assert q.pop(0.0) == "b1"
    for _ in range(3):
        q.settle(A, expected=1000.0, used=10.0)
    q.settle(B, expected=10.0, used=10.0)
    assert q.pop(0.0) == "b2"


def test_tenants_start_anew_when_nothing_waits_or_runs() -> None:
    """What was used before a pause of the whole model counts no more, and takes no memory."""
    q = queue()
    push(q, "a1", A)
    q.pop(0.0)
    push(q, "b1", B)
    q.remove(TaskId("b1"))
    q.settle(A, expected=10.0, used=1e6)
    assert not q._shares
    fill(q, "a2 a3", A)
    fill(q, "b2 b3", B)
    assert drain(q) == "a2 b2 a3 b3"


def test_idle_tenants_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tenants come once, those that would be treated like new ones are not kept; the rest is bounded."""
    monkeypatch.setattr("inferd.core.queue.IDLE_TENANTS", 30)
    kept = []
    for backlog in (0.1, 1000.0):  # tokens that each task of A costs: the others use more than A, or less
        q = queue()
        fill(q, " ".join(f"a{n}" for n in range(300)), A, tokens=backlog)
        for n in range(200):
            push(q, f"t{n}", Tenant(f"t{n}"))
            for _ in range(2):
                task_id = q.pop(0.0)
                tenant, tokens = (A, backlog) if task_id[0] == "a" else (Tenant(task_id), 10.0)
                q.settle(tenant, expected=tokens, used=tokens)
        kept.append(len(q._shares))
    assert 3 <= kept[0] <= 34
    assert kept[1] <= 4


def test_a_tenant_at_its_limit_does_not_block_others() -> None:
    """A tenant with `tenant_running` running tasks is passed over until one ends; a class of such only is not open."""
    q = queue(tenant_running=1)
    fill(q, "h1 h2", A, HIGH)
    push(q, "b1", B, NORMAL)
    assert [q.pop(0.0), q.pop(0.0)] == ["h1", "b1"]
    assert q.priority(0.0) is None
    assert (q.running_of(A), q.running_of(B), q.running_of(C)) == (1, 1, 0)
    push(q, "h3", A, HIGH)
    assert q.peek(0.0) is None
    q.settle(A, expected=10.0, used=10.0)
    assert q.pop(0.0) == "h2"


def test_the_queue_is_counted_by_class_and_tenant() -> None:
    """`queued` and `queued_of` tell what waits."""
    q = queue()
    fill(q, "a1 a2", A, LOW)
    push(q, "a3", A, HIGH)
    push(q, "b1", B, LOW)
    assert q.queued() == {(LOW, A): 2, (HIGH, A): 1, (LOW, B): 1}
    assert (q.queued_of(A), q.queued_of(B), q.queued_of(C)) == (3, 1, 0)
    q.pop(0.0)
    assert q.queued() == {(LOW, A): 2, (LOW, B): 1}


def test_positions_and_the_order_of_all_tasks_agree_with_the_service() -> None:
    """`tasks` is the order in which tasks go, `position` a task's place in it."""
    q = queue(weights={B: 2.0})
    fill(q, "l1 l2", A, LOW)
    fill(q, "a1 a2 a3 a4", A, tokens=20.0)
    fill(q, "b1 b2 b3 b4 b5 b6", B, tokens=20.0)
    fill(q, "h1", B, HIGH)
    order = q.tasks()
    assert len(order) == len(set(order)) == len(q)
    assert q.position(order[0]) == 0
    assert all(abs(q.position(task_id) - place) <= 1 for place, task_id in enumerate(order))
    served = drain(q).split()
    assert all(abs(served.index(task_id) - place) <= 2 for place, task_id in enumerate(order))


def test_a_position_is_never_beyond_the_queue() -> None:
    """Gaps of removed tasks do not push a position beyond the end, and tenants beyond those looked at are counted."""
    q = queue()
    for n in range(100):
        fill(q, f"{n}a {n}b", Tenant(str(n)))
    fill(q, " ".join(f"a{n}" for n in range(20)), A)
    for n in range(1, 19):
        q.remove(TaskId(f"a{n}"))
    assert q.position(TaskId("a19")) <= len(q) - 1
    assert 90 <= q.position(TaskId("0b")) <= 110
