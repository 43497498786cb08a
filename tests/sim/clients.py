"""Clients: they submit tasks, cancel and suspend some; operators load and unload models, other programs take memory."""

from random import Random

from scale import TENANTS
from workers import Workers
from world import World

from inferd.core import changes, commands, events
from inferd.core.demand import Demand
from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
from inferd.core.priority import Priority
from inferd.core.task import SuspendReason, TaskSpec

BURST = 100  # tasks between two pauses
NO_LEASE = LeaseId("")
UNKNOWN = ModelName("unknown")


class Clients:
    """All clients but the holders of leases. One writer: its world."""

    def __init__(self, world: World) -> None:
        self.left = world.scale.tasks
        self._world = world
        self._rate = world.scale.load * sum(model.facts.max_tasks for model in world.models.values())
        self._pause_s = 0.0

    def begin(self, *, lasts_s: float) -> None:
        """Tasks are to come in bursts, for as long as the rest goes on."""
        self._pause_s = max(0.0, lasts_s - self.left / self._rate) * BURST / max(1, self.left)

    def submit_next(self) -> None:
        """Submit a task, and the others after it."""
        world = self._world
        if self.left:
            self.left -= 1
            self.submit(world.random.choice([*world.models]), world.random.choice(TENANTS))
            pauses = world.random.random() < 1 / BURST
            world.later(1 / self._rate + (self._pause_s if pauses else 0.0), self.submit_next)

    def submit(self, model: ModelName, tenant: Tenant, lease_id: LeaseId = NO_LEASE) -> None:
        """Submit a task, which may be cancelled or suspended later."""
        world, rng = self._world, self._world.random
        spec = TaskSpec(
            task_id=TaskId(f"t{world.number()}"),
            tenant=tenant,
            model=model if rng.random() < 0.999 else UNKNOWN,
            demand=_demand(rng),
            work=object(),
            deadline=world.now + rng.uniform(-0.1, 4.0) if rng.random() < 0.2 else None,
            detached=rng.random() < 0.1,
            priority=rng.choices([Priority.LOW, Priority.NORMAL, Priority.HIGH], [3, 5, 2])[0],
            lease_id=lease_id,
            request_id=f"r{rng.randrange(50)}" if rng.random() < 0.05 else "",
            fingerprint=bytes([rng.randrange(2)]),
        )
        roll = rng.random()
        if not world.tell(events.SubmitTask(spec)) or spec.task_id not in world.mirror.tasks.known:
            return  # it was refused, or was made before
        if roll < 0.08:
            world.later(1.0, lambda: world.tell(events.CancelTask(spec.task_id, tenant)))
        elif roll < 0.14:
            world.later(1.0, lambda: world.tell(events.SuspendTask(spec.task_id, tenant)))
        elif roll < 0.18:
            world.later(1.0, lambda: world.tell(events.DetachTask(spec.task_id, tenant)))

    def told(self, command: commands.Reply) -> None:
        """A task was suspended: its client resumes it some time."""
        world = self._world
        if isinstance(command, changes.TaskChanged) and command.reason is SuspendReason.CLIENT:
            tenant = world.mirror.tasks.known[command.task_id].spec.tenant
            world.later(0.5, lambda: self._resume(command.task_id, tenant))

    def _resume(self, task_id: TaskId, tenant: Tenant) -> None:
        """Resume a task; again later while its model can be loaded nowhere."""
        world = self._world
        if not world.tell(events.ResumeTask(task_id, tenant)):
            entry = world.mirror.tasks.known.get(task_id)
            if entry is not None and entry.living:
                world.later(5.0, lambda: self._resume(task_id, tenant))

    def operate(self, workers: Workers) -> None:
        """Load, unload, take memory, or have a worker crash; and again after a while."""
        world, rng, roll = self._world, self._world.random, self._world.random.random()
        name = rng.choice([*world.models])
        if world.quiet:
            self._give_back()
            return
        if roll < 0.2:
            needs = world.fake_of(world.machine.fleet.models[name].spec).needs
            world.tell(events.ModelMeasured(name, needs))
            world.tell(events.LoadModel(name))
        elif roll < 0.25:
            world.tell(events.AskModel(name))
        elif roll < 0.4:
            living = [*world.mirror.tasks.models[name].places]
            one = rng.choice(living) if living and rng.random() < 0.3 else None
            world.tell(events.UnloadModel(name, force=rng.random() < 0.5, instance_id=one))
        elif roll < 0.8 and world.mirror.devices.devices:
            known = world.mirror.devices.devices
            device = rng.choice([device for device in world.devices if device.device_id in known])
            share = rng.choice([0.0, 0.0, 0.2, 0.6])
            world.tell(events.ForeignMeasured(device.device_id, int(device.memory_bytes * share)))
        elif roll < 0.85 and world.scale.crashes:
            workers.crash_one()

        world.later(0.5, lambda: self.operate(workers))

    def _give_back(self) -> None:
        """Other programs end."""
        for device_id in [*self._world.mirror.devices.devices]:
            self._world.tell(events.ForeignMeasured(device_id, 0))


def _demand(rng: Random) -> Demand:
    """What some task asks for; those of equal length have a beginning in common."""
    length = rng.randint(0, 200)
    return Demand(
        prompt_tokens=length // 4,
        most_output=rng.choice([None, 10, 50]),
        memory_bytes=500 + length,
        affinity=bytes([length]),
    )
