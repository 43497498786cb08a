"""Instances that span devices, by the machine: which they take, what they wait for, and what they give back."""

from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.ids import DeviceId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, InstanceState, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import TaskSpec
from inferd.errors import InvalidFieldError, ModelBusyError, NoMemoryError
from inferd.runtime.kept_records import read_spec, write_spec

SIZES = {"gpu:0": 1000, "gpu:1": 1000, "gpu:2": 600, "cpu:0": 9000}
DEVICES = tuple(map(DeviceId, SIZES))[:3]


class Bench:
    """A machine with three devices that are alike, and the host's processor."""

    def __init__(self) -> None:
        self.machine = KernelMachine(CoreLimits())
        capacities = (DeviceCapacity(device_id=DeviceId(d), memory_bytes=size) for d, size in SIZES.items())
        self.tell(events.HostJoined(tuple(capacities)))

    def tell(self, event: events.Event) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, 0.0)

    def create(self, name: str, **changes: Any) -> ModelSpec:
        fields: dict[str, Any] = {
            "name": ModelName(name), "source": f"/{name}", "path": f"/{name}", "format": "hf", "size_bytes": 1,
            "backend": "x", "backend_reason": "", "loader": "x:Y", "devices": DEVICES,
        }  # fmt: skip
        spec = ModelSpec(**(fields | changes))
        self.tell(events.CreateModel(spec))
        return spec

    def load(self, name: str) -> tuple[DeviceId, ...]:
        """Have a model loaded; all devices of its worker."""
        return self.started(events.LoadModel(ModelName(name)))

    def started(self, event: events.Event) -> tuple[DeviceId, ...]:
        """All devices of the worker that an event has started."""
        (start,) = [command for command in self.tell(event) if isinstance(command, commands.StartWorker)]
        return (start.device_id, *start.beside)

    def needs(self, instance_id: str, size_bytes: int) -> tuple[commands.Reply, ...]:
        return self.tell(events.InstanceNeeds(InstanceId(instance_id), MemoryNeed(weights_bytes=size_bytes)))

    def ready(self, instance_id: str, size_bytes: int) -> None:
        facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        assert commands.ProceedLoad(InstanceId(instance_id)) in self.needs(instance_id, size_bytes)
        self.tell(events.InstanceLoaded(InstanceId(instance_id), facts))

    def gone(self, instance_id: str) -> tuple[commands.Reply, ...]:
        return self.tell(events.WorkerExited(InstanceId(instance_id), "it was killed"))

    def held(self) -> list[int]:
        return [self.machine.broker.devices[device_id].instance_bytes for device_id in DEVICES]

    def state(self, instance_id: str) -> InstanceState:
        return self.machine.fleet.instances[InstanceId(instance_id)].state


def test_the_devices_with_most_room_are_taken_and_given_back_together() -> None:
    """Of three the two with most room are taken; what is needed is held of each, and all of it is free afterwards."""
    bench = Bench()
    bench.create("m", span=2)
    assert bench.load("m") == ("gpu:0", "gpu:1")
    bench.ready("m-1", 700)
    assert bench.held() == [700, 700, 0]
    accounts = bench.machine.broker.devices
    assert [accounts[d].idle_bytes for d in DEVICES] == [700, 700, 0]  # it is idle, on both
    bench.gone("m-1")
    assert bench.held() == [0, 0, 0]
    assert [(a.idle_bytes, a.stopping_bytes, a.expected_bytes, len(a.held_by)) for a in accounts.values()] == [
        (0, 0, 0, 0)
    ] * 4


def test_room_on_one_is_not_enough() -> None:
    """An instance waits while one of its devices lacks room, holds nothing meanwhile, and goes when all have it."""
    bench = Bench()
    bench.create("busy", devices=(DEVICES[1],), min_instances=1)  # it starts at once, and stays
    bench.ready("busy-1", 500)
    bench.create("m", span=2, devices=DEVICES[:2])
    task = TaskSpec(task_id=TaskId("t"), tenant=Tenant("a"), model=ModelName("m"), work=object())
    assert bench.started(events.SubmitTask(task)) == ("gpu:0", "gpu:1")
    assert not [c for c in bench.needs("m-1", 600) if isinstance(c, commands.ProceedLoad)]
    assert (bench.state("m-1"), bench.held()) == (InstanceState.WAITING, [0, 500, 0])
    assert commands.ProceedLoad(InstanceId("m-1")) in bench.gone("busy-1")
    assert bench.held() == [600, 600, 0]


def test_idle_instances_give_way_on_each_device() -> None:
    """What is idle on any of the devices is stopped for it, and it is itself stopped for what wants one of them."""
    bench = Bench()
    for number in range(2):
        bench.create(f"idle{number}", devices=(DEVICES[number],))
        bench.load(f"idle{number}")
        bench.ready(f"idle{number}-1", 800)
    bench.create("m", span=2, devices=DEVICES[:2])
    bench.load("m")
    stopped = {c.instance_id for c in bench.needs("m-1", 600) if isinstance(c, commands.StopWorker)}
    assert stopped == {"idle0-1", "idle1-1"}
    bench.gone("idle0-1")
    assert bench.held() == [0, 800, 0]
    assert commands.ProceedLoad(InstanceId("m-1")) in bench.gone("idle1-1")
    facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
    bench.tell(events.InstanceLoaded(InstanceId("m-1"), facts))
    bench.create("one", devices=(DEVICES[1],))
    bench.load("one")
    assert commands.StopWorker(InstanceId("m-1")) in bench.needs("one-1", 500)
    assert commands.ProceedLoad(InstanceId("one-1")) in bench.gone("m-1")
    assert bench.held() == [0, 500, 0]


def test_what_no_two_devices_hold_is_refused() -> None:
    """What is larger than one of the devices is refused with its name; so is what would span more than there are."""
    bench = Bench()
    bench.create("m", span=3)
    assert set(bench.load("m")) == set(DEVICES)
    bench.needs("m-1", 700)
    error = bench.machine.views.model(ModelName("m")).error
    assert isinstance(error, NoMemoryError)
    assert (error.metadata["capacity_bytes"], "does not fit gpu:0 and gpu:1 and gpu:2" in error.message) == (
        "600",
        True,
    )
    with pytest.raises(InvalidFieldError, match=r"'devices' is 4, and the host .* \(gpu:0, gpu:1, gpu:2\) has 3"):
        bench.create("more", span=4)
    with pytest.raises(InvalidFieldError, match="a processor is one device: the setting `ranks` has several processes"):
        bench.create("host", span=2, devices=(DeviceId("cpu:0"),))
    assert bench.held() == [0, 0, 0]


def test_kinds_of_devices_are_not_mixed() -> None:
    """An instance spans devices of one kind, of those that its model may use."""
    bench = Bench()
    with pytest.raises(InvalidFieldError, match="'devices' is 2"):
        bench.create("m", span=2, devices=(DEVICES[0], DeviceId("cpu:0")))


def test_a_host_that_takes_nothing_new_has_no_devices_to_span() -> None:
    """While its host drains, an instance that spans is started nowhere."""
    bench = Bench()
    bench.create("m", span=2)
    for device_id in DEVICES[1:]:
        bench.machine.broker.open(device_id, is_open=False)
    with pytest.raises(ModelBusyError, match="takes instances now"):
        bench.load("m")


def test_the_span_of_a_model_is_kept() -> None:
    """What is written of a model says it, where it is more than one: as kernels wrote it that knew none."""
    bench = Bench()
    spread, plain = bench.create("m", span=2), bench.create("n")
    assert read_spec(write_spec(spread)).span == 2
    assert "span" not in write_spec(plain)
    assert read_spec(write_spec(plain)).span == 1
