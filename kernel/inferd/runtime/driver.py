"""The driver: the one who calls the core, and carries out what it asks for."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import psutil

from inferd.core import commands, events
from inferd.core.ids import InstanceId, ModelName, TaskId, Tenant
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceState, Model, ModelSpec, ModelState
from inferd.core.task import FinishReason, Outcome, Task, TaskInput, TaskSpec, Usage
from inferd.core.task_events import EmbeddingOutput, Finished, Output, Phase, Progress, Queued, Receipt, Started
from inferd.errors import InferdError, ModelBusyError, WorkerDiedError
from inferd.runtime.clock import Clock
from inferd.runtime.frames import (
    load_frame,
    read_facts,
    read_failure,
    read_logprobs,
    read_outcome,
    read_prompt,
    submit_frame,
)
from inferd.runtime.queries import Queries
from inferd.runtime.signal import Signal
from inferd.runtime.streams import Streams, TaskStream
from inferd.runtime.supervisor import Supervisor
from inferd.runtime.worker_process import WorkerTimes
from inferd_api.worker.v1 import worker_pb2 as wire

LOAD_PROGRESS_STEP = 0.02  # a load tells each waiting task at most 50 times


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverLimits:
    """Bounds of the runtime; see `inferd.config` for what each means."""

    stream_bytes: int
    retained_bytes: int
    frame_bytes: int
    queries: int
    query_timeout_s: float
    engine: wire.EngineLimits
    times: WorkerTimes


@dataclass(slots=True)
class Dispatched:
    """A task on its worker: where its output goes."""

    task_id: TaskId
    attempt: int
    stream: TaskStream


@dataclass(slots=True)
class LiveInstance:
    """What the driver knows of an instance: its tasks by their handle on the link, and the load told last."""

    tasks: dict[int, Dispatched]
    handles: dict[TaskId, int]
    next_handle: int = 1
    load_told: float = 0.0


class Driver:
    """Owns the machine, the streams and the supervisor; everything happens on one event loop.

    Attributes:
        machine: The core; read it freely, change it through the driver only.
        streams: The events of tasks.
        supervisor: The workers.
        clock: The time that the core is told.
        models_changed: Notified with each change of any model.
    """

    def __init__(self, *, core: CoreLimits, limits: DriverLimits, log_dir: Path) -> None:
        self.clock = Clock()
        self.machine = KernelMachine(core)
        self.streams = Streams(stream_bytes=limits.stream_bytes, retained_bytes=limits.retained_bytes)
        self.supervisor = Supervisor(
            times=limits.times, frame_limit_bytes=limits.frame_bytes, log_dir=log_dir, listener=self
        )
        self.models_changed = Signal()
        self._queries = Queries(limit=limits.queries, timeout_s=limits.query_timeout_s)
        self._engine_limits = limits.engine
        self._instances: dict[InstanceId, LiveInstance] = {}
        self._group: asyncio.TaskGroup | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run until the block ends; then every task is ended and every worker gone."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield
            finally:
                self.close()
        if self._alarm is not None:
            self._alarm.cancel()

    def close(self) -> None:
        """End every task, stop every worker and accept nothing more; again changes nothing."""
        self._apply(events.Shutdown())
        self.models_changed.notify()

    # For the services.

    def submit(self, spec: TaskSpec) -> TaskStream:
        """Accept a task, or find the one that the same `request_id` made; its events.

        Raises:
            InferdError: It is refused.
        """
        known = self.machine.known_request(spec)
        if known is not None:
            return self.streams.get(known.spec.task_id)
        stream = self.streams.open(spec.task_id)
        try:
            self._apply(events.SubmitTask(spec))
        except InferdError:
            self.streams.forget(spec.task_id)
            raise
        return stream

    def cancel(self, task_id: TaskId, tenant: Tenant) -> None:
        """End a task; one that has ended stays as it is.

        Raises:
            TaskNotFoundError: The tenant has no such task.
        """
        self._apply(events.CancelTask(task_id, tenant))

    def create_model(self, spec: ModelSpec) -> Model:
        """Make a model known.

        Raises:
            InferdError: It is refused.
        """
        self._apply(events.CreateModel(spec))
        self.models_changed.notify()
        return self.machine.model(spec.name)

    async def load_model(self, name: ModelName) -> Model:
        """Have a model loaded and wait for it.

        Raises:
            InferdError: It is refused, or loading failed.
        """
        self._apply(events.LoadModel(name))
        model = self.machine.model(name)
        while model.state is ModelState.LOADING:
            await self.models_changed.wait(self.models_changed.version)
        if model.state is ModelState.FAILED and model.error is not None:
            raise model.error
        if model.state is not ModelState.READY:
            raise ModelBusyError(f"model {name!r} was unloaded while it was being loaded")
        return model

    async def unload_model(self, name: ModelName, *, force: bool) -> int:
        """Have a model unloaded and wait for it; the resident memory of its workers just before, in bytes.

        Raises:
            InferdError: It is refused.
        """
        model = self.machine.model(name)
        workers = [self.supervisor.workers[i] for i in model.instances if i in self.supervisor.workers]
        returned_bytes = sum(resident_bytes(worker.pid) for worker in workers)
        self._apply(events.UnloadModel(name, force))
        while model.state is ModelState.UNLOADING:
            await self.models_changed.wait(self.models_changed.version)
        return returned_bytes

    async def query(self, name: ModelName, task_input: TaskInput) -> wire.Answer:
        """The tokens of a text or a conversation, or the text of tokens; loads the model if need be.

        Raises:
            InferdError: Loading failed, the model cannot take the input, or the answer did not come.
        """
        model = await self.load_model(name)
        instance_id = next(i.instance_id for i in model.instances.values() if i.state is InstanceState.READY)
        return await self._queries.ask(self.supervisor.workers[instance_id], task_input)

    # For the supervisor.

    def worker_frame(self, instance_id: InstanceId, frame: wire.WorkerFrame) -> None:
        """A worker has sent a frame."""
        match frame.WhichOneof("kind"):
            case "step":
                self._step(instance_id, frame.step)
            case "answer":
                answer = frame.answer
                failed = answer.HasField("failure")
                why = read_failure(answer.failure, self._log_of(instance_id)) if failed else None
                self._queries.answer(instance_id, answer, why)
            case "hello":
                self._apply(events.WorkerReady(instance_id))
            case "load_progress":
                self._tell_load(instance_id, frame.load_progress.fraction)
            case "loaded":
                self._apply(events.InstanceLoaded(instance_id, read_facts(frame.loaded)))
            case "load_failed":
                error = read_failure(frame.load_failed.failure, self._log_of(instance_id))
                self._apply(events.InstanceRefused(instance_id, error))

    def worker_exited(self, instance_id: InstanceId, why: str, log_path: Path) -> None:
        """A worker is gone."""
        error = WorkerDiedError(
            f"worker of instance {instance_id!r} died: {why}", metadata={"cause": why, "log": str(log_path)}
        )
        self._queries.fail(instance_id, error)
        self._apply(events.WorkerExited(instance_id, error))
        del self._instances[instance_id]  # last: what fell due meanwhile may still have dropped tasks of it

    def _log_of(self, instance_id: InstanceId) -> dict[str, str]:
        return {"log": str(self.supervisor.workers[instance_id].log_path)}

    def _step(self, instance_id: InstanceId, step: wire.StepOutput) -> None:
        """One step of an engine: one wake-up for each stream with new tokens, however many there are."""
        tasks = self._instances[instance_id].tasks
        self._tell_of_prompts(tasks, step)
        token_ids = step.token_ids
        details = _Details(step)
        now = self.clock.now()
        start = 0
        for place, (handle, count, text) in enumerate(zip(step.handles, step.counts, step.texts, strict=True)):
            end = start + count
            if (task := tasks.get(handle)) is not None:  # else cancelled while the frame was under way
                if task.stream.first_output_at is None:
                    task.stream.first_output_at = now
                output = Output(text, tuple(token_ids[start:end]))
                task.stream.tell(details.add(place, output) if details.any else output)
            start = end
        for ended in step.ended:
            if (done := tasks.get(ended.handle)) is not None:
                outcome = read_outcome(ended, self._log_of(instance_id))
                self._apply(events.TaskEnded(done.task_id, done.attempt, outcome))
                if ended.handle in tasks:  # else its deadline came first, and it was dropped
                    self._release(instance_id, done.task_id)

    def _tell_of_prompts(self, tasks: Mapping[int, Dispatched], step: wire.StepOutput) -> None:
        for prefill in step.prefills:
            if (reading := tasks.get(prefill.handle)) is not None:
                reading.stream.tell(Progress(Phase.PREFILL, prefill.fraction))
        for prompt in step.prompts:
            if (asking := tasks.get(prompt.handle)) is not None:
                asking.stream.tell(read_prompt(prompt))
        for embedding in step.embeddings:
            if (embedded := tasks.get(embedding.handle)) is not None:
                embedded.stream.first_output_at = self.clock.now()
                embedded.stream.tell(EmbeddingOutput(array("f", embedding.values)))

    def _tell_load(self, instance_id: InstanceId, fraction: float) -> None:
        instance = self._instances[instance_id]
        if fraction - instance.load_told < LOAD_PROGRESS_STEP and fraction < 1.0:
            return
        instance.load_told = fraction
        name = self.machine.fleet.instances[instance_id].model
        for task_id in self.machine.waiting(name):
            self.streams.get(task_id).tell(Progress(Phase.LOAD, fraction))
        self.models_changed.notify()

    # The core.

    def _apply(self, event: events.Event) -> None:
        """Tell the core and carry out what it asks for.

        Raises:
            InferdError: The event is a client's and is refused.
        """
        try:
            asked = self.machine.handle(event, self.clock.now())
        except InferdError:
            self._apply(events.Tick())  # what the passing of time called for must not wait for the next event
            raise
        for command in asked:
            self._obey(command)
        self._set_alarm()

    def _set_alarm(self) -> None:
        at = self.machine.next_alarm()
        if self._alarm is not None:
            if at is not None and self._alarm.when() == at and not self._alarm.cancelled():
                return
            self._alarm.cancel()
            self._alarm = None
        if at is not None:  # the loop's clock is the kernel's: both are time.monotonic
            self._alarm = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._apply(events.Tick())

    def _obey(self, command: commands.Command) -> None:
        match command:
            case commands.SendTask():
                self._send(command)
            case commands.TellFinished():
                self._finish(command.task, command.outcome)
            case commands.TellQueued():
                self.streams.get(command.task_id).tell(Queued(command.position))
            case commands.ForgetTask():
                self.streams.forget(command.task_id)
            case commands.DropTask():
                handle = self._release(command.instance_id, command.task_id)
                self._worker_send(command.instance_id, wire.KernelFrame(cancel=wire.Cancel(handle=handle)))
            case commands.StartWorker():
                self._start(command)
            case commands.StopWorker():
                self.supervisor.workers[command.instance_id].stop()
            case commands.TellModel():
                self.models_changed.notify()
            case _:
                assert_never(command)

    def _start(self, command: commands.StartWorker) -> None:
        assert self._group is not None, "the driver is not running"  # noqa: S101 - a defect of the caller
        self._instances[command.instance_id] = LiveInstance(tasks={}, handles={})
        load = load_frame(command.instance_id, command.spec, self._engine_limits)
        self.supervisor.start(self._group, command.instance_id, load)

    def _send(self, command: commands.SendTask) -> None:
        instance, task_id = self._instances[command.instance_id], command.spec.task_id
        handle = instance.next_handle
        instance.next_handle += 1
        stream = self.streams.get(task_id)
        instance.tasks[handle] = Dispatched(task_id, command.attempt, stream)
        instance.handles[task_id] = handle
        stream.tell(Started(command.instance_id, command.attempt))
        self._worker_send(command.instance_id, submit_frame(handle, command.spec))

    def _worker_send(self, instance_id: InstanceId, frame: wire.KernelFrame) -> None:
        if (worker := self.supervisor.workers.get(instance_id)) is not None:
            worker.send(frame)

    def _release(self, instance_id: InstanceId, task_id: TaskId) -> int:
        instance = self._instances[instance_id]
        handle = instance.handles.pop(task_id)
        del instance.tasks[handle]
        return handle

    def _finish(self, task: Task, outcome: Outcome) -> None:
        task_id = task.spec.task_id
        spec = self.machine.fleet.models[task.spec.model].spec
        stream = self.streams.get(task_id)
        if outcome.usage.output_tokens < stream.output_tokens:  # ended by the kernel: it counts what was told
            outcome = replace(outcome, usage=Usage(output_tokens=stream.output_tokens))
        end = task.finished if task.finished is not None else self.clock.now()
        dispatched = task.started if task.started is not None else end
        worker = self.supervisor.workers.get(task.instance_id) if task.instance_id is not None else None
        first = stream.first_output_at
        receipt = Receipt(
            queue_s=dispatched - task.created,
            first_token_s=None if first is None else first - task.created,
            run_s=end - dispatched,
            backend=spec.backend if task.attempt else "",
            device=spec.device if task.attempt else "",
            worker_memory_bytes=worker.memory_bytes if worker is not None else 0,
        )
        self.streams.finish(task_id, Finished(outcome, receipt))


class _Details:
    """What a step tells of some of its outputs besides tokens and text."""

    def __init__(self, step: wire.StepOutput) -> None:
        self._step = step
        self._ends = {(end.handle, end.sample): FinishReason(end.finish_reason) for end in step.sample_ends}
        self.any = bool(step.samples or self._ends or step.logprobs)

    def add(self, place: int, output: Output) -> Output:
        """The output at a place in the step, with all that is told of it."""
        step = self._step
        sample = step.samples[place] if step.samples else 0
        return replace(
            output,
            sample=sample,
            logprobs=read_logprobs(step.logprobs[place]) if place in step.logprobs else None,
            reason=self._ends.get((step.handles[place], sample), FinishReason.UNSPECIFIED),
        )


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.NoSuchProcess:
        return 0
