"""The streams of all tasks, and how much of those of ended ones is held."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING
from weakref import ref

from inferd.errors import TaskNotFoundError
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.stream import TaskStream, ToldBefore

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import TaskId
    from inferd.core.task_events import Finished
    from inferd.runtime.event_log import Numbered


def _nothing(_: TaskStream) -> None:
    """Nobody keeps tasks."""


class Streams:
    """The streams of all tasks. One writer: the driver.

    When the events of ended tasks cost more than `retained_bytes`, those of the task that ended first are dropped, also
    of one that is forgotten and that somebody still reads. Until those who follow a task have its end, its events count
    with those of living ones. When those of others cost more than `events_bytes`, the task
    that holds the most loses the older half.

    Attributes:
        bounds_bytes: As given, of one stream and of those that have not ended.
        recalled: Called when the stream of a task that was kept is made.
    """

    def __init__(self, *, stream_bytes: int, retained_bytes: int, events_bytes: int) -> None:
        self.bounds_bytes = stream_bytes, events_bytes  # of one task, and of all that have not ended
        self._stream_bytes = stream_bytes
        self._budget = EventBudget(events_bytes)
        self._retained_bytes = retained_bytes
        self._streams: dict[TaskId, TaskStream] = {}
        self._ended: OrderedDict[TaskId, int] = OrderedDict()  # what each costs; those whose events were not dropped
        self._ended_bytes = 0
        self._read: dict[TaskId, ref[TaskStream]] = {}  # of them, those that are forgotten and still held
        self._released: deque[TaskId] = deque()  # of those, whom nobody holds any more
        self._past: dict[TaskId, Numbered] = {}  # the ends of tasks of kernels before this one that nobody asked for
        self.recalled: Callable[[TaskStream], None] = _nothing

    def keep(self, task_id: TaskId, end: Numbered) -> None:
        """A task of a kernel before this one has ended so; its stream is made when somebody asks for it."""
        self._past[task_id] = end

    def look(self, task_id: TaskId) -> TaskStream:
        """The stream of a task to be looked at, now and no more.

        Raises:
            TaskNotFoundError: As `get`.
        """
        end = self._past.get(task_id)
        return self.get(task_id) if end is None else self._of(task_id, end)

    def _of(self, task_id: TaskId, end: Numbered) -> TaskStream:
        stream = TaskStream(task_id, self._stream_bytes, None)
        stream.go_on(ToldBefore(last=end.sequence, end=end))
        stream.detached = True
        return stream

    def _recall(self, task_id: TaskId, end: Numbered) -> TaskStream:
        del self._past[task_id]
        stream = self._streams[task_id] = self._of(task_id, end)
        self.recalled(stream)
        self.ended(stream)
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
            if (end := self._past.get(task_id)) is not None:
                return self._recall(task_id, end)
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
            stream.when_read(lambda: self._end(stream))
        else:
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
        if self._past.pop(task_id, None) is not None:
            return
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

    def _settle(self) -> None:
        """Count no more what nobody holds."""
        while self._released:
            task_id = self._released.popleft()
            self._ended_bytes -= self._ended.pop(task_id, 0)
            self._read.pop(task_id, None)
