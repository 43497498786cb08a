"""A machine with one model, to try rollouts by hand: tests say what its workers tell."""

from dataclasses import replace

from inferd.core import commands, events
from inferd.core.changes import TaskChanged
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, Model, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.rollouts import RolloutLimits
from inferd.core.task import Outcome, Task, TaskSpec, TaskState
from inferd.core.version import VersionState
from inferd.errors import WorkerDiedError as Died

MODEL, TENANT, CPU = ModelName("m"), Tenant("a"), DeviceId("cpu:0")
SPEC = ModelSpec(
    name=MODEL, source="/v1", path="/v1", format="gguf", size_bytes=1, backend="cpu", backend_reason="", loader="x:Y",
    devices=(CPU,),
)  # fmt: skip
FACTS = InstanceFacts(max_tasks=3, context_tokens=64, description="", memory_bytes=1, kv_tokens=100)


class RolloutBench:
    """A machine with one device and one model, whose workers do at once what they are asked for."""

    def __init__(self, *, memory_bytes: int = 1000, need_bytes: int = 100, limits: RolloutLimits | None = None) -> None:
        self.machine = KernelMachine(CoreLimits(rollouts=limits or RolloutLimits()))
        self.need_bytes = need_bytes
        self.now = 0.0
        self.told: list[commands.Reply] = []
        self.tell(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=memory_bytes, cores=2),)))
        self.tell(events.CreateModel(SPEC))

    @property
    def model(self) -> Model:
        return self.machine.views.model(MODEL)

    def tell(self, event: events.Event) -> list[commands.Reply]:
        done = [*self.machine.handle(event, self.now)]
        self.told += done
        return done

    def measure(self, number: int, need_bytes: int | None = None) -> list[commands.Reply]:
        need = MemoryNeed(weights_bytes=self.need_bytes if need_bytes is None else need_bytes)
        return self.tell(events.InstanceNeeds(InstanceId(f"m-{number}"), need))

    def load(self, number: int) -> None:
        self.tell(events.InstanceLoaded(InstanceId(f"m-{number}"), FACTS))

    def bring_up(self, number: int) -> None:
        self.measure(number)
        self.load(number)

    def exit(self, number: int) -> None:
        self.tell(events.WorkerExited(InstanceId(f"m-{number}"), Died("gone")))

    def submit(self, name: str, lease_id: str = "") -> None:
        spec = TaskSpec(task_id=TaskId(name), tenant=TENANT, model=MODEL, work=object(), lease_id=lease_id)  # type: ignore[arg-type] # a text
        self.tell(events.SubmitTask(spec))

    def end(self, name: str) -> None:
        task = self.task(name)
        self.tell(events.TaskEnded(task.spec.task_id, task.attempt, Outcome(state=TaskState.SUCCEEDED)))

    def task(self, name: str) -> Task:
        return self.machine.views.task(TaskId(name), TENANT)

    def update(self, name: str = "v2", by: str = "ann") -> None:
        self.tell(events.UpdateModel(MODEL, replace(SPEC, source=f"/{name}", path=f"/{name}"), by=by))

    def again(self, number: int) -> None:
        self.tell(events.UpdateModel(MODEL, self.model.versions[number].spec, number, "bob"))

    @property
    def states(self) -> list[VersionState]:
        return [version.state for version in self.model.versions.values()]

    def failed(self) -> list[TaskId]:
        """The tasks that have FAILED."""
        return [c.task_id for c in self.told if isinstance(c, TaskChanged) and c.state is TaskState.FAILED]
