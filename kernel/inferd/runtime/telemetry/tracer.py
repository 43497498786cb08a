"""A trace of each task: one span from its creation to its end, and one for each phase between; never one for a token.

What is noted is a few numbers for each attempt. Spans are made of them, and sent, in a thread of their own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core import changes
from inferd.core.task import TaskState
from inferd.runtime.telemetry.trace_context import CALL, TRACEPARENT, TraceContext, read_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import InstanceId, TaskId
    from inferd.core.task import TaskSpec
    from inferd.core.task_events import Finished
    from inferd.core.views import Views
    from inferd.runtime.clock import Clock
    from inferd.runtime.streams import Streams

MOST_PHASES = 64  # of one task; of more their number is told
FIRST_ATTEMPT = 1


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the life of a task; instants are of the kernel's clock.

    Attributes:
        name: queue, load, suspended, prefill, decode or run.
        attempt: Which one it is a part of; 0 for none.
        reason: Why it ended, where that was not its end.
    """

    name: str
    begin: float
    end: float
    attempt: int = 0
    instance: str = ""
    reason: str = ""


@dataclass(slots=True)
class TaskTrace:
    """The trace of a task that has not ended, or has. One writer: the tracer.

    Attributes:
        parent: What it is a part of; None where it begins a trace.
        since: When the phase under way began.
        left_out: Phases beyond `MOST_PHASES`.
    """

    spec: TaskSpec
    parent: TraceContext | None
    created: float
    since: float
    phases: list[Phase] = field(default_factory=list)
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    instance: str = ""
    left_out: int = 0
    end: changes.TaskEnd | None = None
    finished: Finished | None = None


class Tracer:
    """Notes what becomes of tasks. One writer: the driver.

    Args:
        views: Of the core.
        streams: When a task gave its first output.
        clock: The time of tasks.
        sample: The part of tasks that is traced where their clients do not say it.
        give: Takes the traces of tasks that have ended; must not wait.
        chance: From 0 to 1.
    """

    def __init__(
        self,
        views: Views,
        streams: Streams,
        clock: Clock,
        *,
        sample: float,
        give: Callable[[TaskTrace], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._views = views
        self._streams = streams
        self._clock = clock
        self._sample = sample
        self._give = give
        self._chance = chance
        self._open: dict[TaskId, TaskTrace] = {}  # as many as there are tasks that have not ended

    def see(self, change: changes.Change) -> None:
        """The core has changed something."""
        match change:
            case changes.TaskAccepted(spec, created=created):
                self._begin(spec, created)
            case changes.TaskRestored(task_id):
                if (task := self._views.find_task(task_id)) is not None and task.outcome is None:
                    self._begin(task.spec, self._clock.now())
            case changes.TaskChanged():
                if (trace := self._open.get(change.task_id)) is not None:
                    self._move(trace, change)
            case changes.TaskForgotten(task_id):
                self._open.pop(task_id, None)

    def ended(self, change: changes.TaskChanged, finished: Finished) -> None:
        """A task has ended, and this is what it has cost."""
        if (trace := self._open.pop(change.task_id, None)) is not None:
            trace.finished = finished
            self._give(trace)

    def _begin(self, spec: TaskSpec, created: float) -> None:
        parent = read_traceparent(spec.labels.get(TRACEPARENT, "") or CALL.get())
        if parent.sampled if parent is not None else self._chance() < self._sample:
            self._open[spec.task_id] = TaskTrace(spec, parent, created, created)

    def _move(self, trace: TaskTrace, change: changes.TaskChanged) -> None:
        """A phase ends, and the next begins."""
        now = change.end.finished if change.end is not None else self._clock.now()
        reason = "" if change.reason is None else change.reason.name.lower()
        if trace.state is TaskState.RUNNING:
            self._end_attempt(trace, now, reason)
        elif trace.state is TaskState.QUEUED:
            self._add(trace, Phase("queue", trace.since, now))
            if change.state is TaskState.RUNNING and change.instance_id is not None:
                self._tell_load(trace, change.instance_id, now)
        else:
            self._add(trace, Phase("suspended", trace.since, now))
        trace.state, trace.since, trace.end = change.state, now, change.end
        trace.attempt, trace.instance = change.attempt, change.instance_id or ""

    def _tell_load(self, trace: TaskTrace, instance_id: InstanceId, now: float) -> None:
        """Where it waited for its model, so much of that is a phase, too."""
        if (instance := self._views.find_instance(instance_id)) is None or instance.ready is None:
            return
        begin, end = max(instance.created, trace.since), min(instance.ready, now)
        if begin < end:
            self._add(trace, Phase("load", begin, end, instance=instance_id))

    def _end_attempt(self, trace: TaskTrace, now: float, reason: str) -> None:
        first = self._streams.get(trace.spec.task_id).first_output_at
        begin, told = trace.since, (trace.attempt, trace.instance, reason)
        if trace.spec.operation == "infer":
            self._add(trace, Phase("run", begin, now, *told))
        elif first is None or first >= now:
            self._add(trace, Phase("prefill", begin, now, *told))
        else:
            if first > begin:
                self._add(trace, Phase("prefill", begin, first, trace.attempt, trace.instance))
            self._add(trace, Phase("decode", max(begin, first), now, *told))  # one that goes on reads its prompt again

    @staticmethod
    def _add(trace: TaskTrace, phase: Phase) -> None:
        if len(trace.phases) < MOST_PHASES:
            trace.phases.append(phase)
        else:
            trace.left_out += 1
