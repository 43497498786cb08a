"""What a placement costs among ten thousand hosts: `core.place`; and what one more of these does: `core.join`."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from limits import Figure

from inferd.core import commands, events
from inferd.core.host import HostBackend, HostFacts
from inferd.core.ids import NO_LEASE, DeviceId, HostId, LeaseId, ModelName, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.leases import LeaseLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.placement_rules import PlacementRules, PlacementStrategy
from inferd.core.resources import DeviceCapacity, MemoryNeed

HOSTS = 10_000
MODELS = 200
STARTS = 2_000  # that are counted
GIB = 1 << 30
ZONES, GPUS = [f"z{n}" for n in range(20)], ("a100", "h100", "l40")
FACTS = InstanceFacts(max_tasks=8, context_tokens=4096, description="", memory_bytes=1)


def figures(*, only: str) -> Iterator[Figure]:
    """`core.place` and `core.join`, in microseconds of processor time."""
    if not ("core.place".startswith(only) or only.startswith(("core.place", "core.join"))):
        return
    fewer, fleet = Fleet(50), Fleet(HOSTS)
    few_us, many_us = fewer.measure_us(), fleet.measure_us()
    most_us = sorted(many_us)[-max(1, len(many_us) // 1000)]
    mean_us, few_mean_us = sum(many_us) / len(many_us), sum(few_us) / len(few_us)
    detail = (
        f"{HOSTS} hosts of 4 devices, {MODELS} models with and without selectors, loads and leases; 99.9 % within"
        f" {most_us:.0f} us; with 50 hosts {few_mean_us:.0f} us"
    )
    yield Figure(name="core.place", value=round(mean_us, 1), unit="us", detail=detail)
    joined = f"the mean of {HOSTS} hosts, each with 4 devices, 3 labels and 2 backends, beside {MODELS} models"
    yield Figure(name="core.join", value=round(fleet.join_us, 1), unit="us", detail=joined)


@dataclass(slots=True)
class Fleet:
    """A machine with hosts on which models are loaded and leases held, as they are placed."""

    hosts: int
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    machine: KernelMachine = field(init=False)
    join_us: float = 0.0
    now: float = 0.0

    def measure_us(self) -> list[float]:
        """The processor time of each start."""
        self._fill()
        return [self._start() for _ in range(STARTS + STARTS // 10)][STARTS // 10 :]

    def _fill(self) -> None:
        self.machine = KernelMachine(CoreLimits(leases=LeaseLimits(leases=self.hosts), models=MODELS))
        for number in range(MODELS):
            self.machine.handle(events.CreateModel(self._model(number), waits=True), self.now)
        began = time.thread_time()
        for number in range(self.hosts):
            self._join(number)
        self.join_us = (time.thread_time() - began) / self.hosts * 1e6
        for number in range(self.hosts // 2):
            device_id = DeviceId(f"h{self.rng.randrange(self.hosts)}/cuda:{self.rng.randrange(4)}")
            claims = (MemoryClaim(device_id=device_id, memory_bytes=self.rng.randrange(1, 8 * GIB)),)
            spec = LeaseSpec(lease_id=LeaseId(f"l{number}"), tenant=Tenant("t"), claims=claims, ttl_s=3600.0, wait=True)
            self.machine.handle(events.CreateLease(spec), self.now)

    def _join(self, number: int) -> None:
        size = self.rng.choice([24, 48, 80, 141]) * GIB
        names = [f"cuda:{n}" for n in range(4)]
        facts = HostFacts(
            labels={"zone": self.rng.choice(ZONES), "gpu": self.rng.choice(GPUS), "rack": f"r{number // 16}"},
            backends=(HostBackend(name="torch", devices=tuple(names)), HostBackend(name="onnx", devices=tuple(names))),
            holds=frozenset(f"v{self.rng.randrange(MODELS)}" for _ in range(8)),
        )
        devices = tuple(DeviceCapacity(device_id=DeviceId(name), memory_bytes=size) for name in names)
        self.machine.handle(events.HostJoined(devices, HostId(f"h{number}"), facts), self.now)

    def _model(self, number: int) -> ModelSpec:
        selector = [{}, {"zone": self.rng.choice(ZONES)}, {"gpu": "h100"}, {"zone": "z3", "gpu": "a100"}][number % 4]
        strategy = PlacementStrategy.PACK if number % 8 == 5 else PlacementStrategy.SPREAD
        return ModelSpec(
            name=ModelName(f"m{number}"), source="", path="", format="fake", size_bytes=self.rng.randrange(1, 40) * GIB,
            backend="torch", backend_reason="", loader="", devices=(DeviceId("cuda:0"),), max_instances=64,
            file_version=f"v{number}", placement=PlacementRules(selector=selector, strategy=strategy),
        )  # fmt: skip

    def _start(self) -> float:
        """Decide where one more instance of a model goes, and start it there; what the decision took."""
        self.now += 0.01
        model = self.machine.fleet.models[ModelName(f"m{self.rng.randrange(MODELS)}")]
        may = self.machine.broker.atlas.may(model.spec)
        if len(model.instances) >= model.spec.max_instances or not may:  # of few hosts none may have its labels
            return self._start()
        siting, began = self.machine.fleet.siting, time.thread_time()
        siting.place(model, model.need_on, devices=siting.devices_under(model, NO_LEASE))
        took_us = (time.thread_time() - began) * 1e6
        self.machine.fleet.start(model, self.now)
        done = self.machine.handle(events.Tick(), self.now)
        (start,) = (command for command in done if isinstance(command, commands.StartWorker))
        need = MemoryNeed(weights_bytes=model.spec.size_bytes, kv_bytes=2 * GIB)
        for command in self.machine.handle(events.InstanceNeeds(start.instance_id, need), self.now):
            if isinstance(command, commands.ProceedLoad):
                self.machine.handle(events.InstanceLoaded(command.instance_id, FACTS), self.now)
        return took_us
