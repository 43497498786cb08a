"""A machine whose hosts join by telling what they have kept."""

from typing import Any

from inferd.core import commands, events
from inferd.core.host import HostFacts
from inferd.core.host_events import AdoptWorkers, AwaitHosts, HeldWorker
from inferd.core.ids import DeviceId, HostId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import TaskSpec

A, B = HostId("a"), HostId("b")
GPU = DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=1000, cores=4)
ON_A, ON_B = DeviceId("a/gpu:0"), DeviceId("b/gpu:0")
MODEL = ModelName("m")
FACTS = InstanceFacts(max_tasks=2, context_tokens=64, description="", memory_bytes=1)


class Bench:
    """A machine with a model that may be on any host; hosts join by telling what they have kept."""

    def __init__(self, **spec: Any) -> None:
        self.machine = KernelMachine(CoreLimits())
        fields: dict[str, Any] = {
            "name": MODEL, "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1, "backend": "x",
            "backend_reason": "", "loader": "x:Y", "devices": (DeviceId("gpu:0"),),
        }  # fmt: skip
        self.tell(events.CreateModel(ModelSpec(**(fields | spec)), waits=True))

    def tell(self, event: events.Event, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, now)

    def adopt(self, *workers: HeldWorker, host_id: HostId = A, device: DeviceCapacity = GPU) -> list[Any]:
        """A host joins with these; what is ordered for them."""
        self.tell(events.HostFound(host_id))
        said = self.tell(AdoptWorkers(host_id, (device,), HostFacts(), workers))
        self.held = [each for each in said if isinstance(each, commands.AdoptWorker | commands.RefuseWorker)]
        return self.held

    def join(self, host_id: HostId = A) -> tuple[commands.Reply, ...]:
        return self.tell(events.HostJoined((GPU,), host_id))

    @property
    def instances(self) -> dict[str, str]:
        return {i.instance_id: i.state.name for i in self.machine.fleet.instances.values()}


def held(instance_id: str = "m-7", *, size_bytes: int = 300, **more: Any) -> HeldWorker:
    chosen: dict[str, Any] = {"held_id": 1, "model": MODEL, "device_ids": (DeviceId("gpu:0"),)} | more
    return HeldWorker(instance_id=InstanceId(instance_id), need=MemoryNeed(weights_bytes=size_bytes), **chosen)


def refusal(found: list[Any]) -> str:
    (refused,) = found
    assert isinstance(refused, commands.RefuseWorker)
    return refused.why


LACKED = "its file /m is not there"


def lacking(lacks: str) -> Bench:
    """A kernel that was started again a moment ago, whose model lacks something."""
    bench = Bench()
    spec = bench.machine.views.model(MODEL).spec
    bench.machine = KernelMachine(CoreLimits())
    bench.tell(AwaitHosts(waits=True))
    bench.tell(events.CreateModel(spec, kept=True, lacks=lacks))
    return bench


def submit(bench: Bench, *names: str) -> None:
    for name in names:
        bench.tell(events.SubmitTask(TaskSpec(task_id=TaskId(name), tenant=Tenant("t"), model=MODEL, work=object())))


def ends(bench: Bench) -> dict[str, str]:
    """How each task is, and why where it has failed."""
    known = bench.machine.tasks.known
    return {name: str(t.outcome.error) if t.outcome is not None else t.state.name for name, t in known.items()}
