"""The events of tasks on their way to watchers: kept once per task, bounded, replayable.

A watcher is a position in the task's events. It costs the same whether it reads or not, and what it has missed is
merged when it comes to read: adjacent outputs of the same sample become one, under the number of the last.
"""

import asyncio
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Protocol
from weakref import ref

from inferd.core.ids import TaskId
from inferd.core.task_events import EmbeddingOutput, Finished, Logprobs, Output, PromptOutput, TaskEvent
from inferd.errors import EventsDroppedError, TaskNotFoundError
from inferd.runtime.continuation import Continuation
from inferd.runtime.event_budget import EventBudget
from inferd.runtime.signal import Signal

FLOAT_BYTES = 4
EVENT_BYTES = 200  # of the objects that hold one event, text and ids apart: measured with sys.getsizeof
TOKEN_BYTES = 36  # of a number in a tuple
ID_BYTES = 4  # of one in an array
LOGPROB_BYTES = 8  # of a token's id and logarithm


class Listener(Protocol):
    """Who is told that a stream has a new event."""

    def told(self, *, hurries: bool) -> None:
        """There is one; `hurries` when it is not to wait for an interval."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event with its place in the task's sequence, counted from 1."""

    sequence: int
    event: TaskEvent


def cost_bytes(event: TaskEvent) -> int:
    """What holding an event costs, in bytes."""
    if isinstance(event, Output | PromptOutput):
        each = ID_BYTES if isinstance(event.token_ids, array) else TOKEN_BYTES
        size_bytes = EVENT_BYTES + 4 * len(event.text) + each * len(event.token_ids)
        if event.logprobs is not None:
            size_bytes += LOGPROB_BYTES * (len(event.logprobs.token_ids) + len(event.logprobs.top_ids))
        return size_bytes
    if isinstance(event, EmbeddingOutput):
        return EVENT_BYTES + FLOAT_BYTES * len(event.values)
    return EVENT_BYTES


def _kind(event: TaskEvent) -> tuple[type[TaskEvent], int]:
    """Equal for events that are merged when they are adjacent and outputs."""
    return (type(event), event.sample if type(event) is Output else 0)


def _merge(outputs: Sequence[TaskEvent]) -> Output:
    merged = [event for event in outputs if isinstance(event, Output)]
    return Output(
        "".join(event.text for event in merged),
        tuple(i for event in merged for i in event.token_ids),
        merged[0].sample,
        _join([event.logprobs for event in merged if event.logprobs is not None]),
        merged[-1].reason,
    )


def _join(logprobs: Sequence[Logprobs]) -> Logprobs | None:
    if not logprobs:
        return None
    return Logprobs(
        array("I", chain.from_iterable(some.token_ids for some in logprobs)),
        array("f", chain.from_iterable(some.logprobs for some in logprobs)),
        array("I", chain.from_iterable(some.top_ids for some in logprobs)),
        array("f", chain.from_iterable(some.top_logprobs for some in logprobs)),
    )


class TaskStream:
    """The events of one task. One writer: the driver.

    Attributes:
        task_id: The task.
        output_tokens: Tokens told so far.
        first_output_at: When the first of them was told, on the kernel's clock; set by the driver.
        runners: Open calls that run the task; see `Attendance`.
        comings: How many calls have ever run it.
        linger_s: For how long it goes on without any, as the last of them said.
        detached: Whether one of them asked that the task outlives them.
        finished: The last event, once it has been told.
        size_bytes: What the held events cost.
        continuation: What the task needs to go on elsewhere; until its end.
        listeners: Told of each event, besides those who `follow`; in the order in which they came.
    """

    def __init__(self, task_id: TaskId, limit_bytes: int, budget: EventBudget) -> None:
        self.task_id = task_id
        self.output_tokens = 0
        self.first_output_at: float | None = None
        self.runners = 0
        self.comings = 0
        self.linger_s = 0.0
        self.detached = False
        self.finished: Finished | None = None
        self.size_bytes = 0
        self.continuation = Continuation()
        self.listeners: dict[Listener, None] = {}
        self._limit_bytes = limit_bytes
        self._newest_bytes = 0
        self._budget: EventBudget | None = budget  # until the task ends
        self._events: list[TaskEvent] = []
        self._dropped = 0
        self._signal = Signal()
        self._hurry = Signal()  # what comes between outputs is not to wait, nor what would be dropped unread
        self._calm_bytes = 0  # told since then

    @property
    def last_sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._dropped + len(self._events)

    def tell(self, event: TaskEvent) -> None:
        """Add an event and wake the watchers; drop the oldest events beyond the bound."""
        if isinstance(event, Output):
            self.output_tokens += len(event.token_ids)
            self.continuation.take(event)
        elif isinstance(event, PromptOutput):
            self.continuation.take(event)
        elif isinstance(event, Finished):
            self.finished = event
            self.continuation = Continuation()
        size_bytes = cost_bytes(event)
        self._events.append(event)
        self.size_bytes += size_bytes
        self._calm_bytes += size_bytes
        hurries = not isinstance(event, Output) or self._calm_bytes > self._limit_bytes // 4
        if hurries:
            self._calm_bytes = 0
            self._hurry.notify()
        self._newest_bytes = size_bytes
        if self.size_bytes > self._limit_bytes:
            self._drop(self._limit_bytes * 3 // 4)  # a quarter at once, so that the cost is spread over many events
        if self._budget is not None:
            self._budget.count(self, self.size_bytes, self.size_bytes - size_bytes)
            self._budget.enforce()
        self._signal.notify()
        for listener in self.listeners:
            listener.told(hurries=hurries)

    def halve(self) -> None:
        """Forget the older half of all events but the last."""
        self._drop((self.size_bytes + self._newest_bytes) // 2)
        if self._budget is not None:
            self._budget.count(self, self.size_bytes, self.size_bytes - self._newest_bytes)

    def leave_budget(self) -> None:
        """The task has ended, or never was: its events do not count with those of others any more."""
        if self._budget is not None:
            self._budget.leave(self)
            self._budget = None

    def drop_events(self) -> None:
        """Forget every event but the last."""
        self._drop(0)

    def _drop(self, target_bytes: int) -> None:
        count = 0
        while self.size_bytes > target_bytes and count < len(self._events) - 1:
            self.size_bytes -= cost_bytes(self._events[count])
            count += 1
        del self._events[:count]
        self._dropped += count

    def read(self, after: int) -> list[Numbered]:
        """What is there behind number `after`, adjacent outputs of a sample merged.

        Raises:
            EventsDroppedError: Events behind `after` were dropped.
        """
        if after < self._dropped:
            first = self._dropped + 1
            raise EventsDroppedError(
                f"events {after + 1} to {self._dropped} are no longer held; the first one is {first}",
                metadata={"first_sequence": str(first)},
                field="after_sequence",
            )
        batch: list[Numbered] = []
        number = after
        for (kind, _), group in groupby(self._events[after - self._dropped :], _kind):
            run = list(group)
            if kind is Output and len(run) > 1:
                number += len(run)
                batch.append(Numbered(number, _merge(run)))
                continue
            for event in run:
                number += 1
                batch.append(Numbered(number, event))
        return batch

    async def follow(self, after: int, interval_s: float = 0.0) -> AsyncIterator[list[Numbered]]:
        """All events behind number `after`, in batches as they come; ends after `Finished`.

        Args:
            after: Number of the last event that is left out.
            interval_s: Least time from a batch with output to the next one, unless another event comes before, or more
                output than can be kept for long.

        Raises:
            EventsDroppedError: This watcher was too slow, or asks for events from before the oldest one held.
        """
        while True:
            if after < self.last_sequence:
                batch, hurries = self.read(after), self._hurry.version
                after = batch[-1].sequence
                yield batch
                if interval_s and self.finished is None and any(isinstance(n.event, Output) for n in batch):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(interval_s):
                            await self._hurry.wait(hurries)
            elif self.finished is not None:
                return
            else:
                await self._signal.wait(self._signal.version)


class Streams:
    """The streams of all tasks. One writer: the driver.

    When the events of ended tasks cost more than `retained_bytes`, those of the task that ended first are dropped, also
    of one that is forgotten and that somebody still reads; when those of others cost more than `events_bytes`, the task
    that holds the most loses the older half.
    """

    def __init__(self, *, stream_bytes: int, retained_bytes: int, events_bytes: int) -> None:
        self._stream_bytes = stream_bytes
        self._budget = EventBudget(events_bytes)
        self._retained_bytes = retained_bytes
        self._streams: dict[TaskId, TaskStream] = {}
        self._ended: OrderedDict[TaskId, int] = OrderedDict()  # what each costs; those whose events were not dropped
        self._ended_bytes = 0
        self._read: dict[TaskId, ref[TaskStream]] = {}  # of them, those that are forgotten and still held
        self._released: deque[TaskId] = deque()  # of those, whom nobody holds any more

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
        stream.leave_budget()
        self._ended[task_id] = stream.size_bytes
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
        stream = self._streams.pop(task_id)
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
