from typing import Any

import pytest

from inferd.core import changes, commands, events
from inferd.core.backoff import Backoff
from inferd.core.demand import NO_DEMAND, Demand
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec, ModelState
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState
from inferd.errors import (
    ModelBusyError,
    ModelExistsError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    RequestConflictError,
    ShuttingDownError,
    TaskExpiredError,
    TaskNotFoundError,
    WorkerDiedError,
)

MODEL = ModelName("smollm2")
FIRST = InstanceId("smollm2-1")
TENANT = Tenant("a")
LIMITS = CoreLimits(
    tasks=TaskLimits(queued_tasks=3, retained_tasks=2, retention_s=60.0), backoff=Backoff(first_s=1.0, most_s=4.0)
)
WORK = object()
HOST = DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=1000, cores=2)


def model_spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "name": MODEL, "source": "/m.gguf", "path": "/m.gguf", "format": "gguf", "size_bytes": 1,
        "backend": "cpu", "backend_reason": "", "loader": "x:Y", "devices": ("cpu:0",),
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


def task_spec(name: str, **changes: Any) -> TaskSpec:
    fields: dict[str, Any] = {"task_id": TaskId(name), "tenant": TENANT, "model": MODEL, "work": WORK}
    return TaskSpec(**(fields | changes))


@pytest.fixture
def machine() -> KernelMachine:
    made = KernelMachine(LIMITS)
    made.handle(events.HostJoined((HOST,)), 0.0)
    made.handle(events.CreateModel(model_spec()), 0.0)
    return made


def bring_up(machine: KernelMachine, instance_id: InstanceId = FIRST, *, places: int = 1, now: float = 0.0) -> Any:
    machine.handle(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=100)), now)
    facts = InstanceFacts(max_tasks=places, context_tokens=64, description="", memory_bytes=1)
    return machine.handle(events.InstanceLoaded(instance_id, facts), now)


def kinds(said: tuple[commands.Reply, ...]) -> list[str]:
    """Commands by name, and states that tasks, instances and models have come to."""
    return [_kind(each) for each in said]


def _kind(each: commands.Reply) -> str:
    state = getattr(each, "state", None)
    noun = type(each).__name__
    return noun if state is None else f"{noun.removesuffix('Changed').lower()} {state.name}"


def test_the_first_task_loads_its_model_and_runs_when_it_is_ready(machine: KernelMachine) -> None:
    """A task of an unloaded model starts a worker, waits, and is sent as soon as the instance is loaded."""
    asked = machine.handle(events.SubmitTask(task_spec("t1")), 0.0)
    assert kinds(asked) == ["TaskAccepted", "TellQueued", "StartWorker", "instance STARTING", "model LOADING"]
    assert kinds(bring_up(machine)) == ["instance READY", "model READY", "task RUNNING", "SendTask"]
    assert machine.tasks.known[TaskId("t1")].state is TaskState.RUNNING


def test_a_task_waits_for_a_place_and_gets_it_when_one_ends(machine: KernelMachine) -> None:
    """No instance gets more tasks than it has places; the next in line follows at once when one ends or is dropped."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine, places=1)
    machine.handle(events.SubmitTask(task_spec("t1")), 0.0)
    queued = machine.handle(events.SubmitTask(task_spec("t2")), 0.0)
    assert queued == (changes.TaskAccepted(task_spec("t2"), 2, 0.0), commands.TellQueued(TaskId("t2"), 0))
    machine.handle(events.SubmitTask(task_spec("t3")), 0.0)
    done = machine.handle(events.TaskEnded(TaskId("t1"), 1, Outcome(state=TaskState.SUCCEEDED)), 1.0)
    assert kinds(done) == ["task SUCCEEDED", "task RUNNING", "SendTask"]
    assert kinds(machine.handle(events.CancelTask(TaskId("t2"), TENANT), 1.0)) == [
        "DropTask",
        "task CANCELLED",
        "task RUNNING",
        "SendTask",
    ]
    assert machine.tasks.known[TaskId("t3")].state is TaskState.RUNNING


def test_an_unknown_model_is_refused_with_the_nearest_name(machine: KernelMachine) -> None:
    """A misspelt model is MODEL_NOT_FOUND and the error suggests the right one."""
    with pytest.raises(ModelNotFoundError, match="did you mean 'smollm2'") as caught:
        machine.handle(events.SubmitTask(task_spec("t1", model=ModelName("smolm"))), 0.0)
    assert caught.value.metadata == {"suggestion": "smollm2"}
    assert not machine.tasks.known


def test_a_full_queue_refuses_with_both_numbers(machine: KernelMachine) -> None:
    """Beyond the bound a task is refused with QUEUE_FULL, the numbers and when to come back."""
    for n in range(3):
        machine.handle(events.SubmitTask(task_spec(f"t{n}")), 0.0)
    with pytest.raises(QueueFullError) as caught:
        machine.handle(events.SubmitTask(task_spec("t9")), 0.0)
    assert caught.value.metadata == {"queued": "3", "limit": "3"}
    assert caught.value.retry_after_s is not None


def test_a_failed_load_ends_the_waiting_tasks_and_backs_off(machine: KernelMachine) -> None:
    """Tasks of a model that cannot be loaded fail with its cause; until the backoff ends others are refused at once."""
    machine.handle(events.SubmitTask(task_spec("t1")), 0.0)
    machine.handle(events.InstanceNeeds(FIRST, MemoryNeed(weights_bytes=100)), 0.0)
    asked = machine.handle(events.InstanceRefused(FIRST, ModelLoadError("truncated")), 0.0)
    assert kinds(asked) == ["instance FAILED", "model FAILED", "StopWorker", "task FAILED"]
    machine.handle(events.WorkerExited(FIRST, WorkerDiedError("gone")), 0.1)
    with pytest.raises(ModelLoadError, match="truncated") as caught:
        machine.handle(events.SubmitTask(task_spec("t2")), 0.4)
    assert caught.value.retry_after_s == pytest.approx(0.6)
    assert "StartWorker" in kinds(machine.handle(events.SubmitTask(task_spec("t3")), 1.0))
    assert "StartWorker" not in kinds(machine.handle(events.LoadModel(MODEL), 1.0))


def test_a_client_that_loads_does_not_wait_for_the_backoff(machine: KernelMachine) -> None:
    """`LoadModel` tries at once, whatever failed before."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    machine.handle(events.InstanceRefused(FIRST, ModelLoadError("truncated")), 0.0)
    assert "StartWorker" in kinds(machine.handle(events.LoadModel(MODEL), 0.0))


def test_a_second_death_in_a_row_is_followed_by_the_backoff(machine: KernelMachine) -> None:
    """A worker that died is replaced at once, the next one after a wait; a task that succeeds ends the row."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine, places=1)
    machine.handle(events.SubmitTask(task_spec("t1")), 0.0)
    died = WorkerDiedError("signal 9")
    assert "StartWorker" in kinds(machine.handle(events.WorkerExited(FIRST, died), 5.0))
    bring_up(machine, InstanceId("smollm2-2"), places=1)
    assert "StartWorker" not in kinds(machine.handle(events.WorkerExited(InstanceId("smollm2-2"), died), 6.0))
    assert machine.next_alarm() == 7.0
    assert "StartWorker" in kinds(machine.handle(events.Tick(), 7.0))
    assert machine.tasks.known[TaskId("t1")].state is TaskState.QUEUED


def test_backoff_doubles_until_its_bound_and_ends_with_a_success() -> None:
    """Each failure in a row doubles the wait, up to the longest one."""
    backoff = Backoff(first_s=1.0, most_s=4.0)
    assert [backoff.wait_s(n) for n in (1, 2, 3, 4, 1000)] == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_a_deadline_ends_a_task_wherever_it_is(machine: KernelMachine) -> None:
    """Waiting or running, a task expires at its deadline; the worker forgets it and the next one gets its place."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine, places=1)
    machine.handle(events.SubmitTask(task_spec("t1", deadline=5.0)), 0.0)
    machine.handle(events.SubmitTask(task_spec("t2", deadline=5.0)), 0.0)
    machine.handle(events.SubmitTask(task_spec("t3")), 0.0)
    assert machine.next_alarm() == 5.0
    asked = machine.handle(events.Tick(), 5.0)
    assert kinds(asked) == ["DropTask", "task EXPIRED", "task EXPIRED", "task RUNNING", "SendTask"]
    assert machine.tasks.known[TaskId("t3")].state is TaskState.RUNNING
    with pytest.raises(TaskExpiredError):
        machine.handle(events.SubmitTask(task_spec("t4", deadline=4.0)), 5.0)


def test_the_last_word_of_a_worker_on_a_cancelled_task_changes_nothing(machine: KernelMachine) -> None:
    """An end that arrives after the cancel is ignored: a task ends once."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine)
    machine.handle(events.SubmitTask(task_spec("t1")), 0.0)
    machine.handle(events.CancelTask(TaskId("t1"), TENANT), 1.0)
    assert machine.handle(events.TaskEnded(TaskId("t1"), 1, Outcome(state=TaskState.SUCCEEDED)), 1.0) == ()
    assert machine.tasks.known[TaskId("t1")].state is TaskState.CANCELLED
    assert machine.handle(events.CancelTask(TaskId("t1"), TENANT), 1.0) == ()


def test_a_tenant_cannot_see_or_cancel_the_task_of_another(machine: KernelMachine) -> None:
    """Another tenant's task is not found, as if it did not exist."""
    machine.handle(events.SubmitTask(task_spec("t1")), 0.0)
    with pytest.raises(TaskNotFoundError):
        machine.handle(events.CancelTask(TaskId("t1"), Tenant("b")), 0.0)
    assert machine.tasks.known[TaskId("t1")].state is TaskState.QUEUED


def test_a_model_in_use_is_unloaded_only_with_force(machine: KernelMachine) -> None:
    """Unloading refuses while tasks wait or run, and with force cancels them first."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine, places=1)
    for name in ("t1", "t2"):
        machine.handle(events.SubmitTask(task_spec(name)), 0.0)
    with pytest.raises(ModelBusyError, match="1 running and 1 waiting"):
        machine.handle(events.UnloadModel(MODEL, force=False), 0.0)
    asked = machine.handle(events.UnloadModel(MODEL, force=True), 0.0)
    assert kinds(asked)[-3:] == ["instance STOPPING", "model UNLOADING", "StopWorker"]
    assert {t.state for t in machine.tasks.known.values()} == {TaskState.CANCELLED}
    with pytest.raises(ModelBusyError):
        machine.handle(events.LoadModel(MODEL), 0.0)
    machine.handle(events.WorkerExited(FIRST, WorkerDiedError("asked for")), 0.1)
    assert machine.views.model(MODEL).state is ModelState.UNLOADED


def test_a_task_that_arrives_while_its_model_unloads_loads_it_again(machine: KernelMachine) -> None:
    """Such a task gets a new worker, whose load waits for the memory of the old one; nothing races."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine)
    machine.handle(events.UnloadModel(MODEL, force=False), 0.0)
    assert "StartWorker" in kinds(machine.handle(events.SubmitTask(task_spec("t1")), 0.0))
    needs = events.InstanceNeeds(InstanceId("smollm2-2"), MemoryNeed(weights_bytes=950))
    assert kinds(machine.handle(needs, 0.0)) == ["instance WAITING"]
    assert "ProceedLoad" in kinds(machine.handle(events.WorkerExited(FIRST, WorkerDiedError("asked for")), 0.1))


def test_a_request_id_makes_one_task(machine: KernelMachine) -> None:
    """The same request_id with the same contents is the same task, also once that has ended; with others a conflict."""
    spec = task_spec("t1", request_id="r", fingerprint=b"1")
    again, other = (task_spec("t2", request_id="r", fingerprint=print_) for print_ in (b"1", b"2"))
    machine.handle(events.SubmitTask(spec), 0.0)
    for _ in range(2):
        assert machine.handle(events.SubmitTask(again), 0.0) == ()
        assert machine.views.submitted(again) is machine.tasks.known[TaskId("t1")]
        with pytest.raises(RequestConflictError):
            machine.handle(events.SubmitTask(other), 0.0)
        machine.handle(events.CancelTask(TaskId("t1"), TENANT), 0.0)
    assert list(machine.tasks.known) == ["t1"]
    theirs = task_spec("t3", request_id="r", fingerprint=b"2", tenant=Tenant("b"))
    machine.handle(events.SubmitTask(theirs), 0.0)
    assert machine.views.submitted(theirs) is machine.tasks.known[TaskId("t3")]
    machine.handle(events.Shutdown(), 0.0)
    assert machine.handle(events.SubmitTask(again), 0.0) == ()


def test_ended_tasks_are_forgotten_by_count_and_by_time(machine: KernelMachine) -> None:
    """At most `retained_tasks` ended tasks are kept, each at most `retention_s`; their request ids go with them."""
    for n in range(3):
        machine.handle(events.SubmitTask(task_spec(f"t{n}", request_id=f"r{n}")), 0.0)
        asked = machine.handle(events.CancelTask(TaskId(f"t{n}"), TENANT), float(n))
    assert changes.TaskForgotten(TaskId("t0"), TENANT) in asked
    assert list(machine.tasks.known) == ["t1", "t2"]
    assert machine.next_alarm() == 61.0
    assert kinds(machine.handle(events.Tick(), 62.0)) == ["TaskForgotten", "TaskForgotten"]
    again = task_spec("t9", request_id="r2")
    machine.handle(events.SubmitTask(again), 62.0)
    assert machine.views.submitted(again).spec.task_id == "t9"


def test_an_ended_task_keeps_little_of_its_spec(machine: KernelMachine) -> None:
    """Whatever a task was given of a length that nothing else bounds is dropped at its end."""
    spec = task_spec("t0", work=bytes(1_000_000), demand=Demand(memory_bytes=1_000_000, contents=bytes(32)))
    machine.handle(events.SubmitTask(spec), 0.0)
    task = machine.tasks.known[TaskId("t0")]
    assert machine.tasks.census.all.input_bytes == 1_000_000
    machine.handle(events.CancelTask(TaskId("t0"), TENANT), 1.0)
    assert machine.tasks.census.all.input_bytes == 0
    assert (task.spec.work, task.spec.demand) == (None, NO_DEMAND)


def test_more_ends_at_once_than_are_retained_are_all_told(machine: KernelMachine) -> None:
    """However many tasks one event ends, each is told its end before it is forgotten."""
    for n in range(3):
        machine.handle(events.SubmitTask(task_spec(f"t{n}")), 0.0)
    asked = machine.handle(events.Shutdown(), 1.0)
    told = [c.task_id for c in asked if isinstance(c, changes.TaskChanged) and c.end is not None]
    assert told == ["t0", "t1", "t2"]
    forgotten = changes.TaskForgotten(TaskId("t0"), TENANT)
    assert asked.index(forgotten) > kinds(asked).index("task CANCELLED")


def test_a_worker_that_could_not_load_is_stopped_and_holds_up_nothing(machine: KernelMachine) -> None:
    """A failed worker that is slow to go does not keep a later unload from its end."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    asked = machine.handle(events.InstanceRefused(FIRST, ModelLoadError("truncated")), 0.0)
    assert commands.StopWorker(FIRST) in asked
    machine.handle(events.LoadModel(MODEL), 0.0)
    machine.handle(events.UnloadModel(MODEL, force=False), 0.0)
    machine.handle(events.WorkerExited(InstanceId("smollm2-2"), WorkerDiedError("asked for")), 0.1)
    machine.handle(events.WorkerExited(FIRST, WorkerDiedError("at last")), 0.2)
    assert machine.views.model(MODEL).state is ModelState.UNLOADED


def test_the_same_model_again_changes_nothing_and_another_is_refused(machine: KernelMachine) -> None:
    """Creating a model is idempotent; the same name with other contents is MODEL_EXISTS."""
    machine.handle(events.CreateModel(model_spec()), 1.0)
    assert machine.views.model(MODEL).created == 0.0
    with pytest.raises(ModelExistsError):
        machine.handle(events.CreateModel(model_spec(source="/other.gguf")), 1.0)


def test_shutdown_ends_every_task_and_worker_and_accepts_nothing_more(machine: KernelMachine) -> None:
    """After shutdown each task has its end, each worker is told to stop, and new work is refused."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine, places=1)
    for name in ("t1", "t2"):
        machine.handle(events.SubmitTask(task_spec(name)), 0.0)
    asked = kinds(machine.handle(events.Shutdown(), 1.0))
    assert asked.count("task CANCELLED") == 2
    assert asked.count("StopWorker") == 1
    assert machine.handle(events.Shutdown(), 1.0) == ()
    with pytest.raises(ShuttingDownError):
        machine.handle(events.SubmitTask(task_spec("t3")), 1.0)


def test_an_unload_tells_those_who_asked(machine: KernelMachine) -> None:
    """Whoever waits for a model that is to be brought up after its backoff is told when it is unloaded instead."""
    machine.handle(events.AskModel(MODEL), 0.0)
    bring_up(machine)
    machine.handle(events.WorkerExited(FIRST, WorkerDiedError("gone")), 1.0)
    second = InstanceId(f"{MODEL}-2")
    machine.handle(events.AskModel(MODEL), 1.0)
    bring_up(machine, second, now=1.0)
    machine.handle(events.WorkerExited(second, WorkerDiedError("gone")), 1.1)
    assert "StartWorker" not in kinds(machine.handle(events.AskModel(MODEL), 1.2))
    assert machine.views.model(MODEL).asked
    assert changes.ModelChanged(MODEL, ModelState.UNLOADED) in machine.handle(
        events.UnloadModel(MODEL, force=False), 1.3
    )
    assert not machine.views.model(MODEL).asked


def test_a_question_waits_out_the_backoff_as_a_task_does(machine: KernelMachine) -> None:
    """After a load that failed a question is refused like a task; after a worker's death it waits for the next one."""
    assert "StartWorker" in kinds(machine.handle(events.AskModel(MODEL), 0.0))
    machine.handle(events.InstanceRefused(FIRST, ModelLoadError("truncated")), 0.0)
    machine.handle(events.WorkerExited(FIRST, WorkerDiedError("gone")), 0.1)
    assert not machine.views.model(MODEL).asked
    with pytest.raises(ModelLoadError, match="truncated") as caught:
        machine.handle(events.AskModel(MODEL), 0.4)
    assert caught.value.retry_after_s == pytest.approx(0.6)
    second = InstanceId(f"{MODEL}-2")
    assert "StartWorker" in kinds(machine.handle(events.AskModel(MODEL), 1.0))
    bring_up(machine, second, now=1.0)
    assert not machine.views.model(MODEL).asked
    machine.handle(events.WorkerExited(second, WorkerDiedError("gone")), 2.0)
    assert "StartWorker" not in kinds(machine.handle(events.AskModel(MODEL), 2.1))
    due = machine.next_alarm()
    assert due is not None
    assert due > 2.1
    assert "StartWorker" in kinds(machine.handle(events.Tick(), due))
