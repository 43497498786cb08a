"""Which devices a model may use, as hosts come and go, and which of very many a start looks at."""

import random
from typing import Any

import pytest

from inferd.core import commands, events
from inferd.core.host import LOCAL_HOST, HostBackend, HostFacts
from inferd.core.host_events import HostHolds
from inferd.core.ids import DeviceId, HostId, InstanceId, ModelName
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.placement_rules import PlacementRules, PlacementStrategy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.errors import InvalidFieldError, ModelBusyError, ModelLoadError

MODEL = ModelName("m")


class Bench:
    """A machine and what it is told of hosts and of one model at a time."""

    def __init__(self) -> None:
        self.machine = KernelMachine(CoreLimits())

    def tell(self, event: events.Event, now: float = 0.0) -> tuple[commands.Reply, ...]:
        return self.machine.handle(event, now)

    def join(
        self, host_id: str = LOCAL_HOST, *names: str, memory_bytes: int = 1000, **facts: Any
    ) -> tuple[commands.Reply, ...]:
        """A host with these devices, on all of which backend `x` works unless it is said otherwise."""
        devices = tuple(DeviceCapacity(device_id=DeviceId(n), memory_bytes=memory_bytes) for n in names or ("gpu:0",))
        told = HostFacts(**({"backends": (HostBackend(name="x", devices=names or ("gpu:0",)),)} | facts))
        return self.tell(events.HostJoined(devices, HostId(host_id), told))

    def create(self, name: str = MODEL, *, waits: bool = False, **changes: Any) -> tuple[commands.Reply, ...]:
        fields: dict[str, Any] = {
            "name": ModelName(name), "source": "/m", "path": "/m", "format": "gguf", "size_bytes": 100,
            "backend": "x", "backend_reason": "", "loader": "x:Y", "devices": (DeviceId("gpu:0"),),
        }  # fmt: skip
        return self.tell(events.CreateModel(ModelSpec(**(fields | changes)), waits=waits))

    def reach(self, name: str = MODEL) -> list[str]:
        return [*self.machine.views.reach(self.machine.views.model(ModelName(name)).spec, most=100)[0]]

    def load(self, name: str = MODEL) -> DeviceId:
        return started(self.tell(events.LoadModel(ModelName(name))))

    def come_up(self, instance_id: str, need_bytes: int) -> tuple[commands.Reply, ...]:
        facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
        found = self.tell(events.InstanceNeeds(InstanceId(instance_id), MemoryNeed(weights_bytes=need_bytes)))
        return found + self.tell(events.InstanceLoaded(InstanceId(instance_id), facts))

    def why(self, instance_id: str) -> str:
        return self.machine.fleet.instances[InstanceId(instance_id)].device_reason


def started(done: tuple[commands.Reply, ...]) -> DeviceId:
    (start,) = [command for command in done if isinstance(command, commands.StartWorker)]
    return start.device_id


SPREAD, PACK = PlacementStrategy.SPREAD, PlacementStrategy.PACK


def rules(*, strategy: PlacementStrategy = SPREAD, apart: bool = False, **selector: str) -> PlacementRules:
    return PlacementRules(selector=selector, strategy=strategy, apart=apart)


def test_a_model_uses_hosts_that_join_after_it_was_made() -> None:
    """Its devices are named as hosts call them: those of each host where its backend works, while that is known."""
    bench = Bench()
    bench.join(LOCAL_HOST, "gpu:0", "gpu:1")
    bench.create()
    assert bench.reach() == ["gpu:0"]
    bench.join("a", "gpu:0", "gpu:1", "cpu:0")
    bench.join("b", "cpu:0")
    bench.join("c", backends=(HostBackend(name="y", devices=("gpu:0",)),))
    assert bench.reach() == ["gpu:0", "a/gpu:0", "a/gpu:1"]
    bench.tell(events.HostLeft(HostId("a")))
    assert bench.reach() == ["gpu:0"]
    bench.join("c")
    assert bench.reach() == ["gpu:0", "c/gpu:0"]


def test_a_named_device_is_that_of_each_host_and_one_with_its_host_that_alone() -> None:
    """A pinned `gpu:1` is no other of its kind; `a/gpu:0` is no other at all."""
    bench = Bench()
    for host_id in ("", "a", "b"):
        bench.join(host_id, "gpu:0", "gpu:1", "gpu:2")
    bench.create("pinned", devices=(DeviceId("gpu:1"),), pinned=True)
    assert bench.reach("pinned") == ["gpu:1", "a/gpu:1", "b/gpu:1"]
    bench.create("one", devices=(DeviceId("a/gpu:0"),))
    assert bench.reach("one") == ["a/gpu:0"]


def test_a_model_without_a_host_waits_for_one() -> None:
    """One that is declared may be known before; what it keeps loaded starts with the first host that it may use."""
    bench = Bench()
    bench.join()
    bench.create(waits=True, min_instances=1, placement=rules(zone="b"))
    with pytest.raises(ModelLoadError, match="no host that is known has a label 'zone'"):
        bench.tell(events.LoadModel(MODEL))
    assert not [c for c in bench.join("a", labels={"zone": "a"}) if isinstance(c, commands.StartWorker)]
    assert started(bench.join("b", labels={"zone": "b"})) == "b/gpu:0"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"devices": (DeviceId("gpu:7"),)}, "device", "no device 'gpu:7'; did you mean 'gpu:0'?"),
        ({"devices": (DeviceId("a/gpu:7"),)}, "device", "no device 'a/gpu:7'; did you mean 'a/gpu:0'"),
        ({"backend": "y"}, "backend", "backend 'y' works on no host that is known on gpu:0"),
        (
            {"placement": rules(zone="c")},
            "placement.selector",
            "label zone=c; did you mean 'zone=b'? hosts have zone=a, ",
        ),
        ({"placement": rules(zome="a")}, "placement.selector", "a label 'zome'; did you mean 'zone'?"),
        ({"placement": rules(host="aa")}, "placement.selector", "no host is called 'aa'; did you mean 'a'?"),
        (
            {"placement": rules(zone="a", gpu="h100")},
            "placement.selector",
            "has gpu=h100 and zone=a and gpu:0 for backend",
        ),
    ],
)
def test_what_no_host_has_is_refused_with_what_is_like_it(changes: dict[str, Any], field: str, words: str) -> None:
    """The error names the field, what is missing and the nearest that there is."""
    bench = Bench()
    bench.join(LOCAL_HOST, "cpu:0")
    bench.join("a", labels={"zone": "a", "gpu": "a100"})
    bench.join("b", labels={"zone": "b", "gpu": "h100"})
    with pytest.raises(InvalidFieldError) as caught:
        bench.create(**changes)
    assert caught.value.field == f"model.{field}"
    assert words in caught.value.message


def test_a_selector_keeps_a_model_on_hosts_with_its_labels() -> None:
    """All of them at once; `host` is the id of each host, and `local` the kernel's own. Labels may change."""
    bench = Bench()
    bench.join("a", labels={"zone": "a", "gpu": "h100"})
    bench.join("b", labels={"zone": "a"})
    bench.join()
    bench.create("zone", placement=rules(zone="a"))
    bench.create("both", placement=rules(zone="a", gpu="h100"))
    bench.create("here", placement=rules(host="local"))
    assert (bench.reach("zone"), bench.reach("both"), bench.reach("here")) == (
        ["a/gpu:0", "b/gpu:0"], ["a/gpu:0"], ["gpu:0"],
    )  # fmt: skip
    bench.join("a", labels={"zone": "z"})
    assert (bench.reach("zone"), bench.reach("both")) == (["b/gpu:0"], [])


def test_instances_of_a_model_that_are_to_be_apart_share_no_host() -> None:
    """A second instance waits for another host, though the first one has a device that is free."""
    bench = Bench()
    bench.join("a", "gpu:0", "gpu:1")
    assert started(bench.create(min_instances=1, max_instances=2, placement=rules(apart=True))) == "a/gpu:0"
    bench.come_up("m-1", 100)
    bench.tell(events.DeleteModel(MODEL, force=True))
    bench.tell(events.WorkerExited(InstanceId("m-1"), ModelLoadError("asked for")))
    bench.create("n", min_instances=2, max_instances=2, placement=rules(apart=True))
    assert [*bench.machine.views.model(ModelName("n")).instances] == ["n-1"]
    assert started(bench.join("b")) == "b/gpu:0"


def test_instances_go_to_other_hosts_before_other_devices() -> None:
    """A model that spreads takes a host without one of its instances though more is free on a device beside one."""
    bench = Bench()
    bench.join("a", "gpu:0", "gpu:1", memory_bytes=1000)
    bench.join("b", memory_bytes=900)
    bench.create(min_instances=2, max_instances=2)
    assert bench.why("m-2") == "it has 0 instances on that host, on that of a/gpu:1 1"


def test_a_model_that_packs_takes_where_less_is_free() -> None:
    """As long as it fits, so that a large one finds room elsewhere; its own instances do not count."""
    bench = Bench()
    bench.join("a", memory_bytes=5000)
    bench.join("b", memory_bytes=500)
    bench.join("c", memory_bytes=90)
    bench.create(placement=rules(strategy=PACK), max_instances=2)
    assert bench.load() == "b/gpu:0"
    assert bench.why("m-1") == "500 B is free, on a/gpu:0 5.0 kB, and it packs"


def test_a_host_that_has_the_files_goes_before_one_with_more_room() -> None:
    """Of hosts that it fits alike; one that would have to evict another is no better for its files."""
    bench = Bench()
    bench.join("a", memory_bytes=5000, holds=frozenset({"other"}))
    bench.join("b", memory_bytes=1000, holds=frozenset({"digest"}))
    bench.create(file_version="digest")
    assert bench.load() == "b/gpu:0"
    assert bench.why("m-1") == "the host has its files from before, that of a/gpu:0 not"
    bench.create("large", file_version="digest", size_bytes=2000)
    assert bench.load("large") == "a/gpu:0"


def test_what_a_host_fetches_and_drops_changes_what_is_best_and_no_more() -> None:
    """It goes before others as long as it has the files; what models may use was looked up before and stays so."""
    bench = Bench()
    for n in range(40):
        bench.join(f"h{n}", memory_bytes=1000 + n, holds=frozenset({"other"}))
    bench.create(file_version="digest")
    atlas = bench.machine.broker.atlas
    generation = atlas.generation
    bench.tell(HostHolds(HostId("h3"), frozenset({"other", "digest"})))
    assert bench.load() == "h3/gpu:0"
    bench.create("n", file_version="digest")
    bench.tell(HostHolds(HostId("h3"), frozenset({"other"})))
    assert bench.load("n") == "h39/gpu:0"
    assert atlas.generation == generation
    assert [*atlas._files] == ["other"]


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"labels": {f"l{n}": "v" for n in range(33)}}, "labels"),
        ({"labels": {"a=b": "v"}}, "labels"),
        ({"labels": {"a": "x,y"}}, "labels"),
        ({"labels": {"host": "a"}}, "labels"),
        ({"version": "v" * 65}, "version"),
        ({"holds": frozenset(map(str, range(4097)))}, "holds"),
        ({"backends": tuple(HostBackend(name=str(n), devices=()) for n in range(65))}, "backends"),
    ],
)
def test_what_a_host_says_of_itself_is_bounded(facts: dict[str, Any], field: str) -> None:
    """Too many labels, or one that is none, refuse the host by that field; nothing of it is known then."""
    bench = Bench()
    with pytest.raises(InvalidFieldError) as caught:
        bench.join("a", **facts)
    assert caught.value.field == field
    assert not bench.machine.views.devices


@pytest.mark.parametrize("host_id", ["local", "a/b", "-a", "x" * 64, "a b"])
def test_a_host_has_a_name_that_stands_in_devices_and_selectors(host_id: str) -> None:
    """One with a slash, or that of the kernel's own host, is refused."""
    with pytest.raises(InvalidFieldError, match="it must be 1 to 63 letters"):
        Bench().join(host_id)


def test_of_very_many_devices_the_best_are_looked_at() -> None:
    """Loads of one model among hundreds of hosts go where most is free each time, and to no host twice."""
    bench, rng = Bench(), random.Random(1)
    sizes = {f"h{n}": rng.randint(200, 100_000) for n in range(300)}
    for host_id, memory_bytes in sizes.items():
        bench.join(host_id, memory_bytes=memory_bytes)
    bench.create(min_instances=20, max_instances=20)
    places = [i.device_id for i in bench.machine.fleet.instances.values()]
    best = sorted(sizes, key=lambda each: -sizes[each])[:20]
    assert sorted(places) == sorted(f"{host_id}/gpu:0" for host_id in best)
    bench.tell(events.DrainHost(HostId(best[0])))
    assert best[0] not in {i.device_id.split("/")[0] for i in bench.machine.fleet.instances.values() if i.living}


def test_the_one_that_fits_is_found_among_very_many() -> None:
    """Of very many full devices the one with room is taken; one that holds too little for another is left out."""
    bench = Bench()
    for n in range(100):
        bench.join(f"h{n}", memory_bytes=1000)
        bench.create(f"idle{n}", placement=rules(host=f"h{n}"), size_bytes=600)
        bench.load(f"idle{n}")
        bench.come_up(f"idle{n}-1", 600 if n != 77 else 500)
    bench.create(size_bytes=500)
    assert bench.load() == "h77/gpu:0"
    bench.create("bigger", size_bytes=900)
    assert bench.load("bigger") != "h77/gpu:0"


def test_a_lost_device_is_forgotten_by_the_atlas() -> None:
    """What hosts said is gone with the last of them: names, labels and backends of hosts that left stay nowhere."""
    bench = Bench()
    for n in range(60):
        bench.join(f"h{n}", f"gpu:{n}", labels={f"k{n}": "v"}, holds=frozenset({str(n)}))
    for n in range(60):
        bench.tell(events.HostLeft(HostId(f"h{n}")))
    atlas = bench.machine.broker.atlas
    assert not any((atlas._names, atlas._kinds, atlas._labels, atlas._backends, atlas._files, atlas._hosts, len(atlas)))
    assert not any((atlas._room._tiers, atlas._with_idle._tiers, atlas._open, bench.machine.broker._moved))
    with pytest.raises(InvalidFieldError):
        bench.create()


def test_a_model_that_no_ready_host_may_take_is_busy() -> None:
    """While the only hosts with its labels are lost or drain, a load is refused with what it waits for."""
    bench = Bench()
    bench.join("a", labels={"zone": "a"})
    bench.join("b")
    bench.create(placement=rules(zone="a"))
    bench.tell(events.DrainHost(HostId("a")))
    with pytest.raises(ModelBusyError, match="no host of gpu:0 with zone=a takes instances now"):
        bench.tell(events.LoadModel(MODEL))


def test_what_a_model_needs_is_remembered_of_some_devices() -> None:
    """Of more than 256 devices the latest are known, whatever number of hosts a model was ever loaded on."""
    bench = Bench()
    bench.join()
    bench.create()
    for n in range(300):
        bench.tell(events.ModelMeasured(MODEL, {DeviceId(f"h{n}/gpu:0"): MemoryNeed(weights_bytes=n)}))
    needs = bench.machine.views.model(MODEL).serving.needs
    assert (len(needs), needs[DeviceId("h299/gpu:0")].weights_bytes) == (256, 299)
