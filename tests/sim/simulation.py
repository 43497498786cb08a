"""The kernel machine in a world of fake workers, clients, holders of leases, a virtual clock, and seeded faults."""

import heapq
import random
from collections import Counter
from collections.abc import Callable

from clients import Clients
from holders import Holders
from hosts import FakeHosts
from mirror import Mirror
from rules import BrokenRuleError, Rule
from scale import Scale
from updates import Updates
from workers import Workers
from world import FakeModel

from inferd.core import changes, commands, events
from inferd.core.ids import DeviceId, ModelName
from inferd.core.machine import KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.plan import LoadPlan
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import SuspendReason
from inferd.errors import InferdError
from inferd.reasons import BY_REASON

MOST_STEPS = 200_000  # until all rests, once clients and faults are over
NEVER = float("inf")
APART = (
    events.DrainHost,
    events.ForeignMeasured,
    events.HostLeft,
    events.HostLost,
    events.MemoryMeasured,
    events.TaskEnded,
    events.WorkerExited,
)


def draw_need(device: DeviceCapacity, first: DeviceCapacity, share: float, pool_share: float, rest: int) -> MemoryNeed:
    """What a model needs on a device: weights as on its first one, and a pool of KV blocks that follows its size."""
    weights, pool = int(first.memory_bytes * share), int(device.memory_bytes * share * pool_share)
    return MemoryNeed(weights_bytes=weights // 2, kv_bytes=pool // 3, workspace_bytes=rest)


class Simulation:
    """One run. It stops at the first rule that does not hold. See `World`."""

    def __init__(self, seed: int, *, tasks: int, leases: int) -> None:
        self.random = random.Random(seed)
        self.scale = Scale.draw(self.random, seed=seed, tasks=tasks, leases=leases)
        self.machine = KernelMachine(self.scale.limits)
        self.mirror = Mirror(self.machine, self.scale.limits)
        self.devices: list[DeviceCapacity] = []
        self.models: dict[ModelName, FakeModel] = {}
        self.fakes: dict[str, FakeModel] = {}  # of other versions than the first, by their sources
        self.now = 0.0
        self.quiet = False
        self.events = 0
        self.seen = Counter[str]()
        self.refusals = Counter[str]()
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._still = 0
        self._draw_devices()
        self._draw_models()
        self._workers = Workers(self)
        self._hosts = FakeHosts(self)
        self._clients = Clients(self)
        self._holders = Holders(self, self._clients)
        self._updates = Updates(self)

    def run(self) -> "Simulation":
        """Let clients come until all are there, let what they began end, shut down, and see that nothing is left."""
        self._begin()
        while self._clients.left or self._holders.left:
            self._step()
        self.quiet = True
        self._hosts.restore()
        if self.random.random() < 0.7:
            self._drain()
            self.mirror.check_served()
        self.tell(events.Shutdown())
        self._drain()
        self.mirror.check_over(self.now)
        return self

    def run_first(self, count: int) -> None:
        """Let the first `count` events of a run happen, and no more: it is not seen how it ends."""
        self._begin()
        while self.events < count and (self._clients.left or self._holders.left):
            self._step()

    def later(self, mean_s: float, action: Callable[[], object]) -> None:
        """Have something happen after a random time, `mean_s` in the mean."""
        heapq.heappush(self._agenda, (self.now + self.random.expovariate(1 / mean_s), self.number(), action))

    def fake_of(self, spec: ModelSpec) -> FakeModel:
        """What the workers of a version tell of it."""
        return self.fakes.get(spec.source, self.models[spec.name])

    def number(self) -> int:
        """A new number."""
        self._count += 1
        return self._count

    def tell(self, event: events.Event) -> bool:
        """Tell the machine of an event and do what it asks for; whether it was accepted. Then all rules must hold.

        What is due comes before the event, but the mirror books the event first, and asks only after it who drains.
        Where that matters, as what is due could be given what the event takes away, the two are told apart.
        """
        alarm = self.machine.next_alarm()
        if isinstance(event, APART) and alarm is not None and alarm <= self.now:
            self.tell(events.Tick())
        self.events += 1
        try:
            done = self._handle(event)
        except InferdError as error:
            if BY_REASON.get(error.reason) is not type(error):
                raise BrokenRuleError(Rule.REFUSAL, f"{event} was refused for {error.reason}") from error
            self.refusals[error.reason] += 1
            event, accepted = events.Tick(), False  # what was due has happened all the same
            done = self.machine.handle(event, self.now)
        else:
            accepted = True
        self.mirror.learn(event, self.now, done)
        for command in done:
            self.mirror.obey(command, self.now)
            for inhabitant in (self._clients.told, self._holders.told, self._workers.obey):
                inhabitant(command)
            self.seen[type(command).__name__] += 1
            self.seen["moved load"] += isinstance(command, commands.StartWorker) and bool(self._tried(command))
            self.seen["preemption"] += (
                isinstance(command, changes.TaskChanged) and command.reason is SuspendReason.PREEMPTED
            )
        self.mirror.settle(event, self.now)
        self.mirror.check(self.now)
        return accepted

    def _tried(self, command: commands.StartWorker) -> tuple[DeviceId, ...]:
        instance = self.machine.fleet.instances.get(command.instance_id)
        return () if instance is None else instance.tried

    def _handle(self, event: events.Event) -> tuple[commands.Reply, ...]:
        if isinstance(event, events.LoadModel):
            plan, done = self._plan(event), self.machine.handle(event, self.now)
            if plan is not None:
                self.mirror.check_placement(event.name, plan, done)
            return done
        if not isinstance(event, events.InstanceNeeds) or not self._is_first(event):
            return self.machine.handle(event, self.now)
        place = self.mirror.tasks.places[event.instance_id]
        plan = self.machine.broker.plan(place.device_id, event.need)
        done = self.machine.handle(event, self.now)
        self.mirror.check_plan(plan, place, done)
        self.seen["plan with evictions"] += plan.fits and bool(plan.evicted)
        return done

    def _is_first(self, event: events.InstanceNeeds) -> bool:
        """Whether nobody waits for memory where an instance needs it, and nothing else is due."""
        place, alarm = self.mirror.tasks.places.get(event.instance_id), self.machine.next_alarm()
        if place is not None and place.version != self.mirror.versions.serving[place.model]:
            return False
        if place is None or place.lease_id or place.stopping or (alarm is not None and alarm <= self.now):
            return False
        return f"memory {place.device_id}" not in self.mirror.leases.waiting

    # The clock.

    def _drain(self) -> None:
        """Let what began end."""
        for _ in range(MOST_STEPS):
            if not self._step():
                return
        raise BrokenRuleError(Rule.ONE_END, f"after {MOST_STEPS} events without clients and faults there is no rest")

    def _step(self) -> bool:
        """Let the next thing happen; False when nothing is left."""
        alarm, first = self.machine.next_alarm() or NEVER, self._agenda[0][0] if self._agenda else NEVER
        if min(alarm, first) == NEVER:
            return False
        self._turn_clock(min(alarm, first))
        if self._agenda and first <= max(alarm, self.now - 0.25):  # what is due may be noticed late
            heapq.heappop(self._agenda)[2]()
        elif alarm > self.now:  # the clock stands still: nothing is due
            self._still = 0
        else:
            self.tell(events.Tick())
        return True

    def _turn_clock(self, at: float) -> None:
        roll = self.random.random() if self.scale.oddities else 1.0
        if self._still > 0:
            self._still -= 1
            return
        self.now = max(self.now, at)
        if roll < 0.002:
            self.now += self.random.expovariate(1 / 3.0)
            self.seen["clock jumps"] += 1
        elif roll < 0.01:
            self._still = self.random.randint(1, 30)
            self.seen["clock stands still"] += 1

    # The world.

    def _draw_devices(self) -> None:
        for n in range(self.scale.hosts):
            memory_bytes, cores = self.random.choice([100, 400, 1000]), self.random.choice([2, 8, 64])
            device_id = DeviceId(f"h{n}/cpu:0")
            self.devices.append(DeviceCapacity(device_id=device_id, memory_bytes=memory_bytes, cores=cores))

    def _draw_models(self) -> None:
        rng = self.random
        for n in range(self.scale.models):
            shared = self.devices[:8]
            devices = rng.sample(shared, min(len(shared), rng.choice([1, 2, 3])))
            share, rest = rng.uniform(0.1, 0.45), rng.randint(0, 5)
            pools = [rng.choice([0.3, 1.0, 2.0]) for _ in devices]
            needs = {d.device_id: draw_need(d, devices[0], share, p, rest) for d, p in zip(devices, pools, strict=True)}
            if n and rng.random() < 0.05:
                needs |= {d.device_id: MemoryNeed(weights_bytes=d.memory_bytes + 1) for d in devices}
            facts = InstanceFacts(
                max_tasks=rng.randint(1, 8), context_tokens=64, description="", memory_bytes=1, kv_tokens=1024
            )
            self.models[ModelName(f"m{n}")] = FakeModel(needs, facts)

    def _plan(self, event: events.LoadModel) -> LoadPlan | None:
        """What is said before a model is loaded, once all that it needs is known; None where other things are due."""
        model, alarm = self.machine.fleet.models[event.name], self.machine.next_alarm()
        if model.shared or event.lease_id or (alarm is not None and alarm <= self.now):
            return None
        return self.machine.views.plan(model.spec, self.fake_of(model.spec).needs)

    def _begin(self) -> None:
        """The first hosts are found, the others soon; models are made known, and clients come."""
        lasts_s = self._holders.left / self._holders.rate
        self._hosts.begin(lasts_s=lasts_s)
        floor = int(self.random.random() < 0.3)  # the first model then keeps an instance
        for n, (name, model) in enumerate(self.models.items()):
            spec = ModelSpec(
                name=name,
                source=f"file:///{name}",
                path=f"/{name}",
                format="fake",
                size_bytes=1,
                backend="fake",
                backend_reason="only",
                loader="x:Y",
                devices=tuple(model.needs),
                min_instances=0 if n else floor,
                max_instances=self.random.randint(1, 3),
            )
            self.tell(events.CreateModel(spec))
        self._clients.begin(lasts_s=lasts_s)
        self._updates.begin()
        self.later(0.1, self._clients.submit_next)
        self.later(0.1, self._holders.claim_next)
        self.later(1.0, lambda: self._clients.operate(self._workers))
