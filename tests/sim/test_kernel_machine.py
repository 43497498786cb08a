"""The whole kernel in one process: the machine, fake workers and clients, a virtual clock, faults from a seed.

A failing run names its seed; `pytest "tests/sim/test_kernel_machine.py::test_invariants_hold[SEED]"` replays it.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from inferd.core import commands, events
from inferd.core.fleet import Backoff
from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.lifecycle import terminal
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec, ModelState
from inferd.core.task import TASK_TABLE, Outcome, TaskSpec, TaskState, TextInput
from inferd.errors import BY_REASON, InferdError, ModelLoadError, WorkerDiedError

LIMITS = CoreLimits(
    queued_tasks=8, retained_tasks=30, retention_s=20.0, models=4, backoff=Backoff(first_s=0.5, most_s=4.0)
)
MODELS = [ModelName(f"m{n}") for n in range(4)]
TENANTS = [Tenant("a"), Tenant("b")]


def model_spec(name: ModelName) -> ModelSpec:
    return ModelSpec(
        name=name,
        source=f"file:///{name}",
        path=f"/{name}",
        format="fake",
        size_bytes=1,
        backend="fake",
        backend_reason="only",
        loader="x:Y",
        device="cpu:0",
    )


@dataclass(slots=True)
class FakeWorker:
    """A worker as the kernel sees it: frames in order, then one exit, then nothing."""

    alive: bool = True
    tasks: dict[TaskId, int] = field(default_factory=dict)


class Simulation:
    """Drives a machine with random events and checks every command against what may be asked."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = KernelMachine(LIMITS)
        self.now = 0.0
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.workers: dict[InstanceId, FakeWorker] = {}
        self.accepted: dict[TaskId, float | None] = {}
        self.finished: dict[TaskId, TaskState] = {}
        self.attempts: set[tuple[TaskId, int]] = set()
        self.places: dict[InstanceId, int] = {}
        self.refusals: dict[str, int] = {}

    def later(self, mean_s: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.agenda, (self.now + self.random.expovariate(1 / mean_s), self.count, action))

    def tell(self, event: events.Event) -> None:
        try:
            done = self.machine.handle(event, self.now)
        except InferdError as error:
            self.refuse(error)
            done = self.machine.handle(events.Tick(), self.now)
        else:
            if isinstance(event, events.SubmitTask):
                self.accepted[event.spec.task_id] = event.spec.deadline
        for command in done:
            self.obey(command)

    def refuse(self, error: InferdError) -> None:
        assert error.reason in BY_REASON
        self.refusals[error.reason] = self.refusals.get(error.reason, 0) + 1

    def obey(self, command: commands.Command) -> None:
        match command:
            case commands.StartWorker():
                assert command.instance_id not in self.workers, "an instance id was used twice"
                self.workers[command.instance_id] = FakeWorker()
                self.places[command.instance_id] = self.random.randint(1, 4)
                self.later(0.1, lambda: self.hello(command.instance_id))
            case commands.StopWorker():
                self.later(0.2, lambda: self.exit(command.instance_id))
            case commands.SendTask():
                self.send(command)
            case commands.DropTask():
                # The end of the task may be on its way already: it then arrives late, and must change nothing.
                if self.random.random() < 0.7:
                    self.workers[command.instance_id].tasks.pop(command.task_id, None)
            case commands.TellFinished():
                assert command.task.spec.task_id in self.accepted, "a task that was never accepted ended"
                assert command.task.spec.task_id not in self.finished, "a task ended twice"
                assert (command.outcome.error is None) == (command.outcome.state is TaskState.SUCCEEDED)
                self.finished[command.task.spec.task_id] = command.outcome.state
            case commands.TellQueued():
                assert command.task_id not in self.finished, "a task waits after its end"
            case commands.ForgetTask():
                assert command.task_id in self.finished, "a living task was forgotten"
            case commands.TellModel():
                pass

    def send(self, command: commands.SendTask) -> None:
        task_id, worker = command.spec.task_id, self.workers[command.instance_id]
        assert worker.alive, "a task was sent to a dead worker"
        assert task_id not in self.finished, "a task was sent after its end"
        assert (task_id, command.attempt) not in self.attempts, "an attempt was sent twice"
        deadline = self.accepted.get(task_id, command.spec.deadline)
        assert deadline is None or deadline > self.now, "an expired task was sent"
        self.attempts.add((task_id, command.attempt))
        worker.tasks[task_id] = command.attempt
        self.later(1.0, lambda: self.end(command.instance_id, task_id))

    def hello(self, instance_id: InstanceId) -> None:
        if self.workers[instance_id].alive:
            self.tell(events.WorkerReady(instance_id))
            self.later(0.5, lambda: self.load(instance_id))

    def load(self, instance_id: InstanceId) -> None:
        if not self.workers[instance_id].alive:
            return
        if self.random.random() < 0.2:
            self.tell(events.InstanceRefused(instance_id, ModelLoadError("truncated")))
            self.later(0.1, lambda: self.exit(instance_id))
        else:
            facts = InstanceFacts(max_tasks=self.places[instance_id], context_tokens=8, description="", memory_bytes=1)
            self.tell(events.InstanceLoaded(instance_id, facts))
            if self.random.random() < 0.5:
                self.later(8.0, lambda: self.exit(instance_id))  # a crash

    def end(self, instance_id: InstanceId, task_id: TaskId) -> None:
        worker = self.workers[instance_id]
        attempt = worker.tasks.pop(task_id, None)
        if worker.alive and attempt is not None:
            failed = Outcome(state=TaskState.FAILED, error=ModelLoadError("step"))
            ok = Outcome(state=TaskState.SUCCEEDED)
            self.tell(events.TaskEnded(task_id, attempt, failed if self.random.random() < 0.1 else ok))

    def exit(self, instance_id: InstanceId) -> None:
        worker = self.workers[instance_id]
        if worker.alive:
            worker.alive = False
            self.tell(events.WorkerExited(instance_id, WorkerDiedError("killed")))

    def client(self) -> None:
        roll = self.random.random()
        name = self.random.choice(MODELS)
        if roll < 0.70:
            self.submit(name)
        elif roll < 0.85:
            known = list(self.machine.tasks) or [TaskId("t0")]
            self.tell(events.CancelTask(self.random.choice(known), self.random.choice(TENANTS)))
        elif roll < 0.90:
            self.tell(events.LoadModel(name))
        elif roll < 0.95:
            self.tell(events.UnloadModel(name, force=self.random.random() < 0.5))
        else:
            self.tell(events.CreateModel(model_spec(name)))

    def submit(self, name: ModelName) -> None:
        deadline = self.now + self.random.uniform(-0.1, 4.0) if self.random.random() < 0.4 else None
        spec = TaskSpec(
            task_id=TaskId(f"t{self.count}"),
            tenant=self.random.choice(TENANTS),
            model=name,
            input=TextInput("x"),
            deadline=deadline,
            request_id=f"r{self.random.randrange(50)}" if self.random.random() < 0.3 else "",
            fingerprint=bytes([self.random.randrange(2)]),
        )
        self.count += 1
        try:
            known = self.machine.known_request(spec)
        except InferdError as error:
            self.refuse(error)
            return
        if known is None:
            self.tell(events.SubmitTask(spec))

    def check(self) -> None:
        """What must hold between any two events."""
        states = [task.state for task in self.machine.tasks.values()]
        assert states.count(TaskState.QUEUED) == self.machine.queued_tasks <= LIMITS.queued_tasks
        assert states.count(TaskState.RUNNING) == self.machine.running_tasks
        assert sum(terminal(TASK_TABLE, s) for s in states) <= LIMITS.retained_tasks
        for instance in self.machine.fleet.instances.values():
            assert self.workers[instance.instance_id].alive, "a dead worker is held to live"
            assert instance.facts is None or len(instance.running) <= instance.facts.max_tasks, "too many tasks"
            for task_id in instance.running:
                assert self.machine.tasks[task_id].instance_id == instance.instance_id

    def step(self, *, clients: bool) -> bool:
        """Let the next thing happen; False when nothing is left."""
        alarm = self.machine.next_alarm()
        times = [self.agenda[0][0]] if self.agenda else []
        times += [alarm] if alarm is not None else []
        if clients:
            times.append(self.now + self.random.expovariate(4.0))
        if not times:
            return False
        at = min(times)
        self.now = max(self.now, at)
        if self.agenda and self.agenda[0][0] == at:
            heapq.heappop(self.agenda)[2]()
        elif alarm == at:
            self.tell(events.Tick())
        else:
            self.client()
        self.check()
        return True


@pytest.mark.parametrize("seed", range(40))
def test_invariants_hold(seed: int) -> None:
    """Whatever clients and workers do, each accepted task ends once, nothing dead is used and no bound is passed."""
    sim = Simulation(seed)
    for name in MODELS:
        sim.tell(events.CreateModel(model_spec(name)))
    for _ in range(2000):
        sim.step(clients=True)
    sim.tell(events.Shutdown())
    for _ in range(20_000):
        if not sim.step(clients=False):
            break
    assert set(sim.accepted) == set(sim.finished), "an accepted task never ended"
    assert not any(worker.alive for worker in sim.workers.values()), "a worker was left behind"
    assert all(m.state in (ModelState.UNLOADED, ModelState.FAILED) for m in sim.machine.fleet.models.values())
    assert sim.machine.next_alarm() is None
    assert not sim.machine.tasks


def test_the_seeds_reach_every_refusal_and_every_end() -> None:
    """The random runs are not idle: together they meet each end of a task and each refusal of the machine."""
    refusals: set[str] = set()
    ends: set[TaskState] = set()
    for seed in range(10):
        sim = Simulation(seed)
        for name in MODELS[:3]:  # the last one becomes known late
            sim.tell(events.CreateModel(model_spec(name)))
        for _ in range(2000):
            sim.step(clients=True)
        refusals |= set(sim.refusals)
        ends |= set(sim.finished.values())
    assert ends == {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED}
    assert refusals >= {
        "MODEL_NOT_FOUND", "MODEL_BUSY", "MODEL_LOAD_FAILED", "QUEUE_FULL", "TASK_EXPIRED", "TASK_NOT_FOUND",
        "REQUEST_CONFLICT",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays(seed: int) -> None:
    """The same seed gives the same run, so that a failure can be looked at again."""

    def run() -> tuple[float, dict[TaskId, TaskState], dict[str, int]]:
        sim = Simulation(seed)
        for name in MODELS:
            sim.tell(events.CreateModel(model_spec(name)))
        for _ in range(500):
            sim.step(clients=True)
        return sim.now, sim.finished, sim.refusals

    assert run() == run()
