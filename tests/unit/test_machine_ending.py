"""What the core does from when it is to end."""

from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, LeaseState, MemoryClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState
from inferd.errors import InferdError, ShuttingDownError

TENANT, MODEL, FIRST = Tenant("a"), ModelName("m"), InstanceId("m-1")


def task(name: str, **changes: Any) -> TaskSpec:
    return TaskSpec(**{"task_id": TaskId(name), "tenant": TENANT, "model": MODEL, "work": object(), **changes})


def lease(name: str, size_bytes: int = 1) -> LeaseSpec:
    return LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=(MemoryClaim(memory_bytes=size_bytes),))


@pytest.fixture
def machine() -> KernelMachine:
    """One place, where the task "runs" runs; "waits" and "kept" wait for it, "stopped" is suspended."""
    made = KernelMachine(CoreLimits())
    made.handle(events.HostJoined((DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=1000, cores=2),)), 0.0)
    spec: dict[str, Any] = {
        "name": MODEL, "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "cpu",
        "backend_reason": "", "loader": "x:Y", "devices": (DeviceId("cpu:0"),),
    }  # fmt: skip
    made.handle(events.CreateModel(ModelSpec(**spec)), 0.0)
    made.handle(events.SubmitTask(task("runs")), 0.0)
    made.handle(events.InstanceNeeds(FIRST, MemoryNeed(weights_bytes=100)), 0.0)
    facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
    made.handle(events.InstanceLoaded(FIRST, facts), 0.0)
    made.handle(events.SubmitTask(task("waits")), 0.0)
    made.handle(events.SubmitTask(task("stopped")), 0.0)
    made.handle(events.SuspendTask(TaskId("stopped"), TENANT), 0.0)
    made.handle(events.SubmitTask(task("kept", detached=True, request_id="r")), 0.0)
    made.handle(events.CreateLease(lease("held")), 0.0)
    return made


def state(machine: KernelMachine, name: str) -> TaskState:
    return machine.tasks.known[TaskId(name)].state


@pytest.mark.parametrize(
    "event",
    [
        events.SubmitTask(task("new")),
        events.CreateLease(lease("new")),
        events.LoadModel(MODEL),
        events.AskModel(MODEL),
    ],
    ids=lambda event: type(event).__name__,
)
def test_nothing_new_is_taken(machine: KernelMachine, event: events.Event) -> None:
    """Each new thing is refused, with the time after which the next kernel may be there; it rises with what is left."""
    machine.handle(events.Drain(until=30.0, keeps=True), 10.0)
    for now, left_s in ((10.0, 20.0), (25.0, 5.0), (60.0, 0.0)):
        with pytest.raises(ShuttingDownError) as caught:
            machine.handle(event, now)
        assert caught.value.retry_after_s == left_s + 1.0


def test_what_runs_ends_and_nothing_that_waits_begins(machine: KernelMachine) -> None:
    """A running task comes to its own end; its place stays free though a task waits, and no worker is started."""
    machine.handle(events.Drain(until=30.0, keeps=True), 10.0)
    assert state(machine, "runs") is TaskState.RUNNING
    said = machine.handle(events.TaskEnded(TaskId("runs"), 1, Outcome(state=TaskState.SUCCEEDED)), 11.0)
    assert state(machine, "runs") is TaskState.SUCCEEDED
    assert state(machine, "kept") is TaskState.QUEUED
    said += machine.handle(events.WorkerExited(FIRST, InferdError("gone")), 12.0)
    assert not [each for each in said if isinstance(each, commands.SendTask | commands.StartWorker)]


@pytest.mark.parametrize("keeps", [True, False])
def test_what_waits_and_is_not_kept_ends_at_once(machine: KernelMachine, *, keeps: bool) -> None:
    """Tasks that only this kernel knows are told SHUTTING_DOWN before their clients wait in vain; kept ones stay."""
    machine.handle(events.Drain(until=30.0, keeps=keeps), 10.0)
    for name in ("waits", "stopped", *(() if keeps else ("kept",))):
        ended = machine.tasks.known[TaskId(name)]
        assert ended.state is TaskState.CANCELLED
        assert ended.outcome is not None
        assert isinstance(ended.outcome.error, ShuttingDownError)
        assert ended.outcome.error.retry_after_s
    assert (state(machine, "kept") is TaskState.QUEUED) == keeps


def test_what_is_there_is_served(machine: KernelMachine) -> None:
    """Leases are kept alive and released, an earlier request finds its task, and a task is cancelled."""
    machine.handle(events.Drain(until=30.0, keeps=True), 10.0)
    machine.handle(events.KeepAlive(LeaseId("held"), TENANT), 11.0)
    assert machine.views.lease(LeaseId("held"), TENANT).expires == 41.0
    machine.handle(events.SubmitTask(task("again", request_id="r", detached=True)), 12.0)
    machine.handle(events.CancelTask(TaskId("runs"), TENANT), 12.0)
    assert state(machine, "runs") is TaskState.CANCELLED
    assert state(machine, "kept") is TaskState.QUEUED
    machine.handle(events.ReleaseLease(LeaseId("held"), TENANT), 13.0)
    assert machine.views.lease(LeaseId("held"), TENANT).state is LeaseState.RELEASED


@pytest.mark.parametrize("keeps", [True, False])
def test_leases_that_are_kept_do_not_end_with_the_kernel(machine: KernelMachine, *, keeps: bool) -> None:
    """At the end one that is held stays so where it is kept; one that waits ends anyway."""
    machine.handle(events.CreateLease(LeaseSpec(**{**fields(lease("waits", 1000)), "wait": True})), 1.0)
    machine.handle(events.Shutdown(keeps_leases=keeps), 10.0)
    held, waits = (machine.views.lease(LeaseId(name), TENANT).state for name in ("held", "waits"))
    assert (held is LeaseState.ACTIVE) == keeps
    assert waits is LeaseState.RELEASED
    assert machine.closed


def fields(spec: LeaseSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("lease_id", "tenant", "claims")}
