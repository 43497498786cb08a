"""The many hosts of `fleet` under kernels that follow each other, with workers that outlive these and are adopted.

A kernel is gone at any time: the next one has the tasks as they were kept, and knows nothing of workers. Hosts join it
with what they have loaded; so does one that was lost and is back. Some say what is not so. Beside the rules of `fleet`:

- what is adopted is there, is adopted once, and is where its model may be;
- all that is held of a device is in its account when its host takes instances;
- what workers still say of tasks of a kernel before ends none of this one's.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from fencing import Began, Fence, Over
from fleet import Far, Fleet
from rules import BrokenRuleError, Rule

from inferd.core import commands, events
from inferd.core.host import HostBackend, HostFacts, HostState, device_on, host_of
from inferd.core.host_events import AdoptWorkers, HeldWorker
from inferd.core.ids import DeviceId, HostId, InstanceId, ModelName
from inferd.core.machine import KernelMachine
from inferd.core.model import InstanceFacts
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.restored import RestoredTask
from inferd.core.task import Task, TaskState
from inferd.errors import WorkerDiedError

FACTS = InstanceFacts(max_tasks=16, context_tokens=4096, description="", memory_bytes=1)
ENDED = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Kept:
    """A worker that is no kernel's."""

    instance_id: InstanceId
    model: ModelName
    device_id: DeviceId
    size: int


class Failovers(Fleet):
    """One run."""

    def __init__(self, seed: int, *, hosts: int, tasks: int, models: int = 40, kernels: int = 4) -> None:
        super().__init__(seed, hosts=hosts, tasks=tasks, models=models)
        self.kernels = kernels
        self._of = kernels  # with which kernel what is done now was begun
        self._over = False
        self.loaded: set[InstanceId] = set()
        self.kept: dict[HostId, dict[int, Kept]] = {}
        self._numbers = itertools.count(1)
        self._held_of: dict[HostId, dict[int, Kept]] = {}  # what was told last, until it is decided
        self.later(3.0, self._follow)

    def later(self, mean_s: float, action: Callable[[], object]) -> None:
        kernel = self.kernels

        def act() -> None:
            self._of = kernel
            action()

        super().later(mean_s, act)

    def _says(self, instance_id: InstanceId, event: events.Event, *, late: bool = False) -> None:
        """A worker says something; what one of a kernel before says comes late, whatever is called as it was by now."""
        if self._of == self.kernels:
            super()._says(instance_id, event, late=late)
        elif late:
            self._says_late(event)

    def _exits(self, instance_id: InstanceId) -> None:
        if self._of == self.kernels:
            super()._exits(instance_id)

    def tell(self, event: events.Event) -> bool:
        accepted = super().tell(event)
        if isinstance(event, events.InstanceLoaded) and event.instance_id in self.homes:
            self.loaded.add(event.instance_id)
        return accepted

    def _obey(self, said: commands.Reply) -> None:
        match said:
            case commands.AbandonWorker():
                self._keep(said.instance_id)
            case commands.AdoptWorker():
                self._adopted(said)
            case _:
                super()._obey(said)

    def _gone(self, instance_id: InstanceId) -> None:
        super()._gone(instance_id)
        self.loaded.discard(instance_id)

    def _keep(self, instance_id: InstanceId) -> None:
        """The kernel of a worker, or its host's link, is gone: it lives on, as often as not."""
        far = self.homes.get(instance_id, (None, 0))[0]
        if far is None or self._over or instance_id not in self.loaded or self.rng.random() < 0.2:
            self._gone(instance_id)
            return
        device_id, size = self.given.pop(instance_id)
        self._gone(instance_id)
        model = ModelName(instance_id.rpartition("-")[0])
        self.kept.setdefault(far.host_id, {})[next(self._numbers)] = Kept(instance_id, model, device_id, size)

    def _follow(self) -> None:
        """A kernel is gone, and another one follows it, with the tasks as they were kept."""
        if self.kernels == 0 or not (self.left or self.living):
            return
        self.kernels -= 1
        self.seen["kernels"] += 1
        tasks = [task for task in self.machine.tasks.known.values() if task.state not in ENDED]
        for instance_id in tuple(self.homes):
            self._keep(instance_id)
        for far in self.hosts:
            far.life += 1
            self._record(Over(Fence.INCARNATION, far.host_id))
        for task_id in self.running:
            self._record(Over(Fence.ATTEMPT, task_id))
        self.apart.clear()
        self.running.clear()
        self.machine = KernelMachine(self.machine_limits)
        for spec in self.specs:
            self.tell(events.CreateModel(spec, kept=True, waits=True))
        self.tell(events.RestoreTasks(tuple(_restored(task) for task in tasks)))
        for far in self.hosts:
            self.later(1.0, lambda far=far: self.join(far) if self._state(far) is None else None)
        self.later(20.0, self._follow)

    def join(self, far: Far) -> None:
        """A host comes, or comes back, with what it has kept."""
        if self._state(far) not in {None, HostState.LOST}:
            return
        held = self.kept.pop(far.host_id, None)
        if not held:
            super().join(far)
            return
        far.life += 1
        life = far.life
        self._record(Began(Fence.INCARNATION, far.host_id, life))
        device = DeviceCapacity(device_id=DeviceId("gpu:0"), memory_bytes=far.memory_bytes, cores=8)
        backends = (HostBackend(name=far.backend, devices=("gpu:0",)),)
        facts = HostFacts(labels={"zone": far.zone}, backends=backends, holds=frozenset())
        self.tell(events.HostFound(far.host_id))
        told = tuple(self._told(held_id, kept) for held_id, kept in held.items())
        self._held_of[far.host_id] = held
        self.tell(AdoptWorkers(far.host_id, (device,), facts, told))
        for kept in self._held_of.pop(far.host_id).values():  # the others end, before the host is ready
            self.held[kept.device_id] -= kept.size
            self.seen["not adopted"] += 1
        self.later(0.1, lambda: self._ready(far, life, device, facts))

    def _ready(self, far: Far, life: int, device: DeviceCapacity, facts: HostFacts) -> None:
        if far.life != life or self._state(far) is not HostState.JOINING:
            return
        device_id = device_on(far.host_id, device.device_id)
        account = self.machine.views.devices[device_id]
        if account.instance_bytes != self.held[device_id]:
            raise BrokenRuleError(
                Rule.MEMORY,
                f"{self.held[device_id]} of {device_id} is held, and {account.instance_bytes} in its account",
            )
        self.tell(events.HostJoined((device,), far.host_id, facts))
        self.seen["joins with workers"] += 1

    def _told(self, held_id: int, kept: Kept) -> HeldWorker:
        """What a host says of a worker; one in ten says what is not so."""
        need = MemoryNeed(weights_bytes=kept.size - 20, kv_bytes=20)
        told = HeldWorker(
            held_id=held_id, instance_id=kept.instance_id, model=kept.model, device_ids=(DeviceId("gpu:0"),), need=need,
            tasks=self.rng.randrange(3),
        )  # fmt: skip
        lies = [
            {"model": ModelName("m0")}, {"model": ModelName("?")}, {"device_ids": (DeviceId("gpu:1"),)},
            {"differs": "other files"}, {"instance_id": InstanceId("m1-1")},
        ]  # fmt: skip
        return replace(told, **self.rng.choice(lies)) if self.rng.random() < 0.1 else told  # type: ignore[arg-type]

    def _adopted(self, adopted: commands.AdoptWorker) -> None:
        """A worker is an instance again."""
        host_id, instance_id, spec = host_of(adopted.device_id), adopted.instance_id, adopted.spec
        kept, far = self._held_of.get(host_id, {}).pop(adopted.held_id, None), self._far(host_id)
        if kept is None:
            raise BrokenRuleError(Rule.HOST, f"{instance_id} is adopted, and nothing of it is on {host_id}")
        if instance_id in self.homes:
            raise BrokenRuleError(Rule.HOST, f"{instance_id} is adopted, and there is one of this name")
        wanted = spec.placement
        if far.backend != spec.backend or wanted.selector.get("zone", far.zone) != far.zone:
            raise BrokenRuleError(Rule.PLACEMENT, f"{instance_id} of {wanted} is adopted on {far}")
        if wanted.apart:
            self.apart[spec.name, host_id] = instance_id
        self.homes[instance_id] = (far, far.life)
        far.workers[instance_id] = {}
        self.given[instance_id] = (adopted.device_id, kept.size)
        self.seen["adopted"] += 1
        died = events.WorkerExited(instance_id, WorkerDiedError("it has ended meanwhile"))
        if self.rng.random() < 0.05:
            self.later(0.1, lambda: self._dies(died))
        else:
            self.later(0.1, lambda: self._says(instance_id, events.InstanceLoaded(instance_id, FACTS)))

    def _dies(self, died: events.WorkerExited) -> None:
        home = self.homes.get(died.instance_id)
        if self._of == self.kernels and home is not None and home[0].life == home[1]:
            self._gone(died.instance_id)
            self.tell(died)

    def _end(self) -> None:
        self._over = True
        for kept in (each for held in self.kept.values() for each in held.values()):
            self.held[kept.device_id] -= kept.size
        super()._end()


def _restored(task: Task) -> RestoredTask:
    return RestoredTask(
        spec=task.spec, number=task.number, state=TaskState.QUEUED, attempt=task.attempt, deaths=task.deaths,
        created=task.created, started=task.started, finished=None, expires=None, instance_id=None, device_id=None,
        outcome=None,
    )  # fmt: skip
