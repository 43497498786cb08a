"""A machine with one model, and short words for what happens to its tasks."""

from typing import Any

from inferd.core import commands, events
from inferd.core.demand import Demand
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import Instance, InstanceFacts, ModelSpec
from inferd.core.priority import Priority
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState, Usage
from inferd.errors import WorkerDiedError

CPU = DeviceId("cpu:0")
MODEL = ModelName("m")
TENANT = Tenant("a")


class Bench:
    """A machine with one device of 1000 bytes and one model, and short words for what happens to it."""

    def __init__(self, *, places: int = 1, instances: int = 1, **limits: Any) -> None:
        policy = QueuePolicy(aging_s=10.0, weights={Tenant("heavy"): 3.0}, tenant_running=limits.pop("running", 100))
        self.machine = KernelMachine(
            CoreLimits(tasks=TaskLimits(policy=policy, **limits), elastic=ElasticTimes(grow_s=2.0, shrink_s=60.0))
        )
        self.machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)), 0.0)
        spec = ModelSpec(
            name=MODEL, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="",
            loader="x:Y", devices=(DeviceId("cpu:0"),), max_instances=instances,
        )  # fmt: skip
        self.places = places
        self.machine.handle(events.CreateModel(spec), 0.0)
        self.machine.handle(events.LoadModel(MODEL), 0.0)
        self.come_up("m-1")

    def come_up(self, name: str, now: float = 0.0) -> tuple[commands.Reply, ...]:
        self.machine.handle(events.InstanceNeeds(InstanceId(name), MemoryNeed(weights_bytes=300)), now)
        facts = InstanceFacts(max_tasks=self.places, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        return self.machine.handle(events.InstanceLoaded(InstanceId(name), facts), now)

    def submit(
        self, name: str, *, now: float = 0.0, priority: Priority = Priority.NORMAL, **changes: Any
    ) -> tuple[commands.Reply, ...]:
        fields: dict[str, Any] = {
            "task_id": TaskId(name), "tenant": TENANT, "model": MODEL, "demand": Demand(most_output=10),
            "work": object(),
        }  # fmt: skip
        return self.machine.handle(events.SubmitTask(TaskSpec(priority=priority, **(fields | changes))), now)

    def end(self, name: str, now: float = 0.0, tokens: int = 10) -> tuple[commands.Reply, ...]:
        task = self.machine.tasks.known[TaskId(name)]
        outcome = Outcome(state=TaskState.SUCCEEDED, usage=Usage(output_tokens=tokens))
        return self.machine.handle(events.TaskEnded(TaskId(name), task.attempt, outcome), now)

    def suspend(self, name: str, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(events.SuspendTask(TaskId(name), TENANT), now)

    def resume(self, name: str, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(events.ResumeTask(TaskId(name), TENANT), now)

    def die(self, name: str = "m-1", now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(events.WorkerExited(InstanceId(name), WorkerDiedError("gone")), now)

    def passed(self, name: str, now: float) -> tuple[commands.Reply, ...]:
        """A suspect has its turn, and tells something."""
        attempt = self.machine.tasks.known[TaskId(name)].attempt
        self.machine.handle(events.TaskAlone(TaskId(name), attempt), now)
        return self.machine.handle(events.TaskPassed(TaskId(name), attempt), now)

    def instance(self, name: str = "m-1") -> Instance:
        return self.machine.fleet.instances[InstanceId(name)]

    def states(self, *names: str) -> list[str]:
        return [self.machine.tasks.known[TaskId(name)].state.name for name in names]


def words(found: tuple[commands.Reply, ...]) -> list[str]:
    """Commands in words, those to workers and of queues only."""
    told = (commands.SendTask, commands.DropTask, commands.StartWorker)
    return [f"{type(c).__name__} {_subject(c)}" for c in found if isinstance(c, told)]


def sent(found: tuple[commands.Reply, ...]) -> list[commands.SendTask]:
    """The tasks that are sent."""
    return [c for c in found if isinstance(c, commands.SendTask)]


def _subject(command: Any) -> str:
    task_id = command.spec.task_id if isinstance(command, commands.SendTask) else getattr(command, "task_id", "")
    return str(task_id or command.instance_id)
