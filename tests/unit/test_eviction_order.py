"""Of idle models the one that was used last of all stays longest when another needs the room."""

from dataclasses import replace

from inferd.core import events
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, InstanceState, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState

CPU, TENANT = DeviceId("cpu:0"), Tenant("a")
SPEC = ModelSpec(
    name=ModelName("a"), source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="",
    loader="x:Y", devices=(CPU,),
)  # fmt: skip


def test_the_least_recently_used_model_gives_way() -> None:
    """It was loaded later, and did nothing since; the other one has done a task meanwhile."""
    machine = KernelMachine(CoreLimits())
    machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=100, cores=2),)), 0.0)
    for now, name in ((1.0, "a"), (2.0, "b")):
        machine.handle(events.CreateModel(replace(SPEC, name=ModelName(name))), now)
        machine.handle(events.LoadModel(ModelName(name)), now)
        machine.handle(events.InstanceNeeds(InstanceId(f"{name}-1"), MemoryNeed(weights_bytes=50)), now)
        facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
        machine.handle(events.InstanceLoaded(InstanceId(f"{name}-1"), facts), now)
    spec = TaskSpec(task_id=TaskId("t"), tenant=TENANT, model=ModelName("a"), work=object())
    machine.handle(events.SubmitTask(spec), 3.0)
    machine.handle(events.TaskEnded(TaskId("t"), 1, Outcome(state=TaskState.SUCCEEDED)), 4.0)
    machine.handle(events.CreateModel(replace(SPEC, name=ModelName("c"))), 5.0)
    machine.handle(events.LoadModel(ModelName("c")), 5.0)
    machine.handle(events.InstanceNeeds(InstanceId("c-1"), MemoryNeed(weights_bytes=50)), 5.0)
    states = {name: machine.fleet.instances[InstanceId(f"{name}-1")].state for name in "abc"}
    assert states == {"a": InstanceState.READY, "b": InstanceState.STOPPING, "c": InstanceState.WAITING}
