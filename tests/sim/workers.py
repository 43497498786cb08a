"""Fake workers: frames in order, then one exit; some die, and some frames come late."""

from dataclasses import dataclass, field

from world import World

from inferd.core import commands, events
from inferd.core.ids import InstanceId, ModelName, TaskId
from inferd.core.probe import ProbeAnswer
from inferd.core.resources import MemoryNeed
from inferd.core.rollout_events import ProbeAnswered
from inferd.core.task import Outcome, TaskState, Usage
from inferd.errors import ModelLoadError, WorkerDiedError

LETHAL = "77"  # what the ids of tasks end with that workers die of
NOTHING = MemoryNeed(weights_bytes=0)
LATE_S = 3.0  # mean time for which a frame of a dead worker may still be under way


@dataclass(slots=True)
class FakeWorker:
    """One worker; `tasks` that it computes, each with its attempt and a mark of its turn."""

    model: ModelName
    need: MemoryNeed
    broken: bool = False
    alive: bool = True
    tasks: dict[TaskId, tuple[int, int]] = field(default_factory=dict)


class Workers:
    """All workers. One writer: its world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._workers: dict[InstanceId, FakeWorker] = {}

    def obey(self, command: commands.Reply) -> None:
        """Do what the machine asks of workers."""
        later = self._world.later
        match command:
            case commands.StartWorker():
                self._workers[command.instance_id] = FakeWorker(
                    command.spec.name, self._need(command), broken=self._world.fake_of(command.spec).broken
                )
                reads_s = self._world.random.choice([0.05, 0.05, 1.0])  # much may change until it has measured
                later(reads_s, lambda: self._measure(command.instance_id))
            case commands.StopWorker():
                later(0.1, lambda: self.exit(command.instance_id))
            case commands.EndWorker():
                self._world.seen["grown worker"] += 1
                later(0.02, lambda: self.exit(command.instance_id))
            case commands.AbandonWorker():
                self._abandon(command.instance_id)
            case commands.ProceedLoad():
                later(0.2, lambda: self._load(command.instance_id))
            case commands.SendTask():
                self._compute(command)
            case commands.AskProbe():
                later(0.3, lambda: self._answer(command))
            case commands.DropTask():
                self._forget(command.instance_id, command.task_id)
            case _:
                pass

    def crash_one(self) -> None:
        """Any worker dies."""
        if self._workers:
            self.exit(self._world.random.choice([*self._workers]))

    def exit(self, instance_id: InstanceId) -> None:
        """A worker ends, asked for or not."""
        worker = self._workers.get(instance_id)
        if worker is not None and worker.alive:
            worker.alive = False
            self._world.tell(events.WorkerExited(instance_id, WorkerDiedError("killed")))
            self._world.later(LATE_S, lambda: self._workers.pop(instance_id))

    def _abandon(self, instance_id: InstanceId) -> None:
        """Its host is lost: what it says may still come, and that it is gone is told late, or never."""
        worker, later = self._workers[instance_id], self._world.later
        if not worker.alive:
            return
        worker.alive = False
        later(LATE_S, lambda: self._workers.pop(instance_id))
        if self._world.random.random() < 0.5:
            later(0.1, lambda: self._world.tell(events.WorkerExited(instance_id, WorkerDiedError("abandoned"))))

    def _need(self, command: commands.StartWorker) -> MemoryNeed:
        needs = self._world.fake_of(command.spec).needs
        return needs.get(command.device_id, NOTHING)  # on a device that the model may not use: noticed elsewhere

    def _speaks(self, instance_id: InstanceId) -> bool:
        """Whether a frame of a worker arrives: one of a dead worker may, late."""
        worker, world = self._workers.get(instance_id), self._world
        late = worker is not None and not worker.alive and world.scale.oddities and world.random.random() < 0.2
        world.seen["late frame"] += late
        return late or (worker is not None and worker.alive)

    def _measure(self, instance_id: InstanceId) -> None:
        if self._speaks(instance_id):
            self._world.tell(events.InstanceNeeds(instance_id, self._workers[instance_id].need))

    def _load(self, instance_id: InstanceId) -> None:
        world = self._world
        if not self._speaks(instance_id):
            return
        if self._workers[instance_id].broken and world.random.random() < 0.5:
            self.exit(instance_id)
            return
        if self._workers[instance_id].broken or (world.random.random() < 0.03 and not world.quiet):
            world.tell(events.InstanceRefused(instance_id, ModelLoadError("truncated")))
            world.later(0.1, lambda: self.exit(instance_id))
            return
        worker = self._workers[instance_id]
        world.tell(events.InstanceLoaded(instance_id, world.models[worker.model].facts))
        if world.random.random() < 0.5:
            most = worker.need.total_bytes // 4
            taken = worker.need.total_bytes + world.random.randint(0, most)
            world.later(0.3, lambda: self._take_memory(instance_id, taken))
        if world.scale.crashes:
            world.later(30.0, lambda: None if world.quiet else self.exit(instance_id))

    def _take_memory(self, instance_id: InstanceId, memory_bytes: int) -> None:
        if self._speaks(instance_id):
            self._world.tell(events.MemoryMeasured(instance_id, memory_bytes))

    def _compute(self, command: commands.SendTask) -> None:
        instance_id, task_id, attempt = command.instance_id, command.spec.task_id, command.attempt
        turn, later, lethal = self._world.number(), self._world.later, task_id.endswith(LETHAL)
        self._workers[instance_id].tasks[task_id] = (attempt, turn)
        if command.alone:
            self._run_alone(command, turn)
        elif lethal and self._world.scale.crashes:
            later(0.5, lambda: self._kill(instance_id, task_id, attempt, turn))
        later(1.0, lambda: self._end(instance_id, task_id, attempt, turn))

    def _run_alone(self, command: commands.SendTask, turn: int) -> None:
        """A task has its turn, and passes or kills its worker."""
        instance_id, task_id, attempt = command.instance_id, command.spec.task_id, command.attempt
        tell, lethal = self._world.tell, task_id.endswith(LETHAL)

        def passes() -> None:
            if self._speaks(instance_id) and self._computes(instance_id, task_id, attempt, turn):
                self._world.seen["suspect passed"] += 1
                tell(events.TaskPassed(task_id, attempt))

        def begins() -> None:
            if self._speaks(instance_id) and self._computes(instance_id, task_id, attempt, turn):
                tell(events.TaskAlone(task_id, attempt))
                if lethal and self._world.scale.crashes:
                    self._world.later(0.05, lambda: self._kill(instance_id, task_id, attempt, turn))
                else:
                    self._world.later(0.05, passes)

        self._world.later(0.05, begins)

    def _kill(self, instance_id: InstanceId, task_id: TaskId, attempt: int, turn: int) -> None:
        if self._computes(instance_id, task_id, attempt, turn):
            self._world.seen["lethal task"] += 1
            self.exit(instance_id)

    def _computes(self, instance_id: InstanceId, task_id: TaskId, attempt: int, turn: int) -> bool:
        worker = self._workers.get(instance_id)
        return worker is not None and worker.tasks.get(task_id) == (attempt, turn)

    def _answer(self, command: commands.AskProbe) -> None:
        """A prompt of a probe is answered, one of ten otherwise than it must be."""
        if self._speaks(command.instance_id):
            text = "yes" if self._world.random.random() < 0.9 else "no"
            self._world.tell(ProbeAnswered(command.instance_id, command.spec.task_id, ProbeAnswer(text=text)))

    def _forget(self, instance_id: InstanceId, task_id: TaskId) -> None:
        """A worker stops a task, unless its end is on its way already: that then arrives late."""
        if not self._world.scale.oddities or self._world.random.random() < 0.9:
            self._workers[instance_id].tasks.pop(task_id, None)

    def _end(self, instance_id: InstanceId, task_id: TaskId, attempt: int, turn: int) -> None:
        if not self._speaks(instance_id) or not self._computes(instance_id, task_id, attempt, turn):
            return
        rng = self._world.random
        del self._workers[instance_id].tasks[task_id]
        usage = Usage(prompt_tokens=rng.randint(1, 50), output_tokens=rng.randint(1, 50))
        outcome = Outcome(state=TaskState.SUCCEEDED, usage=usage)
        if rng.random() < 0.05:
            outcome = Outcome(state=TaskState.FAILED, error=ModelLoadError("step"), usage=usage)
        self._world.tell(events.TaskEnded(task_id, attempt, outcome))
