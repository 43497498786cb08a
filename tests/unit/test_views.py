"""What is read of the core: pages that cost their size, whatever else there is."""

import random
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pytest

from inferd.core import events
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.index import Index, Page
from inferd.core.lease import Lease, LeaseSpec, LeaseState, MemoryClaim
from inferd.core.leases import LeaseLimits
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, Model, ModelSpec
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.roll import BLOCK, Roll
from inferd.core.task import Task, TaskSpec, TaskState

MINE, OTHER = Tenant("mine"), Tenant("other")
MODEL = ModelName("m")
CPU = DeviceId("cpu:0")
MANY = 3 * BLOCK
PAGE = 10
MOST_LOOKS = 200  # at records for a page of ten: its own, and those by whose keys its place is found


class Looked:
    """A field of a record, which notes each record that is looked at."""

    def __init__(self, field: Any, looked_at: set[int]) -> None:
        self._field = field
        self._looked_at = looked_at

    def __get__(self, record: Any, owner: Any) -> Any:
        self._looked_at.add(id(record))
        return self._field.__get__(record, owner)

    def __set__(self, record: Any, value: Any) -> None:
        self._field.__set__(record, value)


def looks(patch: pytest.MonkeyPatch, kind: type, read: Callable[[], Any]) -> int:
    """How many records of a kind are looked at by `read`."""
    looked_at: set[int] = set()
    with patch.context() as within:
        for name in ("spec", "number", "state"):
            if name in kind.__dict__:
                within.setattr(kind, name, Looked(kind.__dict__[name], looked_at))
        read()
    return len(looked_at)


def model_spec(name: str) -> ModelSpec:
    return ModelSpec(
        name=ModelName(name),
        source="/m",
        path="/m",
        format="gguf",
        size_bytes=1,
        backend="cpu",
        backend_reason="",
        loader="x:Y",
        devices=(CPU,),
    )


def task_spec(number: int, tenant: Tenant) -> TaskSpec:
    return TaskSpec(task_id=TaskId(f"t{number}"), tenant=tenant, model=MODEL, work=object())


@pytest.fixture(scope="module")
def machine() -> KernelMachine:
    """Thousands of tasks and leases of two tenants, a few of which run; thousands of models."""
    policy = QueuePolicy(aging_s=60.0, weights={}, tenant_running=4 * MANY)
    most = 4 * MANY
    tasks = TaskLimits(queued_tasks=most, tasks=2 * most, tenant_queued=most, model_queued=most, policy=policy)
    made = KernelMachine(CoreLimits(tasks=tasks, leases=LeaseLimits(leases=most), models=most))
    made.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=10 * MANY, cores=1),)), 0.0)
    made.handle(events.CreateModel(model_spec(MODEL)), 0.0)
    made.handle(events.LoadModel(MODEL), 0.0)
    made.handle(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=1)), 0.0)
    facts = InstanceFacts(max_tasks=4, context_tokens=64, description="", memory_bytes=1)
    made.handle(events.InstanceLoaded(InstanceId("m-1"), facts), 0.0)
    claims = (MemoryClaim(device_id=CPU, memory_bytes=1),)
    for n in range(2 * MANY):
        tenant = OTHER if n % 2 else MINE
        made.handle(events.SubmitTask(task_spec(n, tenant)), 0.0)
        made.handle(events.CreateLease(LeaseSpec(lease_id=LeaseId(f"l{n}"), tenant=tenant, claims=claims)), 0.0)
        made.handle(events.CreateModel(model_spec(f"n{n:06d}")), 0.0)
    return made


def test_a_page_looks_at_its_own_records(machine: KernelMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of tasks, leases or models looks at as many records as it has, and at few others to find its place."""
    views = machine.views
    pages: dict[type, list[Callable[[], Page[Any]]]] = {
        Task: [
            lambda: views.tasks(MINE, size=PAGE),
            lambda: views.tasks(MINE, after=2 * MANY // 3, size=PAGE),
            lambda: views.tasks(MINE, (TaskState.QUEUED,), after=2 * MANY // 3, size=PAGE),
        ],
        Lease: [
            lambda: views.leases(MINE, size=PAGE),
            lambda: views.leases(MINE, (LeaseState.ACTIVE,), after=MANY, size=PAGE),
        ],
        Model: [lambda: views.models(size=PAGE), lambda: views.models(after="n002000", size=PAGE)],
    }
    for kind, reads in pages.items():
        for read in reads:
            assert len(read().records) == PAGE
            assert looks(monkeypatch, kind, read) < MOST_LOOKS


def test_rare_states_are_found_at_once(machine: KernelMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few tasks that run, oldest of thousands, are listed without a look at those that wait."""
    running = (TaskState.RUNNING,)
    page = machine.views.tasks(MINE, running, size=PAGE)
    assert {task.state for task in page.records} == {TaskState.RUNNING}
    assert not page.more
    assert looks(monkeypatch, Task, lambda: machine.views.tasks(MINE, running, size=PAGE)) <= 4
    assert looks(monkeypatch, Task, lambda: machine.views.tasks(Tenant("nobody"), size=PAGE)) == 0


def test_pages_join_though_tasks_move(machine: KernelMachine) -> None:
    """Pages of tasks, newest first, join to the whole, though some change their state and new ones come meanwhile."""
    views = machine.views
    told: list[int] = []
    after, more = None, True
    while more:
        page = views.tasks(MINE, after=after, size=999)
        told += [task.number for task in page.records]
        after, more = page.records[-1].number, page.more
        machine.handle(events.CancelTask(TaskId(f"t{2 * len(told) - 2}"), MINE), 0.0)
        machine.handle(events.SubmitTask(task_spec(100_000 + len(told), MINE)), 0.0)
    assert told == [*range(2 * MANY - 1, 0, -2)]
    cancelled = views.tasks(MINE, (TaskState.CANCELLED,), size=PAGE).records
    assert cancelled
    assert cancelled == [task for task in machine.tasks.known.values() if task.state is TaskState.CANCELLED][::-1]


class Thing:
    """A record."""

    def __init__(self, number: int, tenant: str) -> None:
        self.number = number
        self.state = TaskState.QUEUED
        self.spec = task_spec(number, Tenant(tenant))


def test_an_index_is_what_a_search_would_find() -> None:
    """Whatever is made, moved and forgotten in whatever order, each page is what a search of all records gives."""
    rng = random.Random(7)
    index: Index[Any] = Index()
    living: list[Thing] = []
    for number in range(1, 4 * BLOCK):
        living.append(Thing(number, rng.choice("ab")))
        index.add(living[-1])
        for thing in rng.sample(living, min(2, len(living))):
            before, thing.state = thing.state, rng.choice([*TaskState])
            index.move(thing, before)
        if rng.random() < 0.4:
            index.remove(living.pop(rng.randrange(len(living))))
        if number % 50 == 0:
            tenant, after = Tenant(rng.choice("ab")), rng.choice([None, rng.randrange(number + 2)])
            states = rng.choice([(), (TaskState.QUEUED,), (TaskState.RUNNING, TaskState.FAILED)])
            for newest_first in (False, True):
                page = index.page(tenant, states, after=after, size=30, newest_first=newest_first)
                found = [t for t in living if t.spec.tenant == tenant and (not states or t.state in states)]
                if newest_first:
                    found = [t for t in found if after is None or t.number < after][::-1]
                else:
                    found = [t for t in found if after is None or t.number > after]
                assert page == Page(found[:30], len(found) > 30)
    for thing in living:
        index.remove(thing)
    assert not index.page(Tenant("a"), (), after=None, size=9, newest_first=True).records
    assert not index._tenants  # what is kept of a tenant goes with its last record


def test_a_roll_in_any_order() -> None:
    """Records that come and go in any order are read in the order of their keys, from any key on, either way."""
    rng = random.Random(3)
    roll: Roll[str, Any] = Roll(attrgetter("name"))
    things = [type("Named", (), {"name": f"{n:05d}"})() for n in rng.sample(range(10_000), 3 * BLOCK)]
    for thing in things:
        roll.add(thing)
    for thing in things[: 2 * BLOCK]:
        roll.remove(thing)
    left = sorted(thing.name for thing in things[2 * BLOCK :])
    for key in (None, "", "00000", left[0], left[100], left[-1], "05000", "99999"):
        assert [t.name for t in roll.above(key)] == [name for name in left if key is None or name > key]
        assert [t.name for t in roll.below(key)] == [name for name in left[::-1] if key is None or name < key]
    for thing in things[2 * BLOCK :]:
        roll.remove(thing)
    assert not roll
    assert not [*roll.above(None), *roll.below(None)]
