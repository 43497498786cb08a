"""The fair queue under random load: its bounds, checked from what comes out of it alone."""

import random
from collections import Counter, defaultdict, deque

import pytest

from inferd.core.ids import TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.queue import FairQueue, QueuePolicy

WEIGHTS = {Tenant("a"): 1.0, Tenant("b"): 3.0, Tenant("c"): 0.5}
MOST_TOKENS = 100.0


@pytest.mark.parametrize("seed", range(20))
def test_backlogged_tenants_get_tokens_by_their_weights(seed: int) -> None:
    """The served tokens of two tenants that always wait, over their weights, differ by what the places can hold.

    However wrong the expected costs are, in whichever classes the tenants wait, and whoever else comes and goes.
    """
    rng = random.Random(seed)
    places = rng.randint(1, 8)
    q = FairQueue(QueuePolicy(aging_s=1.0, weights=WEIGHTS, tenant_running=1000))
    running: list[tuple[Tenant, float]] = []
    served: dict[Tenant, float] = defaultdict(float)
    expected_of: dict[TaskId, float] = {}
    count = 0
    for _ in range(3000):
        for tenant in (*WEIGHTS, Tenant(f"guest{rng.randrange(5)}")):
            while q.queued_of(tenant) < (1 if tenant not in WEIGHTS and rng.random() < 0.1 else 3):
                if tenant not in WEIGHTS and rng.random() < 0.8:
                    break
                count += 1
                task_id = TaskId(f"{tenant}:{count}")
                expected_of[task_id] = rng.uniform(1, MOST_TOKENS)
                q.push(task_id, tenant=tenant, priority=Priority.NORMAL, tokens=expected_of[task_id], now=0.0)
        if len(running) == places:
            tenant, expected = running.pop(rng.randrange(places))
            used = rng.uniform(1, MOST_TOKENS)
            served[tenant] += used
            q.settle(tenant, expected=expected, used=used)
        task_id = q.pop(0.0)
        running.append((Tenant(task_id.split(":")[0]), expected_of[task_id]))
    shares = [served[tenant] / weight for tenant, weight in WEIGHTS.items()]
    assert max(shares) - min(shares) <= 2 * (places + 1) * MOST_TOKENS / min(WEIGHTS.values())
    assert min(shares) > 3000  # of tens of thousands: the bound says something


@pytest.mark.parametrize("seed", range(20))
def test_no_class_waits_longer_than_its_aging(seed: int) -> None:
    """A class is served by the second turn after `2 * aging_s` from when it was first passed over for the highest one.

    That is one of the first two turns that pass it over. And the highest one is passed over at most twice in a row.
    """
    rng = random.Random(seed)
    aging_s, step_s = 10.0, rng.choice([0.1, 3.0, 30.0])
    q = FairQueue(QueuePolicy(aging_s=aging_s, weights={}, tenant_running=1000))
    passed: dict[Priority, float] = {}
    turns: Counter[Priority] = Counter()
    late: Counter[Priority] = Counter()
    lower = 0
    now = 0.0
    for n in range(4000):
        now += rng.expovariate(1 / step_s)
        for _ in range(rng.randint(0, 2) if n % 500 < 300 else 0):
            priority, tenant = rng.choice(list(Priority)), Tenant(rng.choice("abc"))
            q.push(TaskId(f"{n}:{len(q)}"), tenant=tenant, priority=priority, tokens=rng.uniform(1, 9), now=now)
        waiting = Counter(priority for (priority, _), number in q.queued().items() for _ in range(number))
        if not waiting:
            continue
        first = q.priority(now)
        assert first is not None
        q.pop(now)
        highest = max(waiting)
        lower = 0 if first is highest else lower + 1
        assert lower <= 2, f"{highest.name} is passed over too often"
        for priority in waiting:
            turns[priority] += 1
            if first is highest:
                passed.setdefault(priority, now)
            if priority not in (first, highest):
                assert priority in passed or turns[priority] < 2, f"{priority.name} does not age"
            late[priority] += now >= passed.get(priority, now) + 2 * aging_s
            assert priority is first or late[priority] <= 1, f"{priority.name} waits too long"
        for priority in Priority:
            if priority is first or not waiting[priority]:
                passed.pop(priority, None)
                turns[priority] = late[priority] = 0


@pytest.mark.parametrize("seed", range(20))
def test_every_task_comes_out_once_and_the_counts_agree(seed: int) -> None:
    """Whatever is pushed, taken, removed and settled: nothing is lost or doubled, limits hold, tenants are in order."""
    rng = random.Random(seed)
    limit = rng.randint(1, 4)
    q = FairQueue(QueuePolicy(aging_s=1.0, weights=WEIGHTS, tenant_running=limit))
    lines: dict[tuple[Priority, Tenant], deque[TaskId]] = defaultdict(deque)
    running: Counter[Tenant] = Counter()
    for n in range(3000):
        tenant, priority, roll = Tenant(rng.choice("abcd")), rng.choice(list(Priority)), rng.random()
        line = lines[priority, tenant]
        if roll < 0.5:
            front = rng.random() < 0.2
            q.push(TaskId(str(n)), tenant=tenant, priority=priority, tokens=rng.uniform(0, 5), now=n, front=front)
            line.appendleft(TaskId(str(n))) if front else line.append(TaskId(str(n)))
        elif roll < 0.6 and line:
            gone = rng.choice(line)
            line.remove(gone)
            q.remove(gone)
        elif roll < 0.8 and running[tenant]:
            running[tenant] -= 1
            q.settle(tenant, expected=2.0, used=rng.uniform(0, 5))
        elif any(line and running[who] < limit for (_, who), line in lines.items()):
            head = q.peek(n)
            assert head is not None
            (taken,) = [key for key, line in lines.items() if line and line[0] == head]
            assert running[taken[1]] < limit
            assert q.priority(n) is taken[0]
            assert q.pop(n) == lines[taken].popleft()
            running[taken[1]] += 1
        else:
            assert q.peek(n) is None
        assert len(q) == sum(map(len, lines.values()))
        assert q.queued() == {key: len(line) for key, line in lines.items() if line}
        assert q.running_of(tenant) == running[tenant]
        if n % 100 == 0:
            order = q.tasks()
            assert sorted(order) == sorted(task_id for line in lines.values() for task_id in line)
            assert all(0 <= q.position(task_id) < len(q) for task_id in order)
