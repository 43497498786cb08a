"""A kernel machine with very many hosts: they join, drain, are cut off by zones, come back anew, and leave, under load.

The rules of `simulation` are checked there after each event against a mirror of everything. Here each event is judged
by itself, at a cost that does not grow with the hosts, so that ten thousand of them and a million tasks are one run:

- every accepted task ends once, and nothing is sent, dropped or ended for it after that;
- no attempt is sent while another one runs, attempts rise, and what an old one still tells counts nothing, nor what a
  host tells of an earlier life (`fencing` judges the history of both);
- an instance starts only on a READY host that has the model's backend and labels, and apart from others if it is to;
- no device gives more than it has; and when all is over nothing is held anywhere.

`python tests/sim/fleet.py --hosts 10000 --tasks 1000000` runs one and tells what came of it as JSON; `--seed` replays.
"""

import argparse
import heapq
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fencing import Accepted, Began, Entry, Fence, Fencing, Over
from rules import BrokenRuleError, Rule

from inferd.core import changes, commands, events
from inferd.core.host import HostBackend, HostFacts, HostState, host_of
from inferd.core.host_events import CordonHost
from inferd.core.ids import DeviceId, HostId, InstanceId, ModelName, TaskId, Tenant
from inferd.core.leases import LeaseLimits
from inferd.core.line import TaskLimits
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, ModelSpec
from inferd.core.placement_rules import PlacementRules, PlacementStrategy
from inferd.core.queue import QueuePolicy
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.task import Outcome, TaskSpec, TaskState, Usage
from inferd.errors import InferdError, WorkerDiedError

ZONES = [f"z{n}" for n in range(10)]
WORK = object()
DONE = Outcome(state=TaskState.SUCCEEDED, usage=Usage(prompt_tokens=10, output_tokens=10))
LATE_S = 20.0  # what a host that was cut off still tells comes so late
PROGRESS_S = 10.0


@dataclass(slots=True)
class Far:
    """A host, whatever the kernel thinks of it."""

    host_id: HostId
    zone: str
    backend: str
    memory_bytes: int
    life: int = 0  # rises when it begins anew: what older lives tell is late
    workers: dict[InstanceId, dict[TaskId, int]] = field(default_factory=dict)  # each with its tasks, by attempt


class Fleet:
    """One run."""

    def __init__(self, seed: int, *, hosts: int, tasks: int, models: int = 40) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.seen = Counter[str]()
        self.left = tasks
        self.events = 0
        self.most_s = 0.0  # that an event took
        policy = QueuePolicy(aging_s=10.0, weights={}, tenant_running=10 * tasks)
        limits = TaskLimits(
            tasks=4 * tasks, queued_tasks=2 * tasks, tenant_queued=2 * tasks, model_queued=2 * tasks,
            input_bytes=1 << 60, retained_tasks=1000, policy=policy,
        )  # fmt: skip
        self.machine_limits = CoreLimits(tasks=limits, leases=LeaseLimits(), models=models)
        self.machine = KernelMachine(self.machine_limits)
        self.hosts = [
            Far(HostId(f"h{n}"), self.rng.choice(ZONES), self.rng.choice("xxy"), self.rng.choice([400, 800, 1600]))
            for n in range(hosts)
        ]
        self.homes: dict[InstanceId, tuple[Far, int]] = {}  # of each worker, and in which life of that
        self.apart: dict[tuple[ModelName, HostId], InstanceId] = {}
        self.living: dict[TaskId, int] = {}  # accepted tasks, with their last attempt
        self.running: dict[TaskId, InstanceId] = {}
        self.fencing = Fencing()
        self.speakers: dict[tuple[TaskId, int], tuple[HostId, int]] = {}  # of each attempt: its host, in which life
        self.held: Counter[DeviceId] = Counter()
        self.needs: dict[InstanceId, tuple[DeviceId, int]] = {}
        self.given: dict[InstanceId, tuple[DeviceId, int]] = {}
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self.specs = [self._spec(n) for n in range(models)]

    def _spec(self, number: int) -> ModelSpec:
        selector = {"zone": self.rng.choice(ZONES)} if number % 4 == 1 else {}
        strategy = PlacementStrategy.PACK if number % 5 == 2 else PlacementStrategy.SPREAD
        return ModelSpec(
            name=ModelName(f"m{number}"), source=f"/{number}", path=f"/{number}", format="fake",
            size_bytes=self.rng.randint(50, 300), backend="x", backend_reason="", loader="", max_instances=32,
            devices=(DeviceId("gpu:0"),), file_version=f"v{number}",
            placement=PlacementRules(selector=selector, strategy=strategy, apart=number % 3 == 0),
        )  # fmt: skip

    # The clock.

    def later(self, mean_s: float, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.now + self.rng.expovariate(1 / mean_s), self._count, action))

    def run(self, progress: Callable[[], object] = lambda: None) -> "Fleet":
        """Let hosts and tasks come until all tasks have ended; then let everything go, and see that nothing is left."""
        for spec in self.specs:
            self.tell(events.CreateModel(spec, waits=True))
        for number, far in enumerate(self.hosts):
            if number % 10:
                self.join(far)
            else:
                self.later(30.0, lambda far=far: self.join(far))
        self.later(0.01, self._submit)
        self.later(0.5, self._stir)
        while self.left or self.living:
            alarm = self.machine.next_alarm()
            if self._agenda and (alarm is None or self._agenda[0][0] <= alarm):
                self.now = max(self.now, self._agenda[0][0])
                heapq.heappop(self._agenda)[2]()
            elif alarm is not None:
                self.now = max(self.now, alarm)
                self.tell(events.Tick())
            else:
                raise BrokenRuleError(Rule.ONE_END, f"{len(self.living)} tasks wait, and nothing is due")
            progress()
        self._end()
        return self

    def _end(self) -> None:
        for far in self.hosts:
            self.tell(events.HostLeft(far.host_id))
        left = [name for name, size in self.held.items() if size]
        if left or self.machine.fleet.instances or self.machine.views.devices or self.machine.broker.reservations():
            raise BrokenRuleError(Rule.GIVEN_BACK, f"all hosts have left, and something is held: {left[:3]}")

    def tell(self, event: events.Event) -> bool:
        """Tell the machine of an event, judge what it asks for, and do it; whether it was accepted."""
        self.events += 1
        began = time.perf_counter()
        try:
            said = self.machine.handle(event, self.now)
        except InferdError as error:
            self.seen[f"refused {error.reason}"] += 1
            said, accepted = self.machine.handle(events.Tick(), self.now), False
        else:
            accepted = True
        self.most_s = max(self.most_s, time.perf_counter() - began)
        if isinstance(event, events.TaskEnded):
            self._judge(event, said)
        for each in said:
            self._obey(each)
        return accepted

    def _record(self, entry: Entry) -> None:
        """Take an entry of the history; the run stops at the first that a loser was heard in."""
        if wrong := self.fencing.add(entry):
            raise BrokenRuleError(Rule.ATTEMPT, wrong)

    def _judge(self, event: events.TaskEnded, said: Iterable[commands.Reply]) -> None:
        """What comes of the word of a worker: if it ends its task, it was taken for that of the attempt which holds."""
        for each in said:
            if isinstance(each, changes.TaskChanged) and each.task_id == event.task_id and each.end is not None:
                host, life = self.speakers.get((event.task_id, event.attempt), ("nobody", 0))
                self._record(Accepted(Fence.ATTEMPT, event.task_id, event.attempt, each.instance_id, "the end"))
                self._record(Accepted(Fence.INCARNATION, host, life, what=f"the end of {event.task_id}"))

    # What the machine asks for.

    def _obey(self, said: commands.Reply) -> None:
        match said:
            case commands.StartWorker():
                self._started(said)
            case commands.ProceedLoad():
                self._proceeds(said.instance_id)
            case commands.StopWorker():
                self.later(0.2, lambda: self._exits(said.instance_id))
            case commands.AbandonWorker():
                self._gone(said.instance_id)
            case commands.SendTask():
                self._sent(said)
            case commands.DropTask():
                self.running.pop(said.task_id, None)
            case changes.TaskChanged(end=changes.TaskEnd()):
                if self.living.pop(said.task_id, None) is None:
                    raise BrokenRuleError(Rule.ONE_END, f"{said.task_id} ends, and had ended or was never accepted")
                self.running.pop(said.task_id, None)
                self.seen[said.state.name] += 1
                self._record(Over(Fence.ATTEMPT, said.task_id, forgotten=True))
                self.speakers.pop((said.task_id, said.attempt), None)
            case changes.TaskChanged() if said.state is not TaskState.RUNNING:
                self.running.pop(said.task_id, None)
                self._record(Over(Fence.ATTEMPT, said.task_id))

    def _started(self, start: commands.StartWorker) -> None:
        instance_id, host_id = start.instance_id, host_of(start.device_id)
        host, far = self.machine.hosts.known.get(host_id), self._far(host_id)
        wanted, spec = start.spec.placement, start.spec
        if host is None or host.state is not HostState.READY:
            raise BrokenRuleError(Rule.HOST, f"{instance_id} starts on {host_id}, which is {host and host.state}")
        if far.backend != spec.backend or wanted.selector.get("zone", far.zone) != far.zone:
            raise BrokenRuleError(Rule.PLACEMENT, f"{instance_id} of {wanted} starts on {far}")
        if wanted.apart and (other := self.apart.get((spec.name, host_id))) is not None:
            instance = self.machine.fleet.instances.get(other)
            if instance is not None and instance.living and not instance.leaving:
                raise BrokenRuleError(Rule.PLACEMENT, f"{instance_id} starts beside {other} on {host_id}")
        self.apart[spec.name, host_id] = instance_id
        self.homes[instance_id] = (far, far.life)
        far.workers[instance_id] = {}
        self.needs[instance_id] = (start.device_id, spec.size_bytes + 20)
        need = MemoryNeed(weights_bytes=spec.size_bytes, kv_bytes=20)
        self.later(0.1, lambda: self._says(instance_id, events.InstanceNeeds(instance_id, need)))
        self.seen["starts"] += 1

    def _proceeds(self, instance_id: InstanceId) -> None:
        device_id, size = self.given[instance_id] = self.needs[instance_id]
        self.held[device_id] += size
        account = self.machine.views.devices[device_id]
        if self.held[device_id] > account.capacity_bytes:
            raise BrokenRuleError(Rule.MEMORY, f"{self.held[device_id]} of {account.capacity_bytes} of {device_id}")
        facts = InstanceFacts(max_tasks=16, context_tokens=4096, description="", memory_bytes=1)
        self.later(1.0, lambda: self._says(instance_id, events.InstanceLoaded(instance_id, facts)))

    def _sent(self, sent: commands.SendTask) -> None:
        task_id, home = sent.spec.task_id, self.homes.get(sent.instance_id)
        if task_id not in self.living:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} is sent, and has ended")
        if task_id in self.running or sent.attempt <= self.living[task_id]:
            raise BrokenRuleError(
                Rule.ATTEMPT, f"attempt {sent.attempt} of {task_id} is sent beside {self.living[task_id]}"
            )
        if home is None or home[0].host_id not in self.machine.hosts.known:
            raise BrokenRuleError(Rule.HOST, f"{task_id} is sent to {sent.instance_id}, whose host is not there")
        self.living[task_id] = sent.attempt
        self.running[task_id] = sent.instance_id
        self.speakers[task_id, sent.attempt] = home[0].host_id, home[1]
        self._record(Began(Fence.ATTEMPT, task_id, sent.attempt, sent.instance_id))
        ended = events.TaskEnded(task_id, sent.attempt, DONE)
        self.later(2.0, lambda: self._says(sent.instance_id, ended, late=True))

    def _says(self, instance_id: InstanceId, event: events.Event, *, late: bool = False) -> None:
        """A worker says something; one whose host was cut off says it late, and nothing may come of it."""
        home = self.homes.get(instance_id)
        if home is not None and home[0].life == home[1]:
            self.tell(event)
        elif late:
            self.later(LATE_S, lambda: self._says_late(event))

    def _says_late(self, event: events.Event) -> None:
        ended = isinstance(event, events.TaskEnded) and event.attempt < self.living.get(event.task_id, 0)
        before = len(self.living)
        self.tell(event)
        if ended and len(self.living) < before:
            raise BrokenRuleError(Rule.ATTEMPT, f"an old attempt ends a task: {event}")
        self.seen["late words"] += 1

    def _exits(self, instance_id: InstanceId) -> None:
        home = self.homes.get(instance_id)
        if home is not None and home[0].life == home[1]:
            self._gone(instance_id)
            self.tell(events.WorkerExited(instance_id, WorkerDiedError("it ended")))

    def _gone(self, instance_id: InstanceId) -> None:
        far, _ = self.homes.pop(instance_id, (None, 0))
        if far is not None:
            far.workers.pop(instance_id, None)
        self.needs.pop(instance_id, None)
        device_id, size = self.given.pop(instance_id, (DeviceId(""), 0))
        self.held[device_id] -= size

    # Hosts and clients.

    def _far(self, host_id: HostId) -> Far:
        return self.hosts[int(host_id[1:])]

    def join(self, far: Far) -> None:
        """A host comes, or comes back: it is the same one in another life, and has nothing of the one before."""
        far.life += 1
        self._record(Began(Fence.INCARNATION, far.host_id, far.life))
        device = DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=far.memory_bytes, cores=8)
        facts = HostFacts(
            labels={"zone": far.zone}, backends=(HostBackend(name=far.backend, devices=("gpu:0",)),),
            holds=frozenset(f"v{self.rng.randrange(len(self.specs))}" for _ in range(4)),
        )  # fmt: skip
        self.tell(events.HostJoined((device,), far.host_id, facts))
        self.seen["joins"] += 1

    def _lose(self, far: Far) -> None:
        far.life += 1
        self._record(Over(Fence.INCARNATION, far.host_id))
        self.tell(events.HostLost(far.host_id, "no word for 3 s"))
        self.seen["losses"] += 1
        self.later(15.0, lambda: self.join(far) if self._state(far) is HostState.LOST else None)

    def _state(self, far: Far) -> HostState | None:
        host = self.machine.hosts.known.get(far.host_id)
        return None if host is None else host.state

    def _stir(self) -> None:
        """Something happens to a host, or to a zone."""
        far, roll = self._any_host(), self.rng.random()
        match self._state(far):
            case HostState.READY if roll < 0.01:
                self.seen["partitions"] += 1
                zone = [each for each in self.hosts if each.zone == far.zone and each.workers]
                for each in zone[: max(1, len(self.hosts) // 20)]:
                    if self._state(each) is HostState.READY:
                        self._lose(each)
            case HostState.READY if roll < 0.5:
                self._lose(far)
            case HostState.READY if roll < 0.7:
                self.tell(events.DrainHost(far.host_id))
                self.seen["drains"] += 1
                self.later(20.0, lambda: self._resume(far))
            case HostState.READY if roll < 0.8:
                self.tell(CordonHost(far.host_id))
                self.later(20.0, lambda: self._resume(far))
            case HostState.READY if roll < 0.9:
                far.life += 1
                self._record(Over(Fence.INCARNATION, far.host_id))
                self.tell(events.HostLeft(far.host_id))
                self.later(15.0, lambda: self.join(far) if self._state(far) is None else None)
            case _:
                pass
        if self.left or self.living:
            self.later(0.3, self._stir)

    def _any_host(self) -> Far:
        """A host, one where something runs as often as not."""
        if self.homes and self.rng.random() < 0.7:
            for far, _ in self.homes.values():
                return far
        return self.rng.choice(self.hosts)

    def _resume(self, far: Far) -> None:
        if self._state(far) in (HostState.DRAINING, HostState.CORDONED):
            self.tell(events.ResumeHost(far.host_id))

    def _submit(self) -> None:
        """Some tasks come at once."""
        for _ in range(min(self.left, self.rng.randint(1, 40))):
            self.left -= 1
            self._count += 1
            task_id = TaskId(f"t{self._count}")
            model = ModelName(f"m{min(self.rng.randrange(len(self.specs)) for _ in range(2))}")
            spec = TaskSpec(task_id=task_id, tenant=Tenant(f"n{self._count % 20}"), model=model, work=WORK)
            self.living[task_id] = 0
            if not self.tell(events.SubmitTask(spec)):
                self.living.pop(task_id, None)
        if self.left:
            self.later(0.08, self._submit)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A kernel machine with very many hosts.")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = shown = time.monotonic()
    fleet = Fleet(options.seed, hosts=options.hosts, tasks=options.tasks)

    def progress() -> None:
        nonlocal shown
        if fleet.events % 1000 == 0 and time.monotonic() > shown + PROGRESS_S:
            shown = time.monotonic()
            print(f"{fleet.left} tasks to come, {fleet.events} events, {dict(fleet.seen)}", file=sys.stderr, flush=True)

    try:
        fleet.run(progress)
    except BrokenRuleError as error:
        print(f"seed {options.seed}, after {fleet.events} events: {error}", file=sys.stderr)
        return 1
    found = {"hosts": options.hosts, "tasks": options.tasks, "events": fleet.events, **fleet.seen}
    print(json.dumps({**found, "simulated_s": round(fleet.now), "seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
