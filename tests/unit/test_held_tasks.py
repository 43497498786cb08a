"""Tasks that wait since no host takes anything, or for a host that was removed; and what they are told."""

import pytest

from inferd.core import commands, events
from inferd.core.host_events import AwaitHosts, CordonHost
from inferd.core.ids import DeviceId, HostId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import ModelSpec
from inferd.core.resources import DeviceCapacity
from inferd.core.task import TaskSpec
from inferd.errors import ModelLoadError

A, B = HostId("a"), HostId("b")
GPU = DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=1000, cores=4)
ON_A, ON_B = DeviceId("a/gpu:0"), DeviceId("b/gpu:0")
MODEL = ModelName("m")


class Bench:
    """A machine with two hosts, and a model that may use some of their devices."""

    def __init__(self, *devices: DeviceId) -> None:
        self.machine = KernelMachine(CoreLimits())
        for host_id in (A, B):
            self.tell(events.HostJoined((GPU,), host_id))
        spec = ModelSpec(
            name=MODEL, source="/m", path="/m", format="gguf", size_bytes=1, backend="x", backend_reason="",
            loader="x:Y", devices=devices,
        )  # fmt: skip
        self.tell(events.CreateModel(spec))

    def tell(self, event: events.Event) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, 0.0)

    def submit(self, name: str) -> tuple[commands.Reply, ...]:
        spec = TaskSpec(task_id=TaskId(name), tenant=Tenant("t"), model=MODEL, work=object())
        return self.tell(events.SubmitTask(spec))

    def state(self, name: str) -> str:
        return self.machine.tasks.known[TaskId(name)].state.name


def queued(found: tuple[commands.Reply, ...]) -> list[commands.TellQueued]:
    return [each for each in found if isinstance(each, commands.TellQueued)]


def starts(found: tuple[commands.Reply, ...]) -> bool:
    return any(isinstance(each, commands.StartWorker) for each in found)


def test_who_waits_is_told_that_no_host_takes_anything() -> None:
    """With the position: as the task comes, and to all that wait whenever that changes."""
    bench = Bench(ON_A, ON_B)
    bench.tell(CordonHost(A))
    bench.tell(CordonHost(B))
    resume = "; `inferd hosts resume` has one take it"
    for name in ("one", "two"):
        (told,) = queued(bench.submit(name))
        assert told.why == f"no host takes new work: all are cordoned{resume}"
    said = queued(bench.tell(events.DrainHost(B)))
    assert [(each.task_id, each.position, each.why) for each in said] == [
        (name, number, f"no host takes new work: 1 is cordoned, 1 drains{resume}")
        for number, name in enumerate(("one", "two"))
    ]
    said = queued(bench.tell(events.HostLost(B, "no word")))
    assert said[0].why == f"no host takes new work: 1 is cordoned, 1 is lost{resume}"
    said = bench.tell(events.ResumeHost(A))
    assert [each.why for each in queued(said)] == ["", ""]
    assert starts(said)


@pytest.mark.parametrize("back", [True, False])
def test_who_waits_for_a_removed_host_waits_for_its_agent(*, back: bool) -> None:
    """One that still runs joins again a moment later: what waits for its devices ends if it does not."""
    bench = Bench(ON_A)
    bench.tell(events.DrainHost(A))
    bench.submit("waits")
    bench.tell(AwaitHosts(waits=True))
    bench.tell(events.HostLeft(A))
    assert bench.state("waits") == "QUEUED"
    with pytest.raises(ModelLoadError, match="no host that is known has a/gpu:0"):
        bench.submit("late")
    if back:
        assert starts(bench.tell(events.HostJoined((GPU,), A)))
    bench.tell(AwaitHosts(waits=False))
    assert bench.state("waits") == ("QUEUED" if back else "FAILED")
