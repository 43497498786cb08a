"""What the core does with the tasks of a kernel before it."""

from typing import Any

import pytest

from inferd.core import changes, commands, events
from inferd.core.demand import NO_DEMAND, Demand
from inferd.core.events import SubmitTask
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.past_events import LosePast, RecallTasks, ReleaseTasks, RestorePast
from inferd.core.past_tasks import PastTask
from inferd.core.priority import Priority
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.restored import RestoredTask
from inferd.core.task import Outcome, TaskSpec, TaskState
from inferd.errors import ModelNotFoundError, RequestConflictError, StoreUnavailableError

TENANT, MODEL, FIRST = Tenant("a"), ModelName("m"), InstanceId("m-1")
DONE = Outcome(state=TaskState.SUCCEEDED)


@pytest.fixture
def machine() -> KernelMachine:
    """A kernel that was just started, with a model that is not loaded."""
    made = KernelMachine(CoreLimits(tasks=TaskLimits(retained_tasks=1, retention_s=1.0, kept_tasks=3, kept_s=60.0)))
    made.handle(events.HostJoined((DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=1000, cores=2),)), 100.0)
    spec: dict[str, Any] = {
        "name": MODEL, "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "cpu",
        "backend_reason": "", "loader": "x:Y", "devices": (DeviceId("cpu:0"),),
    }  # fmt: skip
    made.handle(events.CreateModel(ModelSpec(**spec)), 100.0)
    return made


def kept(name: str, number: int, **changed: Any) -> RestoredTask:
    """A task that waited, unless something else is said of it."""
    spec: dict[str, Any] = {"task_id": TaskId(name), "tenant": TENANT, "model": MODEL, "detached": True}
    spec |= {
        name: changed.pop(name)
        for name in ("model", "lease_id", "request_id", "fingerprint", "demand", "priority")
        if name in changed
    }
    values: dict[str, Any] = {
        "state": TaskState.QUEUED, "attempt": 0, "deaths": 0, "created": 10.0, "started": None, "finished": None,
        "expires": 1000.0, "instance_id": None, "device_id": None, "outcome": None,
    }  # fmt: skip
    return RestoredTask(spec=TaskSpec(**spec), number=number, **(values | changed))


def ran(name: str, number: int, **changed: Any) -> RestoredTask:
    return kept(
        name, number, state=TaskState.RUNNING, attempt=1, started=20.0, instance_id=InstanceId("old"), **changed
    )


def restore(machine: KernelMachine, *tasks: RestoredTask) -> tuple[commands.Reply, ...]:
    return machine.handle(events.RestoreTasks(tasks), 100.0)


PAST_GONE = changes.PastForgotten


def ended(name: str, number: int, at: float, **changed: Any) -> RestoredTask:
    return kept(name, number, state=TaskState.SUCCEEDED, attempt=1, finished=at, outcome=DONE, **changed)


def past(name: str, number: int, *, retained: float, request_id: str = "") -> PastTask:
    """A task that had ended."""
    return PastTask(
        task_id=TaskId(name),
        tenant=TENANT,
        model=MODEL,
        number=number,
        state=TaskState.SUCCEEDED,
        retained=retained,
        request_id=request_id,
    )


def restore_past(machine: KernelMachine, *tasks: PastTask) -> None:
    machine.handle(RestorePast(tasks), 100.0)


def sent(machine: KernelMachine, *, places: int) -> list[tuple[TaskId, int]]:
    """Which tasks are sent when the model has been loaded, in their order, with their attempt."""
    machine.handle(events.InstanceNeeds(FIRST, MemoryNeed(weights_bytes=100)), 101.0)
    facts = InstanceFacts(max_tasks=places, context_tokens=64, description="", memory_bytes=1)
    said = machine.handle(events.InstanceLoaded(FIRST, facts), 101.0)
    return [(each.spec.task_id, each.attempt) for each in said if isinstance(each, commands.SendTask)]


def test_those_that_ran_go_on_before_those_that_waited(machine: KernelMachine) -> None:
    """Tasks go in the order in which they came, whatever the order in which they are read; running ones first."""
    said = restore(machine, kept("d", 4), ran("c", 3), kept("b", 2), ran("a", 1))
    assert [type(each) for each in said if isinstance(each, commands.StartWorker)] == [commands.StartWorker]
    stopped = [each for each in said if isinstance(each, changes.TaskChanged)]
    assert [(each.task_id, each.state) for each in stopped] == [("a", TaskState.QUEUED), ("c", TaskState.QUEUED)]
    assert sent(machine, places=9) == [("a", 2), ("c", 2), ("b", 1), ("d", 1)]


def test_new_tasks_come_behind(machine: KernelMachine) -> None:
    """A task that is submitted to this kernel has a higher number, and waits behind those of the one before."""
    restore(machine, kept("b", 41), kept("a", 40))
    machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId("c"), tenant=TENANT, model=MODEL)), 100.5)
    assert machine.views.task(TaskId("c"), TENANT).number == 42
    assert sent(machine, places=9) == [("a", 1), ("b", 1), ("c", 1)]


def test_a_model_that_nobody_waits_for_is_not_loaded(machine: KernelMachine) -> None:
    """Ended and suspended tasks load nothing, and a suspended one waits when it is resumed."""
    ended = kept("a", 1, state=TaskState.SUCCEEDED, attempt=1, finished=90.0, outcome=DONE)
    said = restore(machine, ended, kept("b", 2, state=TaskState.SUSPENDED, attempt=1))
    assert not [each for each in said if isinstance(each, commands.StartWorker)]
    assert machine.views.task(TaskId("b"), TENANT).state is TaskState.SUSPENDED
    machine.handle(events.ResumeTask(TaskId("b"), TENANT), 100.0)
    assert sent(machine, places=1) == [("b", 2)]


def test_ended_tasks_are_forgotten_in_the_order_of_their_ends(machine: KernelMachine) -> None:
    """Retention goes on from the end of a task, not from the start of the kernel; the bound counts them all."""
    ends = {"a": 95.0, "b": 50.0, "c": 90.0}
    restore_past(machine, *(past(name, number, retained=at) for number, (name, at) in enumerate(ends.items())))
    machine.handle(RecallTasks((ended("b", 1, 50.0), ended("gone", 9, 50.0))), 100.0)
    assert machine.views.task(TaskId("b"), TENANT).finished == 50.0
    assert machine.next_alarm() == 110.0
    for now, name, kind in ((110.0, "b", changes.TaskForgotten), (150.0, "c", PAST_GONE), (155.0, "a", PAST_GONE)):
        assert kind(TaskId(name), TENANT) in machine.handle(events.Tick(), now)
    assert not machine.views.tasks(TENANT, size=9).records


def test_the_oldest_make_room_for_those_that_end_now(machine: KernelMachine) -> None:
    """Ended tasks of the kernel before count with those of this one, and are forgotten before them."""
    restore_past(machine, *(past(name, number, retained=90.0 + number) for number, name in enumerate("abc")))
    machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId("d"), tenant=TENANT, model=MODEL, detached=True)), 100.0)
    said = machine.handle(events.CancelTask(TaskId("d"), TENANT), 100.0)
    assert [each for each in said if isinstance(each, PAST_GONE)] == [PAST_GONE(TaskId("a"), TENANT)]
    assert [task.spec.task_id for task in machine.views.tasks(TENANT, size=9).records] == ["d", "c", "b"]


def test_a_record_is_known_from_recall_to_release(machine: KernelMachine) -> None:
    """Before and after it nobody is told that there is no such task, and its request makes no other one.

    What was estimated when the kernel began stays: its place in lists, and until when it is known.
    """
    restore_past(machine, past("a", 7, retained=90.0, request_id="r"))
    again = TaskSpec(task_id=TaskId("b"), tenant=TENANT, model=MODEL, request_id="r", fingerprint=b"1")
    spec = {"request_id": "r", "fingerprint": b"1"}
    for _ in range(2):
        for ask in (lambda: machine.views.task(TaskId("a"), TENANT), lambda: machine.handle(SubmitTask(again), 100.0)):
            with pytest.raises(StoreUnavailableError):
                ask()
        assert machine.views.find_past(TaskId("a"), Tenant("other")) is None
        assert machine.views.knows_request(TENANT, "r")
        assert machine.views.model_requested(TENANT, "r") == MODEL
        assert [task.number for task in machine.views.tasks(TENANT, (TaskState.SUCCEEDED,), size=9).records] == [7]
        machine.handle(RecallTasks((ended("a", 7, 50.0, **spec),)), 100.0)
        assert machine.views.task(TaskId("a"), TENANT).retained == 90.0
        machine.handle(SubmitTask(again), 100.0)
        assert machine.views.submitted(again).spec.task_id == "a"
        machine.handle(ReleaseTasks((TaskId("a"),)), 100.0)
    machine.handle(LosePast(TaskId("a")), 100.0)
    assert not machine.views.knows_request(TENANT, "r")
    assert machine.next_alarm() is None
    machine.handle(SubmitTask(again), 100.0)
    assert machine.views.submitted(again).number == 8


def test_detached_tasks_have_a_retention_of_their_own(machine: KernelMachine) -> None:
    """They are known for as long and as many as is said of them, and so are others, whatever ended between."""
    for number in range(8):
        task_id = TaskId(f"{'kept' if number % 2 else 'watched'} {number}")
        spec = TaskSpec(task_id=task_id, tenant=TENANT, model=MODEL, detached=bool(number % 2))
        machine.handle(events.SubmitTask(spec), 100.0)
        machine.handle(events.CancelTask(task_id, TENANT), 100.0)
    assert list(machine.tasks.known) == ["kept 3", "kept 5", "watched 6", "kept 7"]
    assert machine.next_alarm() == 101.0
    machine.handle(events.Tick(), 101.0)
    assert list(machine.tasks.known) == ["kept 3", "kept 5", "kept 7"]
    assert machine.next_alarm() == 160.0
    machine.handle(events.Tick(), 160.0)
    assert not machine.tasks.known


def test_a_request_is_known_to_have_made_its_task(machine: KernelMachine) -> None:
    """The same request finds the task of the kernel before; other contents are a conflict."""
    restore(machine, kept("a", 1, request_id="r", fingerprint=b"1"))
    again: dict[str, Any] = {"tenant": TENANT, "model": MODEL, "request_id": "r"}
    same = TaskSpec(task_id=TaskId("b"), fingerprint=b"1", **again)
    machine.handle(events.SubmitTask(same), 100.0)
    assert machine.views.submitted(same).spec.task_id == "a"
    with pytest.raises(RequestConflictError):
        machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId("c"), fingerprint=b"2", **again)), 100.0)


def test_what_has_expired_meanwhile_ends_at_once(machine: KernelMachine) -> None:
    """A deadline that has passed without a kernel ends a task before it is sent anywhere."""
    restore(machine, kept("a", 1, expires=99.0), kept("b", 2))
    machine.handle(events.Tick(), 100.0)
    assert machine.views.task(TaskId("a"), TENANT).state is TaskState.EXPIRED
    assert sent(machine, places=9) == [("b", 1)]


@pytest.mark.parametrize(
    ("lacking", "state"),
    [({"model": ModelName("gone")}, TaskState.FAILED), ({"lease_id": LeaseId("gone")}, TaskState.CANCELLED)],
)
def test_what_a_task_lacks_ends_it(machine: KernelMachine, lacking: dict[str, Any], state: TaskState) -> None:
    """Without its model a task FAILED, without its lease it is CANCELLED, and neither counts as living any more."""
    restore(machine, ran("a", 1, **lacking), kept("b", 2))
    task = machine.views.task(TaskId("a"), TENANT)
    assert task.state is state
    assert task.outcome is not None
    assert isinstance(task.outcome.error, ModelNotFoundError) == (state is TaskState.FAILED)
    assert sent(machine, places=9) == [("b", 1)]
    assert machine.tasks.census.all.living == 1


def test_restored_tasks_count(machine: KernelMachine) -> None:
    """They take their places of the bounds, and give them back as others do."""
    demand = Demand(memory_bytes=70)
    restore(machine, kept("a", 1, demand=demand), kept("b", 2, demand=demand))
    tally = machine.tasks.census.of_tenant(TENANT)
    assert (tally.living, tally.detached, tally.queued, tally.input_bytes) == (2, 2, 2, 140)
    machine.handle(events.CancelTask(TaskId("a"), TENANT), 100.0)
    assert (tally.living, tally.detached, tally.queued, tally.input_bytes) == (1, 1, 1, 70)
    assert machine.views.task(TaskId("a"), TENANT).spec.demand is NO_DEMAND


def test_a_task_that_cannot_be_kept_leaves_nothing(machine: KernelMachine) -> None:
    """A withdrawn task is ended and forgotten at once, and its request makes a new one."""
    again: dict[str, Any] = {"tenant": TENANT, "model": MODEL, "request_id": "r", "detached": True}
    machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId("a"), fingerprint=b"1", **again)), 100.0)
    said = machine.handle(events.WithdrawTask(TaskId("a"), TENANT), 100.0)
    assert said[-1] == changes.TaskForgotten(TaskId("a"), TENANT)
    machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId("b"), fingerprint=b"2", **again)), 100.0)
    assert sent(machine, places=9) == [("b", 1)]
    assert machine.tasks.census.all.living == 1


def test_a_class_goes_on_aging(machine: KernelMachine) -> None:
    """A task of a lower class that had waited for long has its turn with the first ones, as if no kernel had ended."""
    high = [kept(f"high {number}", number, priority=Priority.HIGH, created=90.0) for number in range(3)]
    restore(machine, *high, kept("old", 7, priority=Priority.LOW, created=10.0))
    assert [name for name, _ in sent(machine, places=2)] == ["old", "high 0"]


def test_a_class_that_came_last_waits_its_time(machine: KernelMachine) -> None:
    """A task of a lower class that had waited for a moment goes behind those of the higher one."""
    high = [kept(f"high {number}", number, priority=Priority.HIGH, created=90.0) for number in range(3)]
    restore(machine, *high, kept("new", 7, priority=Priority.LOW, created=99.0))
    assert [name for name, _ in sent(machine, places=2)] == ["high 0", "high 1"]
