"""On which of its devices a model is started, by the machine and by the function that chooses."""

from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, InstanceState, ModelSpec
from inferd.core.placement import Site, choose
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import TaskSpec
from inferd.errors import InvalidFieldError, NoMemoryError

A, B, OTHER = DeviceId("gpu:0"), DeviceId("gpu:1"), DeviceId("cpu:0")
TENANT = Tenant("a")


class Bench:
    """A machine with three devices, of which models may use two."""

    def __init__(self, *, first: int = 1000, second: int = 1000) -> None:
        self.machine = KernelMachine(CoreLimits(elastic=ElasticTimes(grow_s=2.0, drain_s=5.0)))
        sizes = {A: first, B: second, OTHER: 9000}
        devices = (DeviceCapacity(device_id=d, memory_bytes=size, cores=4) for d, size in sizes.items())
        self.tell(events.HostJoined(tuple(devices)))

    def tell(self, event: events.Event, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, now)

    def create(self, name: str, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "name": ModelName(name), "source": f"/{name}", "path": f"/{name}", "format": "gguf", "size_bytes": 1,
            "backend": "x", "backend_reason": "", "loader": "x:Y", "devices": (A, B),
        }  # fmt: skip
        self.tell(events.CreateModel(ModelSpec(**(fields | changes))))

    def load(self, name: str, now: float = 0.0, **more: Any) -> DeviceId:
        """Have a model loaded; where its worker is started."""
        return started(self.tell(events.LoadModel(ModelName(name), **more), now))

    def needs(self, instance_id: str, size_bytes: int, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.tell(events.InstanceNeeds(InstanceId(instance_id), MemoryNeed(weights_bytes=size_bytes)), now)

    def ready(self, instance_id: str, size_bytes: int, now: float = 0.0) -> None:
        facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1, kv_tokens=256)
        assert commands.ProceedLoad(InstanceId(instance_id)) in self.needs(instance_id, size_bytes, now)
        self.tell(events.InstanceLoaded(InstanceId(instance_id), facts), now)

    def submit(self, name: str, model: str, now: float = 0.0, **more: Any) -> tuple[commands.Reply, ...]:
        spec = TaskSpec(task_id=TaskId(name), tenant=TENANT, model=ModelName(model), work=object(), **more)
        return self.tell(events.SubmitTask(spec), now)

    def why(self, instance_id: str) -> str:
        return self.machine.fleet.instances[InstanceId(instance_id)].device_reason


def started(done: tuple[commands.Reply, ...]) -> DeviceId:
    (start,) = [command for command in done if isinstance(command, commands.StartWorker)]
    return start.device_id


def site(name: str, need: int = 100, *, room: int, most: int = 1000, idle: int = 0, own: int = 0) -> Site:
    return Site(device_id=DeviceId(name), most_bytes=most, need_bytes=need, room_bytes=room, idle_bytes=idle, own=own)


@pytest.mark.parametrize(
    ("sites", "chosen", "words"),
    [
        ([site("a", room=0)], "a", "the only device"),
        ([site("a", room=500), site("b", room=500)], "a", "as good as b"),
        ([site("a", room=500), site("b", room=600)], "b", "is free, on a"),
        ([site("a", room=900, own=1), site("b", room=100)], "b", "0 instances there, on a 1"),
        ([site("a", room=99, idle=900), site("b", room=100, own=5)], "b", "fits what is free, on a"),
        ([site("a", room=20, idle=900), site("b", room=80, idle=20)], "b", "has to give way, on a"),
        ([site("a", room=90), site("b", room=0, idle=100)], "b", "nothing that others use has to be given back, on a"),
        ([site("a", room=99, most=99), site("b", room=0)], "b", "a has 99 B to give at most"),
    ],
)
def test_what_is_free_goes_before_what_would_give_way_before_its_own(
    sites: list[Site], chosen: str, words: str
) -> None:
    """Each ground is heavier than those behind it, then the backend's order counts; the reason names it."""
    for order in (sites, sites[::-1]) if "as good" not in words else (sites,):
        placement = choose(order)
        assert placement.device_id == chosen
        assert words in placement.reason


def test_a_model_grows_onto_its_second_device() -> None:
    """Under load a model has an instance on each of its devices, and none on one that it may not use."""
    bench = Bench()
    bench.create("m", max_instances=3)
    assert started(bench.submit("t1", "m")) == A
    bench.ready("m-1", 400)
    bench.submit("t2", "m")
    assert started(bench.tell(events.Tick(), 2.0)) == B
    bench.ready("m-2", 400, 2.0)
    assert bench.why("m-2") == "it has 0 instances there, on gpu:0 1"
    bench.submit("t3", "m", 3.0)
    assert started(bench.tell(events.Tick(), 5.0)) == A
    bench.ready("m-3", 400, 5.0)


def test_growth_evicts_nobody_on_any_device() -> None:
    """A model does not grow while both devices are taken, by idle models too; and does where one has room again."""
    bench = Bench()
    bench.create("m", max_instances=2, devices=(A, B))
    bench.create("idle", devices=(B,))
    bench.load("idle")
    bench.ready("idle-1", 700)
    bench.submit("t1", "m")
    bench.ready("m-1", 600)
    bench.submit("t2", "m")
    assert not [c for c in bench.tell(events.Tick(), 2.0) if isinstance(c, commands.StartWorker | commands.StopWorker)]
    bench.tell(events.UnloadModel(ModelName("idle"), force=False), 2.5)
    bench.tell(events.WorkerExited(InstanceId("idle-1"), NoMemoryError("asked for")), 2.6)
    assert started(bench.tell(events.Tick(), 4.0)) == B


def test_models_spread_before_anything_is_measured() -> None:
    """A load that has just begun counts by the size of its file, so that the next model goes to the other device."""
    bench = Bench()
    bench.create("m", size_bytes=300)
    bench.create("n", size_bytes=300)
    assert (bench.load("m"), bench.load("n")) == (A, B)
    assert bench.why("n-1").endswith("is free, on gpu:0 700 B")


def test_a_named_device_is_kept() -> None:
    """A model that may use one device waits for it, though another one is free."""
    bench = Bench()
    bench.create("full", devices=(A,), min_instances=1)
    bench.ready("full-1", 900)
    bench.create("m", devices=(A,))
    assert started(bench.submit("t1", "m")) == A
    assert not [c for c in bench.needs("m-1", 300) if isinstance(c, commands.ProceedLoad | commands.StartWorker)]
    assert bench.why("m-1") == "the only device that it may use"


def test_a_load_that_does_not_fit_goes_on_to_the_other_device() -> None:
    """One whose need turns out to be too much for its device is started on the other, once; a task does not notice."""
    bench = Bench(first=500, second=1000)
    bench.create("big", devices=(B,), size_bytes=700)
    bench.load("big")
    bench.ready("big-1", 700)
    bench.tell(events.UnloadModel(ModelName("big"), force=False))
    bench.create("m", size_bytes=1)
    assert started(bench.submit("t1", "m")) == A
    bench.tell(events.WorkerExited(InstanceId("big-1"), NoMemoryError("asked for")))
    assert started(bench.needs("m-1", 600)) == B
    assert bench.machine.fleet.instances[InstanceId("m-1")].state is InstanceState.STOPPING
    assert "does not fit gpu:0" in bench.why("m-2")
    done = bench.needs("m-2", 1200)  # nor does it fit there
    assert not [c for c in done if isinstance(c, commands.StartWorker)]
    error = bench.machine.fleet.instances[InstanceId("m-2")].error
    assert isinstance(error, NoMemoryError)
    assert error.metadata["device"] == B
    bench.tell(events.WorkerExited(InstanceId("m-1"), NoMemoryError("asked for")))
    bench.tell(events.WorkerExited(InstanceId("m-2"), NoMemoryError("it said so")))
    assert [account.expected_bytes for account in bench.machine.broker.devices.values()] == [0, 0, 0]


def test_a_plan_says_where_a_load_goes() -> None:
    """With what a model needs on each device, a plan names the device, the reason and the figures of that device."""
    bench = Bench(first=500, second=1000)
    bench.create("m")
    needs = {A: MemoryNeed(weights_bytes=300, kv_bytes=250), B: MemoryNeed(weights_bytes=300, kv_bytes=500)}
    spec = bench.machine.views.model(ModelName("m")).spec
    plan = bench.machine.views.plan(spec, needs)
    assert (plan.device_id, plan.need.total_bytes, plan.fits) == (B, 800, True)
    assert "gpu:0 has 500 B to give at most" in plan.device_reason
    bench.tell(events.ModelMeasured(ModelName("m"), needs))
    assert bench.load("m") == B
    again = bench.machine.views.plan(spec, needs | {A: MemoryNeed(weights_bytes=400)})
    assert again.device_id == A


def test_a_lease_decides_where_its_instance_is_loaded() -> None:
    """Under a lease a model is loaded on that of its devices which the lease holds; with none of them it is refused."""
    bench = Bench()
    bench.create("m")
    for name, device_id in (("second", B), ("other", OTHER)):
        claims = (MemoryClaim(device_id=device_id, memory_bytes=500),)
        bench.tell(events.CreateLease(LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=claims, ttl_s=600.0)))
    assert bench.load("m", tenant=TENANT, lease_id=LeaseId("second")) == B
    with pytest.raises(InvalidFieldError, match="holds no memory of gpu:0 or gpu:1"):
        bench.load("m", tenant=TENANT, lease_id=LeaseId("other"))


def test_an_unknown_device_is_refused() -> None:
    """A model that may use a device that is not known is refused by that field."""
    bench = Bench()
    with pytest.raises(InvalidFieldError, match="no device 'gpu:7'") as caught:
        bench.create("m", devices=(A, DeviceId("gpu:7")))
    assert caught.value.field == "model.device"
