"""From the frames of workers to the streams of tasks: which handle of which link is which task."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from inferd.core.canary import NO_PACE, Pace
from inferd.core.commands import SendTask
from inferd.core.ids import InstanceId, TaskId
from inferd.core.task import FinishReason, Outcome, TaskState
from inferd.core.task_events import EmbeddingOutput, Moderated, Output, Phase, Progress
from inferd.errors import BackendFailedError
from inferd.runtime.clock import Clock
from inferd.runtime.frames import read_logprobs, read_prompt, read_tensors
from inferd.runtime.link import Arrived
from inferd.runtime.probes import ProbeStream
from inferd.runtime.rate import Rate
from inferd.runtime.stream import TaskStream
from inferd.shared import MemoryRefusedError
from inferd_api.worker.v1 import step_pb2


@dataclass(slots=True)
class Dispatched:
    """A task on its worker, or a prompt of a probe: where its output goes."""

    task_id: TaskId
    attempt: int
    stream: TaskStream | ProbeStream
    sent: float
    awaited: bool = False  # whether its first output is to be told
    silent: set[int] = field(default_factory=set)  # of one that runs alone: samples that have told nothing new

    def pace(self, output_tokens: int, now: float) -> Pace:
        """How fast it came, if it ends now with so many tokens; nothing is said of one that was stopped."""
        if self.attempt > 1 or (first := self.stream.first_output_at) is None:
            return NO_PACE
        return Pace(first - self.sent, (now - first) / (output_tokens - 1) if output_tokens > 1 else None)


@dataclass(slots=True)
class LinkTasks:
    """The tasks of one link, by handle."""

    tasks: dict[int, Dispatched] = field(default_factory=dict)
    handles: dict[TaskId, int] = field(default_factory=dict)
    next_handle: int = 1


class Relay:
    """The tasks that workers hold. One writer: the driver.

    Args:
        clock: The time of tasks.
        output_bytes: Most of a set of tensors that may be in memories.

    Attributes:
        rate: Output tokens a second.
        let_go: Called with the worker and the handle of each task that a worker holds no longer.
    """

    def __init__(self, clock: Clock, *, output_bytes: int) -> None:
        self.rate = Rate()
        self.let_go: Callable[[InstanceId, int], object] = lambda *_: None
        self._refused: list[tuple[Dispatched, MemoryRefusedError]] = []
        self._begun: list[TaskId] = []
        self._output_bytes = output_bytes
        self._clock = clock
        self._links: dict[InstanceId, LinkTasks] = {}

    def open(self, instance_id: InstanceId, *, first_handle: int = 1) -> None:
        """A worker is being started, or was there before: what it says of lower handles is of no task."""
        self._links[instance_id] = LinkTasks(next_handle=first_handle)

    def close(self, instance_id: InstanceId) -> None:
        """A worker is gone."""
        for handle in self._links.pop(instance_id).tasks:
            self.let_go(instance_id, handle)

    def abandon(self, instance_id: InstanceId) -> None:
        """A worker is lost with its host: what it still says is of no task."""
        for handle in self._links[instance_id].tasks:
            self.let_go(instance_id, handle)
        self._links[instance_id].tasks.clear()
        self._links[instance_id].handles.clear()

    def add(self, order: SendTask, stream: TaskStream | ProbeStream) -> int:
        """A task goes to a worker; its handle there."""
        link, task_id = self._links[order.instance_id], order.spec.task_id
        handle = link.next_handle
        link.next_handle += 1
        dispatched = link.tasks[handle] = Dispatched(
            task_id, order.attempt, stream, self._clock.now(), awaited=order.awaited
        )
        if order.alone:
            dispatched.silent = stream.continuation.unfinished(order.spec.demand.samples)
        link.handles[task_id] = handle
        return handle

    def find(self, instance_id: InstanceId, handle: int) -> Dispatched | None:
        """The task of a handle; None when it was dropped while the frame was under way."""
        return self._links[instance_id].tasks.get(handle)

    def take_refused(self, instance_id: InstanceId, log: Mapping[str, str]) -> Iterator[tuple[Dispatched, Outcome]]:
        """Tasks of a worker that gave what may not be read, once, and how they end."""
        refused, self._refused = self._refused, []
        for task, cause in refused:
            if self.has(instance_id, task):
                message = f"the worker gave outputs that cannot be read: {cause}"
                error = BackendFailedError(message, metadata={"cause": str(cause), **log})
                yield task, Outcome(state=TaskState.FAILED, error=error)

    def take_begun(self) -> list[TaskId]:
        """Awaited tasks that have given their first output, once."""
        begun, self._begun = self._begun, []
        return begun

    def _begin(self, task: Dispatched, now: float) -> None:
        """A task gives output."""
        if task.stream.first_output_at is None:
            task.stream.first_output_at = now
        if task.awaited:
            task.awaited = False
            self._begun.append(task.task_id)

    def has(self, instance_id: InstanceId, task: Dispatched) -> bool:
        """Whether a worker still has a task, in this attempt."""
        handle = self._links[instance_id].handles.get(task.task_id)
        return handle is not None and self._links[instance_id].tasks[handle] is task

    def drop(self, instance_id: InstanceId, task_id: TaskId) -> int:
        """A worker holds a task no longer; the handle that it had."""
        link = self._links[instance_id]
        handle = link.handles.pop(task_id)
        del link.tasks[handle]
        self.let_go(instance_id, handle)
        return handle

    def tell(self, instance_id: InstanceId, step: step_pb2.StepOutput, memories: Arrived = ()) -> list[Dispatched]:
        """One step of an engine: one wake-up for each stream with new tokens, however many there are.

        Returns:
            Tasks that ran alone, and of which each sample has told something new now.
        """
        passed: list[Dispatched] = []
        tasks = self._links[instance_id].tasks
        self._tell_of_prompts(tasks, step)
        self._tell_of_calls(tasks, step)
        passed += self._tell_tensors(tasks, step, memories)
        token_ids = array("I", step.token_ids)
        details = _Details(step)
        now = self._clock.now()
        self.rate.add(len(token_ids), now)
        start = 0
        for place, (handle, count, text) in enumerate(zip(step.handles, step.counts, step.texts, strict=True)):
            ids = token_ids[start : start + count]
            start += count
            if (task := tasks.get(handle)) is None:
                continue  # cancelled while the frame was under way
            stream = task.stream
            if stream.first_output_at is None or task.awaited:
                self._begin(task, now)
            if details.any:
                stream.tell(details.add(place, Output(text, tuple(ids))))
            else:
                stream.tell_tokens(text, ids)
            if task.silent:
                task.silent.discard(details.sample(place))
                passed += [] if task.silent else [task]
        for cut in step.moderated:
            if (moderated := tasks.get(cut.handle)) is not None:
                moderated.stream.tell(Moderated(cut.rule, cut.action, cut.spans, cut.sample))
        return passed

    def _tell_of_prompts(self, tasks: Mapping[int, Dispatched], step: step_pb2.StepOutput) -> None:
        for prefill in step.prefills:
            if (reading := tasks.get(prefill.handle)) is not None:
                reading.stream.tell(Progress(Phase.PREFILL, prefill.fraction))
        for begun in step.begun_prompts:
            if (reader := tasks.get(begun.handle)) is not None:
                reader.stream.continuation.cached_tokens = begun.cached_tokens
        for prompt in step.prompts:
            if (asking := tasks.get(prompt.handle)) is not None:
                asking.stream.tell(read_prompt(prompt))
        for embedding in step.embeddings:
            if (embedded := tasks.get(embedding.handle)) is not None:
                self._begin(embedded, self._clock.now())
                embedded.stream.tell(EmbeddingOutput(array("f", embedding.values)))

    @staticmethod
    def _tell_of_calls(tasks: Mapping[int, Dispatched], step: step_pb2.StepOutput) -> None:
        for called in step.called:
            if (calling := tasks.get(called.handle)) is not None:
                calling.stream.tell(Progress(Phase.CALL, called.fraction))

    def _tell_tensors(
        self, tasks: Mapping[int, Dispatched], step: step_pb2.StepOutput, memories: Arrived
    ) -> list[Dispatched]:
        """Sets of tensors; those tasks that ran alone and have told something new with that."""
        passed = []
        for given in step.tensors:
            if (task := tasks.get(given.handle)) is None:
                continue
            try:
                told = read_tensors(given, memories, self._output_bytes)
            except MemoryRefusedError as error:
                self._refused.append((task, error))
                continue
            self._begin(task, self._clock.now())
            task.stream.tell(told)
            if task.silent:
                task.silent.clear()
                passed.append(task)
        return passed


class _Details:
    """What a step tells of some of its outputs besides tokens and text."""

    def __init__(self, step: step_pb2.StepOutput) -> None:
        self._step = step
        self._ends = {(end.handle, end.sample): FinishReason(end.finish_reason) for end in step.sample_ends}
        self.any = bool(step.samples or self._ends or step.logprobs or step.computed)

    def sample(self, place: int) -> int:
        """Whose the output at a place in the step is."""
        return self._step.samples[place] if self._step.samples else 0

    def add(self, place: int, output: Output) -> Output:
        """The output at a place in the step, with all that is told of it."""
        step, sample = self._step, self.sample(place)
        return output._replace(
            sample=sample,
            logprobs=read_logprobs(step.logprobs[place]) if place in step.logprobs else None,
            reason=self._ends.get((step.handles[place], sample), FinishReason.UNSPECIFIED),
            computed=tuple(step.computed[place].token_ids) if place in step.computed else None,
        )
