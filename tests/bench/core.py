"""What a decision costs: `core.handle`, the mean processor time of `handle(event)` with a full house; its growth."""

import gc
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from limits import Figure

from inferd.core import commands, events
from inferd.core.demand import Demand
from inferd.core.ids import DeviceId, HostId, InstanceId, LeaseId, ModelName, TaskId, Tenant
from inferd.core.lease import LeaseSpec, MemoryClaim
from inferd.core.leases import LeaseLimits
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.priority import Priority
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState, Usage

TASKS = 1_000_000
FEWER_TASKS = 10_000
LEASES = 10_000
HOSTS = 1_000
MODELS = 100
PLACES = 16  # of each model
TENANTS = 50
ROUNDS = 4_000  # of seven events
LEAST_ROUNDS = 400  # at the beginning, not counted
MEMORY_BYTES = 1 << 30
DONE = Outcome(state=TaskState.SUCCEEDED, usage=Usage(prompt_tokens=20, output_tokens=20))
DEMAND = Demand(prompt_tokens=20, most_output=100, memory_bytes=500, affinity=b"x")
WORK = object()


def figures(*, only: str) -> Iterator[Figure]:
    """`core.handle` and `core.handle.growth`."""
    if not ("core.handle".startswith(only) or only.startswith("core.handle")):
        return
    fewer_us = House(FEWER_TASKS).measure_us()
    full_us = House(TASKS).measure_us()
    detail = f"{TASKS} queued tasks, {LEASES} leases, {HOSTS} hosts, {MODELS} models, {TENANTS} tenants"
    yield Figure(name="core.handle", value=round(full_us, 1), unit="us", detail=detail)
    grown = f"{full_us:.1f} us against {fewer_us:.1f} us with {FEWER_TASKS} queued tasks"
    yield Figure(name="core.handle.growth", value=round(full_us / fewer_us, 2), unit="x", detail=grown)


@dataclass(slots=True)
class House:
    """A machine with so many queued tasks, and the leases and hosts of the figure."""

    tasks: int
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    machine: KernelMachine = field(init=False)
    running: deque[tuple[TaskId, int]] = field(default_factory=deque)
    leases: deque[LeaseId] = field(default_factory=deque)
    queued: list[TaskId] = field(default_factory=list)
    count: int = 0
    now: float = 0.0
    spent_s: float = 0.0

    def measure_us(self) -> float:
        """The mean time of an event, in microseconds."""
        self._fill()
        gc.collect()
        for n in range(ROUNDS):
            if n == LEAST_ROUNDS:
                self.spent_s = 0.0
            self._round()
        return self.spent_s / (ROUNDS - LEAST_ROUNDS) / 7 * 1e6

    def _fill(self) -> None:
        many = 2 * TASKS
        policy = QueuePolicy(aging_s=10.0, weights={Tenant("t0"): 3.0}, tenant_running=many)
        limits = TaskLimits(
            tasks=2 * many, queued_tasks=many, tenant_queued=many, model_queued=many, input_bytes=1 << 40, policy=policy
        )
        self.machine = KernelMachine(CoreLimits(tasks=limits, leases=LeaseLimits(leases=2 * LEASES), models=MODELS))
        device = DeviceCapacity(device_id=DeviceId("cpu:0"), memory_bytes=MEMORY_BYTES, cores=64)
        for n in range(HOSTS):
            self.tell(events.HostJoined((device,), HostId(f"h{n}")))
        facts = InstanceFacts(max_tasks=PLACES, context_tokens=4096, description="", memory_bytes=1, kv_tokens=65536)
        for n in range(MODELS):
            self.tell(events.CreateModel(model_spec(n)))
            self.tell(events.LoadModel(ModelName(f"m{n}")))
            instance_id = InstanceId(f"m{n}-1")
            self.tell(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=MEMORY_BYTES // 2)))
            self.tell(events.InstanceLoaded(instance_id, facts))
        for _ in range(LEASES):
            self._lease()
        for _ in range(self.tasks + MODELS * PLACES):
            self._submit()

    def _round(self) -> None:
        """Each kind of event that a busy kernel meets."""
        self.now += 0.001
        task_id, attempt = self.running.popleft()
        self.tell(events.TaskEnded(task_id, attempt, DONE))
        self._submit()
        self._submit()
        place = self.rng.randrange(len(self.queued))
        self.queued[place], self.queued[-1] = self.queued[-1], self.queued[place]
        cancelled = self.queued.pop()
        task = self.machine.tasks.known.get(cancelled)
        if task is not None and task.state is TaskState.QUEUED:
            self.tell(events.CancelTask(cancelled, task.spec.tenant))
        else:
            self.tell(events.Tick())
        self.tell(events.KeepAlive(self.leases[-1], Tenant("t1")))
        self.tell(events.ReleaseLease(self.leases.popleft(), Tenant("t1")))
        self._lease()

    def _submit(self) -> None:
        self.count += 1
        spec = TaskSpec(
            task_id=TaskId(f"task-{self.count}"),
            tenant=Tenant(f"t{self.rng.randrange(TENANTS)}"),
            model=ModelName(f"m{self.rng.randrange(MODELS)}"),
            demand=DEMAND,
            work=WORK,
            deadline=self.now + self.rng.uniform(1e4, 1e5),
            priority=self.rng.choice([*Priority]),
        )
        self.queued.append(spec.task_id)
        self.tell(events.SubmitTask(spec))

    def _lease(self) -> None:
        self.count += 1
        lease_id = LeaseId(f"lease-{self.count}")
        device_id = DeviceId(f"h{self.rng.randrange(HOSTS)}/cpu:0")
        claims = (MemoryClaim(device_id=device_id, memory_bytes=self.rng.randrange(MEMORY_BYTES // 100)),)
        spec = LeaseSpec(lease_id=lease_id, tenant=Tenant("t1"), claims=claims, ttl_s=3600.0, wait=True)
        self.leases.append(lease_id)
        self.tell(events.CreateLease(spec))

    def tell(self, event: events.Event) -> None:
        """Have the machine take an event."""
        began = time.thread_time()  # of this thread: whoever else computes does not count
        done = self.machine.handle(event, self.now)
        self.machine.next_alarm()  # the driver asks after each event
        self.spent_s += time.thread_time() - began
        for command in done:
            if isinstance(command, commands.SendTask):
                self.running.append((command.spec.task_id, command.attempt))


def model_spec(number: int) -> ModelSpec:
    """A model that nothing is known of but its name and its device."""
    return ModelSpec(
        name=ModelName(f"m{number}"),
        source="",
        path="",
        format="fake",
        size_bytes=1,
        backend="fake",
        backend_reason="",
        loader="",
        devices=(DeviceId(f"h{number}/cpu:0"),),
    )
