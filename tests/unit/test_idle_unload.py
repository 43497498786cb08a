"""Models that have had nothing to do for long enough give their memory back by themselves."""

from dataclasses import replace

import pytest

from inferd.core import events
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, InstanceState, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState

MODEL, TENANT, CPU = ModelName("m"), Tenant("a"), DeviceId("cpu:0")
SPEC = ModelSpec(
    name=MODEL, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="", loader="x:Y",
    devices=(CPU,),
)  # fmt: skip


def loaded(*, idle_s: float = 0.0, own: int | None = None, least: int = 0) -> KernelMachine:
    """A machine whose model was loaded at 1 s."""
    machine = KernelMachine(CoreLimits(elastic=ElasticTimes(idle_s=idle_s)))
    machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=2),)), 0.0)
    machine.handle(events.CreateModel(replace(SPEC, idle_s=own, min_instances=least)), 0.0)
    if not least:
        machine.handle(events.LoadModel(MODEL), 0.0)
    machine.handle(events.InstanceNeeds(InstanceId("m-1"), MemoryNeed(weights_bytes=100)), 1.0)
    facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
    machine.handle(events.InstanceLoaded(InstanceId("m-1"), facts), 1.0)
    return machine


def state(machine: KernelMachine, now: float) -> InstanceState:
    """The state of the instance when all that is due until then was done when it was due."""
    while (alarm := machine.next_alarm()) is not None and alarm <= now:
        machine.handle(events.Tick(), alarm)
    return machine.fleet.instances[InstanceId("m-1")].state


@pytest.mark.parametrize(
    ("kernel", "own", "least", "ends"),
    [
        (0.0, None, 0, None),
        (10.0, None, 0, 11.0),
        (10.0, 30, 0, 31.0),
        (10.0, 0, 0, None),
        (0.0, 30, 0, 31.0),
        (10.0, None, 1, None),
    ],
)
def test_a_model_goes_when_it_was_idle(kernel: float, own: int | None, least: int, ends: float | None) -> None:
    """After the time of its own or of the kernel, 0 for never; what `min_instances` keep stays."""
    machine = loaded(idle_s=kernel, own=own, least=least)
    assert state(machine, (ends or 1000.0) - 0.1) is InstanceState.READY
    if ends is not None:
        assert state(machine, ends) is InstanceState.STOPPING


def test_a_task_or_a_lease_keeps_it() -> None:
    """The time counts from the end of the last task; under a lease it does not count."""
    machine = loaded(idle_s=10.0)
    assert state(machine, 9.0) is InstanceState.READY
    machine.handle(events.SubmitTask(TaskSpec(task_id=TaskId("t"), tenant=TENANT, model=MODEL, work=object())), 9.0)
    assert state(machine, 30.0) is InstanceState.READY
    machine.handle(events.TaskEnded(TaskId("t"), 1, Outcome(state=TaskState.SUCCEEDED)), 30.0)
    assert state(machine, 39.9) is InstanceState.READY
    claim = ModelClaim(model=MODEL, sequences=1)
    lease = LeaseSpec(lease_id=LeaseId("l"), tenant=TENANT, claims=(claim,), ttl_s=100.0)
    machine.handle(events.CreateLease(lease), 39.9)
    assert state(machine, 100.0) is InstanceState.READY
    machine.handle(events.ReleaseLease(LeaseId("l"), TENANT), 100.0)
    assert state(machine, 120.0) is InstanceState.STOPPING


def test_a_new_bound_holds_for_what_is_loaded() -> None:
    """Set on a model that is loaded, the time begins then; it makes no version."""
    machine = loaded()
    machine.handle(events.UpdateModel(MODEL, replace(SPEC, idle_s=5)), 50.0)
    assert [*machine.views.model(MODEL).versions] == [1]
    assert state(machine, 54.9) is InstanceState.READY
    assert state(machine, 55.0) is InstanceState.STOPPING
