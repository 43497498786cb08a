"""The events of tasks on their way to watchers: kept once per task, bounded, replayable.

A watcher is a position in the task's events. It costs the same whether it reads or not, and what it has missed is
merged when it comes to read: adjacent outputs of the same sample become one, under the number of the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from inferd.core.task_events import NOTHING_ASKED, Finished, Output, PromptOutput, TaskEvent, TensorOutput
from inferd.runtime.continuation import Continuation
from inferd.runtime.event_log import EventLog, Numbered
from inferd.runtime.signal import Signal
from inferd.runtime.urgency import MOMENT_S, PUT_OUT, Urgency, entry_urgency, urgency_of

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Sequence

    from inferd.core.ids import TaskId
    from inferd.core.task import TaskState
    from inferd.errors import InferdError
    from inferd.runtime.event_budget import EventBudget
    from inferd.runtime.event_log import Entry


MOST_END_BYTES = 4096  # of the events behind the last output of a task


Past = Callable[[int, int], Awaitable[list[Numbered]]]
"""Gives events behind the first number, at least the next one; what lies behind the second number is held."""


class Listener(Protocol):
    """Who is told that a stream has a new event."""

    def told(self, urgency: Urgency) -> None:
        """There is one, which may wait so long."""


def _nothing() -> None:
    """Nothing is held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldBefore:
    """What a task has told to kernels before this one.

    Attributes:
        last: Number of the newest event.
        end: That event, where it is the end of the task.
        output_tokens: Tokens told.
        continuation: What the task needs to go on.
        first_output_at: When the first of its output was told; None where that is not known.
    """

    last: int = 0
    end: Numbered | None = None
    output_tokens: int = 0
    first_output_at: float | None = None
    continuation: Continuation = field(default_factory=Continuation)


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
        ended: Whether its events count with those of ended tasks; set by `Streams`.
        continuation: What the task needs to go on elsewhere; until its end.
        listeners: Told of each event, besides those who `follow`; in the order in which they came.
        failure: Why nothing more is told though the task has not ended; None where that is not so.
        past: Reads back some of what lies between two numbers, where the store has it; None where nothing has.
        deleted: Whether what it has told before its end is in the store no more.
        shown, hidden: The state in which a kept task is written, and whether nothing is; see `front.shown`.
        pressing: Number of the newest event that does not wait a moment; 0 before the first.
        asked: What the task, a call of a function, has asked of models so far.
    """

    def __init__(self, task_id: TaskId, limit_bytes: int, budget: EventBudget | None) -> None:
        self.task_id = task_id
        self.output_tokens = 0
        self.first_output_at: float | None = None
        self.runners = 0
        self.comings = 0
        self.linger_s = 0.0
        self.detached = False
        self.finished: Finished | None = None
        self.ended = False
        self.continuation = Continuation()
        self.listeners: dict[Listener, None] = {}
        self.failure: InferdError | None = None
        self.past: Past | None = None
        self.shown: TaskState | None = None
        self.hidden = self.deleted = False
        self.pressing = 0
        self.asked = NOTHING_ASKED
        self._ahead: EventLog | None = None  # what is held back
        self._held_back: Callable[[], None] = _nothing
        self._followers = 0  # who have not been given the end yet
        self._read: Callable[[], None] | None = None  # called once when nobody waits for its events any more
        self._limit_bytes = limit_bytes
        self._budget: EventBudget | None = budget  # until the task ends
        self._counted_bytes = 0  # by it
        self._log = EventLog()
        self._signal = Signal()
        self._hurry = Signal()  # what comes between outputs is not to wait, nor what would be dropped unread
        self._calm_bytes = 0  # told since then

    @property
    def last_sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._log.last

    @property
    def dropped(self) -> int:
        """How many of the oldest events are held no more."""
        return self._log.dropped

    @property
    def size_bytes(self) -> int:
        """What the held events cost."""
        return self._log.size_bytes

    @property
    def ahead_bytes(self) -> int:
        """What the events cost that are held back and were not taken yet."""
        return 0 if self._ahead is None else self._ahead.size_bytes

    def tell(self, event: TaskEvent) -> None:
        """Add an event and wake the watchers; drop the oldest events beyond the bound."""
        if isinstance(event, Output):
            self.output_tokens += len(event.token_ids)
            self.continuation.take(event)
        elif isinstance(event, PromptOutput | TensorOutput):
            self.continuation.take(event)
            if isinstance(event, TensorOutput):  # the last set is held with the end behind it, however large it is
                self._limit_bytes = max(self._limit_bytes, 2 * (event.size_bytes + MOST_END_BYTES))
        elif isinstance(event, Finished):
            self.continuation = Continuation()
            self.finished = event if self._ahead is None else None
        if self._ahead is not None:
            self._ahead.add(event)
            self._held_back()
        else:
            self._wake(self._log.add(event), urgency_of(type(event)))

    def tell_tokens(self, text: str, token_ids: array[int]) -> None:
        """Tell an output of sample 0 of which there is nothing else to say: what most steps give, at little cost."""
        self.output_tokens += len(token_ids)
        self.continuation.extend(token_ids)
        if self._ahead is not None:
            self._ahead.add_tokens(text, token_ids)
            self._held_back()
        else:
            self._wake(self._log.add_tokens(text, token_ids), Urgency.INTERVAL)

    def hold_back(self, held_back: Callable[[], None]) -> None:
        """From now on show nothing before it is released; `held_back` is called each time that something waits."""
        self._ahead = EventLog()
        self._ahead.last = self._log.last
        self._held_back = held_back

    def told(self) -> list[Entry]:
        """All that is there to be read, unmerged; until the next event."""
        return self._log.entries()

    def take(self) -> list[Entry]:
        """What is held back and was not taken yet: to be kept, and then released."""
        return [] if self._ahead is None else self._ahead.take()

    def release(self, entries: Sequence[Entry]) -> None:
        """Show what was taken, in its order."""
        if not entries:
            return
        size_bytes = sum([self._log.put(entry) for entry in entries])
        urgency = min(map(entry_urgency, entries))
        last = entries[-1]
        if isinstance(last, Numbered) and isinstance(last.event, Finished):
            self.finished = last.event
        self._wake(size_bytes, urgency)

    def let_go(self) -> None:
        """Hold nothing back any more."""
        entries = self.take()
        self._ahead, self._held_back = None, _nothing
        self.release(entries)

    def go_on(self, told: ToldBefore) -> None:
        """Go on behind what the task has told to a kernel before this one; nobody watches yet."""
        self.output_tokens, self.continuation = told.output_tokens, told.continuation
        self.first_output_at = told.first_output_at
        self._log.go_on(told.last, told.end)
        if told.end is not None and isinstance(told.end.event, Finished):
            self.finished = told.end.event
        if self._budget is not None:
            self._count(self._budget)

    def fail(self, why: InferdError) -> None:
        """Tell watchers, behind all that there is, that they hear nothing more, and why; the task has not ended."""
        self.failure = why
        self._hurry.notify()
        self._signal.notify()
        for listener in tuple(self.listeners):
            listener.told(Urgency.AT_ONCE)

    def _wake(self, size_bytes: int, urgency: Urgency) -> None:
        """There is an event of such a size."""
        if urgency is not Urgency.MOMENT:
            self.pressing = self._log.last
        self._calm_bytes += size_bytes
        if urgency is not Urgency.INTERVAL or self._calm_bytes > self._limit_bytes // 4:
            urgency = urgency if urgency is Urgency.MOMENT else Urgency.AT_ONCE
            self._calm_bytes = 0
            self._hurry.notify()
        if self._log.size_bytes > self._limit_bytes:
            self._log.drop(self._limit_bytes * 3 // 4)  # a quarter at once, so that the cost is spread over many events
        if self._budget is not None:
            self._count(self._budget)
            self._budget.enforce()
        self._signal.notify()
        for listener in self.listeners:
            listener.told(urgency)

    def _count(self, budget: EventBudget) -> None:
        size_bytes = self._log.size_bytes
        budget.change(self, size_bytes - self._counted_bytes, size_bytes - self._log.newest_bytes)
        self._counted_bytes = size_bytes

    def halve(self) -> None:
        """Forget the older half of all events but the last."""
        self._log.drop((self._log.size_bytes + self._log.newest_bytes) // 2)
        if self._budget is not None:
            self._count(self._budget)

    def leave_budget(self) -> None:
        """The task has ended, or never was: its events do not count with those of others any more."""
        if self._budget is not None:
            self._budget.leave(self, self._counted_bytes)
            self._budget = None

    def drop_events(self) -> None:
        """Forget every event but the last."""
        self._log.drop(0)

    def read(self, after: int) -> list[Numbered]:
        """What is held behind number `after`, adjacent outputs of a sample merged.

        Raises:
            EventsDroppedError: Events behind `after` were dropped; see `reads_back`.
            InferdError: `failure`, when there is nothing more.
        """
        if self.failure is not None and after >= self._log.last:
            raise self.failure
        return self._log.read(after)

    def reads_back(self, after: int) -> bool:
        """Whether what comes next behind number `after` is held no more, but may be read back."""
        return after < self._log.dropped and self.past is not None

    async def read_back(self, after: int) -> list[Numbered]:
        """Some of what comes behind number `after`, where it `reads_back`; adjacent outputs of a sample merged.

        Raises:
            EventsDroppedError: It is not in the store either, or cannot be read.
            StoreUnavailableError: The store cannot be read now.
        """
        if self.past is None:
            return self.read(after)
        return await self.past(after, self._log.dropped)

    @property
    def awaited(self) -> bool:
        """Whether somebody who follows it was not given its end yet."""
        return self._followers > 0 or bool(self.listeners)

    def when_read(self, done: Callable[[], None]) -> None:
        """Call this once when it is `awaited` no longer, which it is now."""
        self._read = done

    def leave(self, listener: Listener) -> None:
        """Tell somebody of events no more."""
        del self.listeners[listener]
        self._check_read()

    def _check_read(self) -> None:
        if self._read is not None and not self.awaited:
            done, self._read = self._read, None
            done()

    async def follow(
        self, after: int, interval_s: float = 0.0, *, gathers: bool = False
    ) -> AsyncIterator[list[Numbered]]:
        """All events behind number `after`, in batches as they come; ends after `Finished`.

        Args:
            after: Number of the last event that is left out.
            interval_s: Least time from a batch with output to the next one, unless another event comes before, or more
                output than can be kept for long.
            gathers: Whether what may wait a moment does.

        Raises:
            EventsDroppedError: This watcher was too slow, or asks for events from before the oldest one that there is.
            StoreUnavailableError: What is held no more cannot be read now.
            InferdError: `failure`, when there is nothing more.
        """
        follows = True
        self._followers += 1
        try:
            while True:
                if after < self.last_sequence:
                    if gathers and after >= self.pressing:
                        await self._gather(after)
                    hurries = self._hurry.version
                    batch = await self.read_back(after) if self.reads_back(after) else self.read(after)
                    after = batch[-1].sequence
                    behind = after < self.last_sequence
                    if self.finished is not None and follows and not behind:  # all that there is has been taken
                        follows = False
                        self._stop_following()
                    yield batch
                    if behind:
                        continue
                    if interval_s and self.finished is None and any(isinstance(n.event, PUT_OUT) for n in batch):
                        with suppress(TimeoutError):
                            async with asyncio.timeout(interval_s):
                                await self._hurry.wait(hurries)
                elif self.finished is not None:
                    return
                elif self.failure is not None:
                    raise self.failure
                else:
                    await self._signal.wait(self._signal.version)
        finally:
            if follows:
                self._stop_following()

    async def _gather(self, after: int) -> None:
        """Wait a moment for an event that does not wait."""
        loop = asyncio.get_running_loop()
        until = loop.time() + MOMENT_S
        while after >= self.pressing and self.failure is None and (left_s := until - loop.time()) > 0:
            await self._signal.wait(self._signal.version, left_s)

    def _stop_following(self) -> None:
        self._followers -= 1
        self._check_read()
