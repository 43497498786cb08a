"""What the core keeps by a model's name goes with the model."""

import pytest

from inferd.core import events
from inferd.core.backoff import Backoff
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import TaskSpec
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
    with pytest.raises(ModelBusyError, match="1 instances, 2 tasks"):
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


def test_a_model_that_somebody_asks_is_kept(machine: KernelMachine) -> None:
    """A call that waits for the model to load keeps it, and so does a task under its backoff."""
    machine.handle(events.AskModel(MODEL), 0.0)
    with pytest.raises(ModelBusyError):
        machine.handle(events.DeleteModel(MODEL), 0.0)
