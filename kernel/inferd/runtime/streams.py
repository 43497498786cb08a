"""The streams of all tasks, and how much of those of ended ones is held."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING
from weakref import ref

from inferd.errors import TaskNotFoundError
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.stream import TaskStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import TaskId
    from inferd.core.task_events import Finished
    from inferd.runtime.stream import ToldBefore


def _nobody(_: float) -> None:
    """Nobody asks."""


class Streams:
    """The streams of all tasks. One writer: the driver.

    When the events of ended tasks cost more than `retained_bytes`, those of the task that ended first are dropped, also
    of one that is forgotten and that somebody still reads. Until those who follow a task have its end, its events count
    with those of living ones. When those of others cost more than `events_bytes`, the task
    that holds the most loses the older half.

    Attributes:
        bounds_bytes: As given, of one stream and of those that have not ended.
        lagged: Told how long after the end of a task all who followed it had taken that, or gone, in seconds.
    """

    def __init__(self, *, stream_bytes: int, retained_bytes: int, events_bytes: int) -> None:
        self.lagged: Callable[[float], None] = _nobody
        self.bounds_bytes = stream_bytes, events_bytes  # of one task, and of all that have not ended
        self._stream_bytes = stream_bytes
        self._budget = EventBudget(events_bytes)
        self._retained_bytes = retained_bytes
        self._streams: dict[TaskId, TaskStream] = {}
        self._ended: OrderedDict[TaskId, int] = OrderedDict()  # what each costs; those whose events were not dropped
        self._ended_bytes = 0
        self._read: dict[TaskId, ref[TaskStream]] = {}  # of them, those that are forgotten and still held
        self._released: deque[TaskId] = deque()  # of those, whom nobody holds any more

    def recall(self, task_id: TaskId, told: ToldBefore) -> TaskStream:
        """Make the stream of an ended task of a kernel before this one: it holds its end alone, and counts nowhere."""
        stream = self._streams[task_id] = TaskStream(task_id, self._stream_bytes, None)
        stream.go_on(told)
        stream.detached = stream.ended = True
        return stream

    def open(self, task_id: TaskId) -> TaskStream:
        """Make the stream of a new task."""
        stream = self._streams[task_id] = TaskStream(task_id, self._stream_bytes, self._budget)
        return stream

    def get(self, task_id: TaskId) -> TaskStream:
        """The stream of a task.

        Raises:
            TaskNotFoundError: The task is not known any more.
        """
        try:
            return self._streams[task_id]
        except KeyError:
            raise TaskNotFoundError(f"no task {task_id!r}; it never was, or its retention ended") from None

    def finish(self, task_id: TaskId, event: Finished) -> None:
        """Tell the last event of a task."""
        stream = self._streams[task_id]
        stream.tell(event)
        if stream.finished is not None:
            self.ended(stream)

    def ended(self, stream: TaskStream) -> None:
        """The last event of a task is there to be read."""
        if self._streams.get(stream.task_id) is not stream:
            stream.leave_budget()  # it was forgotten before that
        elif stream.awaited:
            ended = time.monotonic()
            stream.when_read(lambda: self._read_out(stream, ended))
        else:
            self._end(stream)

    def _read_out(self, stream: TaskStream, ended: float) -> None:
        self.lagged(time.monotonic() - ended)
        self._end(stream)

    def _end(self, stream: TaskStream) -> None:
        """Nobody who followed a task to its end waits for its events any more: they count with those of ended ones."""
        if stream.ended or self._streams.get(stream.task_id) is not stream:
            return
        stream.ended = True
        stream.leave_budget()
        self._ended[stream.task_id] = stream.size_bytes
        self._ended_bytes += stream.size_bytes
        self._settle()
        while self._ended_bytes > self._retained_bytes and self._ended:
            oldest, size_bytes = self._ended.popitem(last=False)
            self._ended_bytes -= size_bytes
            held = self._read.pop(oldest, None)
            ended = self._streams.get(oldest) if held is None else held()
            if ended is not None:
                ended.drop_events()

    def forget(self, task_id: TaskId) -> None:
        """Drop a stream; those who hold it read to its end, and its events count for as long as they do."""
        stream = self._streams[task_id]
        if stream.finished is not None:
            self._end(stream)
        del self._streams[task_id]
        stream.leave_budget()
        if task_id in self._ended:
            released = self._released
            self._read[task_id] = ref(stream, lambda _: released.append(task_id))  # in whatever thread that is
            del stream
            self._settle()

    def close(self) -> None:
        """Let go of all, as the kernel has ended: a call that gRPC never ends may hold it, but not what tasks told."""
        self._streams.clear()

    def _settle(self) -> None:
        """Count no more what nobody holds."""
        while self._released:
            task_id = self._released.popleft()
            self._ended_bytes -= self._ended.pop(task_id, 0)
            self._read.pop(task_id, None)
