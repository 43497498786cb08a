"""Workers that take more than was measured, on the books of the kernel machine."""

from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.growth import GrowthLimits
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed

CPU = DeviceId("cpu:0")
TENANT = Tenant("a")
LIMITS = GrowthLimits(told=0.25, told_bytes=10, ended=1.0, ended_bytes=50)
FACTS = InstanceFacts(max_tasks=2, context_tokens=64, description="", memory_bytes=1)


class Scene:
    """A host of 1000 bytes, and workers that need 100 each."""

    def __init__(self) -> None:
        self.machine = KernelMachine(CoreLimits(growth=LIMITS))
        self.tell(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=1000, cores=4),)))

    def tell(self, event: events.Event) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, 0.0)

    def load(self, name: str, *, need: int = 100, lease_id: str = "") -> InstanceId:
        fields: dict[str, Any] = {
            "name": ModelName(name), "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 1,
            "backend": "cpu", "backend_reason": "", "loader": "x:Y", "devices": ("cpu:0",),
        }  # fmt: skip
        self.tell(events.CreateModel(ModelSpec(**fields)))
        self.tell(events.LoadModel(ModelName(name), TENANT, LeaseId(lease_id)))
        instance_id = InstanceId(f"{name}-1")
        self.tell(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=need)))
        self.tell(events.InstanceLoaded(instance_id, FACTS))
        return instance_id

    def lease(self, name: str, size_bytes: int) -> None:
        claims = (MemoryClaim(device_id=CPU, memory_bytes=size_bytes),)
        self.tell(events.CreateLease(LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=claims)))

    def take(self, instance_id: InstanceId, memory_bytes: int) -> tuple[int | None, str | None]:
        """What people are told that it takes, and why it is ended; None where nothing is."""
        done = self.tell(events.MemoryMeasured(instance_id, memory_bytes))
        told = [command.memory_bytes for command in done if isinstance(command, commands.TellGrowth)]
        ended = [command.why for command in done if isinstance(command, commands.EndWorker)]
        return (told[0] if told else None, ended[0] if ended else None)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_little_more_is_passed_over_and_much_more_is_told_once(scene: Scene) -> None:
    """Beyond the tolerance it is told, with how much it is, until it is over; the instance shows it meanwhile."""
    worker = scene.load("m")
    instance = scene.machine.fleet.instances[worker]
    assert [scene.take(worker, size) for size in (90, 135)] == [(None, None)] * 2
    assert scene.take(worker, 136) == (136, None)
    assert instance.grown_bytes == 36
    assert scene.take(worker, 200) == (None, None)
    assert (instance.grown_bytes, instance.peak_bytes) == (100, 200)
    assert scene.take(worker, 120) == (120, None)
    assert instance.grown_bytes == 0


def test_what_exceeds_all_bearing_is_ended(scene: Scene) -> None:
    """A worker beyond the larger bound is ended though there is room, and the reason has all figures."""
    worker = scene.load("m")
    assert scene.take(worker, 250) == (250, None)
    _, why = scene.take(worker, 251)
    assert why == (
        "its worker takes 251 B and 100 B was measured; "
        "at most 250 B is borne (workers.growth_ended, growth_ended_bytes)"
    )


def test_what_takes_the_memory_of_others_is_ended(scene: Scene) -> None:
    """A worker that grows into what a lease holds is ended; one that grows by less than is told of is left alone."""
    worker, other = scene.load("m"), scene.load("n")
    scene.lease("l", 740)  # 60 are left
    assert scene.take(worker, 160) == (160, None)
    assert scene.machine.broker.account(CPU).free_bytes == 0
    assert scene.take(other, 135) == (None, None)
    _, why = scene.take(worker, 161)
    assert why is not None
    assert why.endswith("of that is held by others or not there on cpu:0")


def test_under_a_lease_its_room_counts(scene: Scene) -> None:
    """An instance under a lease may grow into what the lease has left and into what nobody holds, and no farther."""
    scene.lease("l", 120)
    worker = scene.load("m", lease_id="l")
    scene.lease("rest", 860)  # 20 are left
    assert scene.take(worker, 140) == (140, None)
    assert scene.take(worker, 141)[1] is not None


def test_what_is_being_stopped_is_not_judged(scene: Scene) -> None:
    """A worker that is on its way out is neither told of nor ended again."""
    worker = scene.load("m")
    scene.tell(events.UnloadModel(ModelName("m"), force=True))
    assert scene.take(worker, 10**6) == (None, None)
