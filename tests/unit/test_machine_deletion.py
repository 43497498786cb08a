"""What the core keeps by a model's name goes with the model."""

from dataclasses import replace

import pytest

from inferd.core import events
from inferd.core.backoff import Backoff
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState
from inferd.errors import ModelBusyError, ModelLoadError, ModelNotFoundError

MODEL, TENANT = ModelName("m"), Tenant("a")
SPEC = ModelSpec(
    name=MODEL,
    source="/m",
    path="/m",
    format="gguf",
    size_bytes=1,
    backend="cpu",
    backend_reason="",
    loader="x:Y",
    devices=(DeviceId("cpu:0"),),
    max_instances=2,
)


@pytest.fixture
def machine() -> KernelMachine:
    made = KernelMachine(CoreLimits(backoff=Backoff(first_s=5.0), elastic=ElasticTimes(grow_s=5.0)))
    made.handle(events.HostJoined((DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=1000, cores=2),)), 0.0)
    made.handle(events.CreateModel(SPEC), 0.0)
    return made


def submit(machine: KernelMachine, name: str, now: float) -> None:
    machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId(name), tenant=TENANT, model=MODEL, work=object())), now)


def test_alarms_of_a_deleted_model_ring_for_nobody(machine: KernelMachine) -> None:
    """Neither its backoff nor its growth comes back to a model that is gone; the same name begins anew."""
    submit(machine, "t-1", 0.0)
    error = ModelLoadError("no", metadata={})
    machine.handle(events.InstanceRefused(InstanceId("m-1"), error), 1.0)
    machine.handle(events.WorkerExited(InstanceId("m-1"), error), 1.0)
    machine.handle(events.LoadModel(MODEL), 2.0)
    machine.handle(events.InstanceNeeds(InstanceId("m-2"), MemoryNeed(weights_bytes=100)), 2.0)
    facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
    machine.handle(events.InstanceLoaded(InstanceId("m-2"), facts), 2.0)
    for name in ("t-2", "t-3"):  # one runs, one waits: it would grow
        submit(machine, name, 3.0)
    with pytest.raises(ModelBusyError, match="1 instance, 2 tasks"):
        machine.handle(events.DeleteModel(MODEL), 3.0)
    machine.handle(events.UnloadModel(MODEL, force=True), 3.0)
    machine.handle(events.WorkerExited(InstanceId("m-2"), error), 3.0)
    machine.handle(events.DeleteModel(MODEL), 3.0)
    assert not machine.fleet.models
    with pytest.raises(ModelNotFoundError):
        submit(machine, "t-4", 3.0)
    machine.handle(events.Tick(), 1000.0)
    machine.handle(events.CreateModel(SPEC), 1000.0)
    assert machine.views.model(MODEL).failures == 0
    submit(machine, "t-5", 1000.0)


def bring_up(machine: KernelMachine, number: int) -> None:
    instance_id = InstanceId(f"m-{number}")
    machine.handle(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=100)), 1.0)
    facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
    machine.handle(events.InstanceLoaded(instance_id, facts), 1.0)


def test_a_model_that_drains_ends_what_it_has_and_goes(machine: KernelMachine) -> None:
    """Tasks that run and wait are done; what comes anew is refused; then it is unloaded and forgotten."""
    for name in ("runs", "waits"):
        submit(machine, name, 0.0)
    bring_up(machine, 1)
    machine.handle(events.DeleteModel(MODEL, drain=True), 1.0)
    claim = ModelClaim(model=MODEL, sequences=1)
    for refused in (
        events.SubmitTask(TaskSpec(task_id=TaskId("new"), tenant=TENANT, model=MODEL, work=object())),
        events.CreateLease(LeaseSpec(lease_id=LeaseId("l"), tenant=TENANT, claims=(claim,))),
        events.UpdateModel(MODEL, replace(SPEC, source="/other")),
        events.CreateModel(SPEC),
        events.LoadModel(MODEL),
    ):
        with pytest.raises(ModelBusyError, match="is being deleted"):
            machine.handle(refused, 1.0)
    for name in ("runs", "waits"):
        assert MODEL in machine.fleet.models
        ended = events.TaskEnded(TaskId(name), 1, Outcome(state=TaskState.SUCCEEDED))
        machine.handle(ended, 2.0)
        assert machine.views.task(TaskId(name), TENANT).state is TaskState.SUCCEEDED
    machine.handle(events.WorkerExited(InstanceId("m-1"), ModelLoadError("stopped")), 3.0)
    assert not machine.fleet.models
    machine.handle(events.CreateModel(SPEC), 3.0)


def test_a_model_that_is_deleted_with_force_ends_what_it_has(machine: KernelMachine) -> None:
    """Its tasks are cancelled, running, waiting and suspended; it is forgotten with its last worker."""
    for name in ("runs", "waits", "sleeps"):
        submit(machine, name, 0.0)
    machine.handle(events.SuspendTask(TaskId("sleeps"), TENANT), 0.0)
    bring_up(machine, 1)
    machine.handle(events.UpdateModel(MODEL, replace(SPEC, source="/other")), 1.0)
    machine.handle(events.DeleteModel(MODEL, force=True), 1.0)
    ends = {machine.views.task(TaskId(name), TENANT).state for name in ("runs", "waits", "sleeps")}
    assert ends == {TaskState.CANCELLED}
    for instance_id in ("m-1", "m-2"):
        assert MODEL in machine.fleet.models
        machine.handle(events.WorkerExited(InstanceId(instance_id), ModelLoadError("stopped")), 2.0)
    assert not machine.fleet.models


def test_a_lease_keeps_a_model_from_force_and_holds_up_draining(machine: KernelMachine) -> None:
    """With force the error names the lease; a model that drains goes when that is released."""
    machine.handle(events.LoadModel(MODEL), 0.0)
    bring_up(machine, 1)
    claim = ModelClaim(model=MODEL, sequences=1)
    machine.handle(events.CreateLease(LeaseSpec(lease_id=LeaseId("l"), tenant=TENANT, claims=(claim,))), 1.0)
    with pytest.raises(ModelBusyError, match="held by 1 lease"):
        machine.handle(events.DeleteModel(MODEL, force=True), 1.0)
    machine.handle(events.DeleteModel(MODEL, drain=True), 1.0)
    machine.handle(events.ReleaseLease(LeaseId("l"), TENANT), 2.0)
    machine.handle(events.WorkerExited(InstanceId("m-1"), ModelLoadError("stopped")), 2.0)
    assert not machine.fleet.models


def test_a_model_that_somebody_asks_is_kept(machine: KernelMachine) -> None:
    """A call that waits for the model to load keeps it, and so does a task under its backoff."""
    machine.handle(events.AskModel(MODEL), 0.0)
    with pytest.raises(ModelBusyError):
        machine.handle(events.DeleteModel(MODEL), 0.0)
