"""The kernel machine in a world of a virtual clock, fake workers, clients, holders of leases, and faults from a seed."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from holders import Holder
from mirror import Mirror
from rules import BrokenRuleError, Rule

from inferd.core import commands, events
from inferd.core.elastic import ElasticTimes
from inferd.core.fleet import Backoff
from inferd.core.ids import DeviceId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseState
from inferd.core.leases import LeaseLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.priority import Priority
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, Sampling, TaskSpec, TaskState, TextInput, Usage
from inferd.core.tasks import TaskLimits
from inferd.errors import BY_REASON, InferdError, ModelLoadError, WorkerDiedError

TENANTS = [Tenant(name) for name in "abcd"]
MOST_STEPS = 200_000
WEIGHTS = {TENANTS[1]: 3.0, TENANTS[2]: 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much a run does, and what it drew from its seed.

    Attributes:
        tasks: So many are submitted.
        leases: So many are created.
        hosts: Devices; the models share the first few.
        load: Tasks that arrive, over what all first instances can serve.
        crashes: Whether workers die by themselves.
        oddities: Whether the clock stands still and jumps, and frames come late.
    """

    tasks: int
    leases: int
    hosts: int
    models: int
    load: float
    crashes: bool
    oddities: bool
    tenant_running: int

    @classmethod
    def draw(cls, rng: random.Random, *, tasks: int, leases: int) -> "Scale":
        """A scale from a seed."""
        return cls(
            tasks=tasks,
            leases=leases,
            hosts=rng.choice([1, 2, 8, 64, 300]),
            models=rng.choice([1, 3, 8, 20]),
            load=rng.uniform(0.3, 1.5),
            crashes=rng.random() < 0.5,
            oddities=rng.random() < 0.7,
            tenant_running=rng.choice([2, 1000, 1000, 1000]),
        )

    def limits(self, rng: random.Random) -> CoreLimits:
        """Bounds of the machine; some are small, so that they are met."""
        policy = QueuePolicy(aging_s=rng.choice([0.5, 5.0]), weights=WEIGHTS, tenant_running=self.tenant_running)
        return CoreLimits(
            tasks=TaskLimits(
                queued_tasks=rng.choice([20, 400]),
                retained_tasks=rng.choice([10, 200]),
                retention_s=rng.choice([2.0, 20.0]),
                tenant_queued=rng.choice([10, 400]),
                model_queued=rng.choice([15, 400]),
                model_running=rng.choice([4, 1000]),
                preempt=rng.random() < 0.8,
                headroom=rng.choice([0.0, 0.0, 1 / 16]),
                policy=policy,
            ),
            leases=LeaseLimits(
                min_ttl_s=0.5, max_ttl_s=60.0, default_ttl_s=3.0, aging_s=rng.choice([1.0, 10.0]), leases=500, retained=50
            ),
            elastic=ElasticTimes(grow_s=rng.choice([0.2, 2.0]), shrink_s=rng.choice([0.5, 5.0])),
            models=self.models,
            backoff=Backoff(first_s=0.2, most_s=2.0),
        )


@dataclass(slots=True)
class FakeWorker:
    """A worker: frames in order, then one exit. `tasks` it computes, each with its attempt and a mark of its turn."""

    spec: ModelSpec
    alive: bool = True
    proceeds: bool = False
    tasks: dict[TaskId, tuple[int, int]] = field(default_factory=dict)


class Simulation:
    """One run. It stops at the first rule that does not hold."""

    def __init__(self, seed: int, *, tasks: int = 300, leases: int = 300) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.scale = Scale.draw(self.random, tasks=tasks, leases=leases)
        limits = self.scale.limits(self.random)
        self.machine = KernelMachine(limits)
        self.mirror = Mirror(self.machine, limits)
        self.now = 0.0
        self.events = 0
        self.refusals: Counter[str] = Counter()
        self.granted: dict[LeaseId, Holder] = {}
        self.homes: dict[DeviceId, list[ModelName]] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._still = 0
        self._quiet = False
        self._workers: dict[InstanceId, FakeWorker] = {}
        self._models: dict[ModelName, tuple[MemoryNeed, InstanceFacts]] = {}
        self._left = {"tasks": tasks, "leases": leases}
        self._build()

    # The world.

    def _build(self) -> None:
        rng, scale = self.random, self.scale
        self.devices = [
            DeviceCapacity(
                device_id=DeviceId(f"h{n}/cpu:0"), memory_bytes=rng.choice([100, 400, 1000]), cores=rng.choice([2, 8, 64])
            )
            for n in range(scale.hosts)
        ]
        late = rng.randint(0, scale.hosts - 1)
        self.tell(events.DevicesFound(tuple(self.devices[: late + 1])))
        self.later(2.0, lambda: self.tell(events.DevicesFound(tuple(self.devices))))
        known = self.devices[: min(8, late + 1)]
        floors = rng.random() < 0.3
        for n in range(scale.models):
            device = rng.choice(known)
            size = int(device.memory_bytes * rng.uniform(0.1, 0.45))
            need = MemoryNeed(weights_bytes=size // 2, kv_bytes=size // 3, workspace_bytes=rng.randint(0, 5))
            if n and rng.random() < 0.05:
                need = MemoryNeed(weights_bytes=device.memory_bytes + 1)
            facts = InstanceFacts(
                max_tasks=rng.randint(1, 8), context_tokens=64, description="", memory_bytes=1, kv_tokens=1024
            )
            name = ModelName(f"m{n}")
            self._models[name] = (need, facts)
            self.homes.setdefault(device.device_id, []).append(name)
            self.tell(events.CreateModel(self._spec(name, device.device_id, floor=int(floors and n == 0))))
        places = sum(facts.max_tasks for _, facts in self._models.values())
        self._task_rate = places * scale.load
        self._lease_rate = max(2.0, self._task_rate * scale.leases / max(1, scale.tasks))
        self.later(0.0, self._submit_next)
        self.later(0.0, self._claim_next)
        self.later(1.0, self._operate)

    def _spec(self, name: ModelName, device_id: DeviceId, *, floor: int) -> ModelSpec:
        return ModelSpec(
            name=name,
            source=f"file:///{name}",
            path=f"/{name}",
            format="fake",
            size_bytes=1,
            backend="fake",
            backend_reason="only",
            loader="x:Y",
            device=device_id,
            min_instances=floor,
            max_instances=max(floor, self.random.randint(1, 3)),
        )

    def later(self, mean_s: float, action: Callable[[], None]) -> None:
        """Have something happen after a random time, `mean_s` in the mean."""
        self._count += 1
        wait_s = self.random.expovariate(1 / mean_s) if mean_s else 0.0
        heapq.heappush(self._agenda, (self.now + wait_s, self._count, action))

    def run(self) -> "Simulation":
        """Let clients come until all are there, let what they began end, shut down, and see that nothing is left."""
        while self._left["tasks"] or self._left["leases"]:
            self.step()
        self._quiet = True
        if self.random.random() < 0.7:
            self._drain()
            self.mirror.check_served()
        self.tell(events.Shutdown())
        self._drain()
        self.mirror.check_over()
        return self

    def _drain(self) -> None:
        """Let what began end."""
        for _ in range(MOST_STEPS):
            if not self.step():
                return
        raise BrokenRuleError(Rule.ONE_END, f"after {MOST_STEPS} events without clients and faults there is no rest")

    def step(self) -> bool:
        """Let the next thing happen; False when nothing is left."""
        alarm = self.machine.next_alarm()
        at = min(self._agenda[0][0] if self._agenda else float("inf"), float("inf") if alarm is None else alarm)
        if at == float("inf"):
            return False
        self._turn_clock(at)
        if self._agenda and (alarm is None or self._agenda[0][0] <= max(alarm, self.now - 0.25)):
            heapq.heappop(self._agenda)[2]()
        elif alarm is not None and alarm > self.now:  # the clock stands still: nothing is due
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
        elif roll < 0.01:
            self._still = self.random.randint(1, 30)

    def tell(self, event: events.Event) -> bool:
        """Tell the machine of an event and do what it asks for; whether the event was accepted."""
        self.events += 1
        try:
            done, accepted = self._handle(event), True
        except InferdError as error:
            if BY_REASON.get(error.reason) is not type(error):
                raise BrokenRuleError(Rule.REFUSAL, f"{event} was refused for {error.reason}") from error
            self.refusals[error.reason] += 1
            done, accepted = self.machine.handle(events.Tick(), self.now), False
            event = events.Tick()
        self.mirror.learn(event, self.now)
        for command in done:
            self.mirror.obey(command, self.now)
            self._obey(command)
        self.mirror.settle(event)
        self.mirror.check(self.now)
        return accepted

    def _handle(self, event: events.Event) -> tuple[commands.Command, ...]:
        if isinstance(event, events.InstanceNeeds):
            alarm = self.machine.next_alarm()
            place = self.mirror.tasks.places.get(event.instance_id)
            alone = place is not None and f"memory {place.device_id}" not in self.mirror.leases.waiting
            if place is not None and alone and not place.lease_id and not place.stopping and alarm is not None:
                if alarm > self.now:
                    plan = self.machine.plan(place.device_id, event.need)
                    done = self.machine.handle(event, self.now)
                    self.mirror.check_plan(plan, place, done)
                    return done
        return self.machine.handle(event, self.now)

    # Workers.

    def _obey(self, command: commands.Command) -> None:
        match command:
            case commands.StartWorker(instance_id=name):
                self._workers[name] = FakeWorker(command.spec)
                self.later(0.05, lambda: self._measure(name))
            case commands.StopWorker(instance_id=name):
                self.later(0.1, lambda: self.exit(name))
            case commands.ProceedLoad(instance_id=name):
                self._workers[name].proceeds = True
                self.later(0.2, lambda: self._load(name))
            case commands.SendTask(instance_id=name):
                self._compute(name, command.spec.task_id, command.attempt)
            case commands.ContinueTask(instance_id=name):
                self._compute(name, command.task_id, self.mirror.tasks.known[command.task_id].attempts)
            case commands.PauseTask(instance_id=name) if name is not None:
                self._forget(name, command.task_id)
                if command.by_client:
                    self._resume_later(command.task_id)
            case commands.PauseTask():
                self._resume_later(command.task_id)
            case commands.DropTask(instance_id=name):
                self._forget(name, command.task_id)
            case commands.TellLease() if (holder := self.granted.get(command.lease_id)) is not None:
                holder.told()
            case _:
                pass

    def _forget(self, name: InstanceId, task_id: TaskId) -> None:
        """A worker stops a task, unless its end is on its way already: that then arrives late."""
        if not self.scale.oddities or self.random.random() < 0.9:
            self._workers[name].tasks.pop(task_id, None)

    def _resume_later(self, task_id: TaskId) -> None:
        tenant = self.mirror.tasks.known[task_id].spec.tenant
        self.later(0.5, lambda: self.tell(events.ResumeTask(task_id, tenant)) and None)

    def _speaks(self, worker: FakeWorker) -> bool:
        """Whether a frame of a worker arrives; one of a worker that is gone may come late."""
        return worker.alive or (self.scale.oddities and self.random.random() < 0.2)

    def _measure(self, name: InstanceId) -> None:
        worker = self._workers.get(name)
        if worker is not None and self._speaks(worker):
            self.tell(events.InstanceNeeds(name, self._models[worker.spec.name][0]))

    def _load(self, name: InstanceId) -> None:
        worker = self._workers.get(name)
        if worker is None or not self._speaks(worker):
            return
        if self.random.random() < 0.03 and not self._quiet:
            self.tell(events.InstanceRefused(name, ModelLoadError("truncated")))
            self.later(0.1, lambda: self.exit(name))
            return
        need, facts = self._models[worker.spec.name]
        self.tell(events.InstanceLoaded(name, facts))
        if self.random.random() < 0.5:
            more = self.random.randint(0, need.total_bytes // 4)
            self.later(0.3, lambda: self._measured(name, need.total_bytes + more))
        if self.scale.crashes:
            self.later(30.0, lambda: None if self._quiet else self.exit(name))

    def _measured(self, name: InstanceId, memory_bytes: int) -> None:
        worker = self._workers.get(name)
        if worker is not None and self._speaks(worker):
            self.tell(events.MemoryMeasured(name, memory_bytes))

    def _compute(self, name: InstanceId, task_id: TaskId, attempt: int) -> None:
        self._count += 1
        turn = self._count
        self._workers[name].tasks[task_id] = (attempt, turn)
        self.later(1.0, lambda: self._end(name, task_id, attempt, turn))

    def _end(self, name: InstanceId, task_id: TaskId, attempt: int, turn: int) -> None:
        worker = self._workers.get(name)
        late = worker is None or not worker.alive
        if late and self.random.random() < 0.5:
            return  # its last word was lost; else it arrives after its worker's end
        if not late and worker is not None and worker.tasks.get(task_id) != (attempt, turn):
            return
        if worker is not None:
            worker.tasks.pop(task_id, None)
        usage = Usage(prompt_tokens=self.random.randint(1, 50), output_tokens=self.random.randint(1, 50))
        outcome = Outcome(state=TaskState.SUCCEEDED, usage=usage)
        if self.random.random() < 0.05:
            outcome = Outcome(state=TaskState.FAILED, error=ModelLoadError("step"), usage=usage)
        self.tell(events.TaskEnded(task_id, attempt, outcome))

    def exit(self, name: InstanceId) -> None:
        """A worker ends, asked for or not."""
        worker = self._workers.get(name)
        if worker is not None and worker.alive:
            worker.alive = False
            self.tell(events.WorkerExited(name, WorkerDiedError("killed")))
            self.later(3.0, lambda: self._workers.pop(name, None) and None)

    # Clients.

    def _submit_next(self) -> None:
        if self._left["tasks"]:
            self.submit(self.random.choice([*self._models]), self.random.choice(TENANTS))
            self.later(1 / self._task_rate, self._submit_next)

    def submit(self, model: ModelName, tenant: Tenant, lease_id: LeaseId = LeaseId("")) -> None:
        """A client submits a task, and may cancel or suspend it."""
        rng = self.random
        self._count += 1
        self._left["tasks"] = max(0, self._left["tasks"] - 1)
        task_id = TaskId(f"t{self._count}")
        roll = rng.random()
        spec = TaskSpec(
            task_id=task_id,
            tenant=tenant,
            model=model if rng.random() < 0.999 else ModelName("m"),
            input=TextInput("x" * rng.randint(0, 200)),
            sampling=Sampling(max_tokens=rng.choice([None, 10, 50])),
            deadline=self.now + rng.uniform(-0.1, 4.0) if rng.random() < 0.2 else None,
            priority=rng.choices([Priority.LOW, Priority.NORMAL, Priority.HIGH], [3, 5, 2])[0],
            lease_id=lease_id,
            request_id=f"r{rng.randrange(50)}" if rng.random() < 0.05 else "",
        )
        try:
            if self.machine.tasks.known_request(spec) is not None:
                return
        except InferdError as error:
            self.refusals[error.reason] += 1
            return
        if not self.tell(events.SubmitTask(spec)):
            return
        if roll < 0.08:
            self.later(1.0, lambda: self.tell(events.CancelTask(task_id, tenant)) and None)
        elif roll < 0.14:
            self.later(1.0, lambda: self.tell(events.SuspendTask(task_id, tenant)) and None)

    def _claim_next(self) -> None:
        if self._left["leases"]:
            self._left["leases"] -= 1
            self._count += 1
            Holder(self, LeaseId(f"l{self._count}"), self.random.choice(TENANTS)).claim([*self._models.items()])
            self.later(1 / self._lease_rate, self._claim_next)

    def holds(self, lease_id: LeaseId) -> LeaseState | None:
        """How a lease stands, as its holder sees it."""
        held = self.mirror.leases.known.get(lease_id)
        return None if held is None else held.state

    # The host.

    def _operate(self) -> None:
        """Someone loads and unloads models, and other programs take memory."""
        rng, roll = self.random, self.random.random()
        name = rng.choice([*self._models])
        if roll < 0.2:
            self.tell(events.LoadModel(name))
        elif roll < 0.4:
            self.tell(events.UnloadModel(name, force=rng.random() < 0.5))
        elif roll < 0.8:
            device = self.devices[rng.randrange(len(self.mirror.devices.devices))]
            share = rng.choice([0.0, 0.0, 0.2, 0.6])
            self.tell(events.ForeignMeasured(device.device_id, int(device.memory_bytes * share)))
        elif roll < 0.85 and self.scale.crashes and self._workers:
            self.exit(rng.choice([*self._workers]))
        if self._left["tasks"] or self._left["leases"]:
            self.later(0.5, self._operate)
        else:
            for device in self.devices:
                self.tell(events.ForeignMeasured(device.device_id, 0))
