"""The streams that one call follows: what came of all of them since the call last looked, at once."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from inferd.errors import InferdError
from inferd.runtime.event_log import Numbered, cost_bytes
from inferd.runtime.stream import TaskStream
from inferd.runtime.urgency import MOMENT_S, PUT_OUT, Urgency

BATCH_BYTES = 1 << 20  # what `collect` gives at most; more where one event has more
REFUSAL_BYTES = 4 << 10  # more than the status of an error takes on the wire
MOST_REFUSALS = 1024  # that are not told yet; then no more orders are taken


@dataclass(slots=True, kw_only=True, eq=False)
class Followed:
    """A stream, and how far it was read.

    Attributes:
        tag: Names it in its bundle.
        stream: It.
        after: Number of the last event that was given.
        interval_s: Least time from output to output, see `TaskStream.follow`.
        stopped: Whether its reader wants nothing for now.
        ready: Whether it is among those that have something to give.
        page: What was read back of its past, and not given yet.
        fetching: The reading of the next page, or what came of it.
    """

    tag: int
    stream: TaskStream
    after: int = 0
    interval_s: float = 0.0
    stopped: bool = False
    ready: bool = False
    page: list[Numbered] = field(default_factory=list)
    fetching: asyncio.Task[list[Numbered]] | None = None
    _due: float = 0.0  # when output may be given again
    _timer: asyncio.TimerHandle | None = None
    _wake: Callable[["Followed", Urgency], None] = field(default=lambda _, __: None)

    def told(self, urgency: Urgency) -> None:
        """The stream has a new event: it is given at once, within a moment, or when its interval is over."""
        if self.stopped:
            return
        if urgency is not Urgency.INTERVAL:
            self._wake(self, urgency)
        elif not self.interval_s:
            self._wake(self, Urgency.AT_ONCE)
        elif self._timer is None and not self.ready:
            self._timer = asyncio.get_running_loop().call_at(self._due, self._wake, self, Urgency.AT_ONCE)

    def hush(self) -> None:
        """Wait for no interval any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fetches(self) -> bool:
        """Whether what comes next must be read back first, which begins with that."""
        if self.page or self.fetching is not None:
            return self.fetching is not None and not self.fetching.done()
        if not self.stream.reads_back(self.after):
            return False
        self.fetching = asyncio.get_running_loop().create_task(self.stream.read_back(self.after), name="read back")
        self.fetching.add_done_callback(self._fetched)
        return True

    def _fetched(self, fetching: asyncio.Task[list[Numbered]]) -> None:
        if not fetching.cancelled():
            fetching.exception()  # told when it is read, if it still is
            self._wake(self, Urgency.AT_ONCE)

    def close(self) -> None:
        """Wait for nothing any more."""
        self.hush()
        if self.fetching is not None:
            self.fetching.cancel()

    def _next(self) -> list[Numbered]:
        """What was read back, else what is held."""
        if self.fetching is not None:
            fetched, self.fetching = self.fetching, None
            self.page = fetched.result()
        return self.page or self.stream.read(self.after)

    def read(self, most_bytes: int, *, least: int) -> tuple[list[Numbered], int]:
        """What was not given yet, and what it costs: so much together at most, but so many events in any case.

        Raises:
            EventsDroppedError: Some of that was dropped.
            StoreUnavailableError: It cannot be read back now.
        """
        if self._timer is not None:
            self.hush()
        batch, size_bytes = _within(self._next(), most_bytes, least)
        self.page = self.page[len(batch) :]
        self.after = batch[-1].sequence if batch else self.after
        if self.interval_s and any(isinstance(numbered.event, PUT_OUT) for numbered in batch):
            self._due = asyncio.get_running_loop().time() + self.interval_s
        return batch, size_bytes


def _within(batch: list[Numbered], most_bytes: int, least: int) -> tuple[list[Numbered], int]:
    if len(batch) == 1 and (size_bytes := cost_bytes(batch[0].event)) <= most_bytes:  # as of most streams in most steps
        return batch, size_bytes
    size_bytes = 0
    for place, numbered in enumerate(batch):
        more_bytes = cost_bytes(numbered.event)
        if place >= least and size_bytes + more_bytes > most_bytes:
            return batch[:place], size_bytes
        size_bytes += more_bytes
    return batch, size_bytes


class Bundle:
    """Streams by tag. One writer: the call that follows them.

    Args:
        batch_bytes: What `collect` gives at most, but for a single event that has more.
    """

    def __init__(self, batch_bytes: int = BATCH_BYTES) -> None:
        self._batch_bytes = batch_bytes
        self._followed: dict[int, Followed] = {}
        self._ready: OrderedDict[Followed, None] = OrderedDict()  # in the order in which they had something to give
        self._refused: dict[int, InferdError] = {}  # by tag, in their order; until they are given
        self._room = asyncio.Event()  # for more of them
        self._room.set()
        self._waiting: asyncio.Future[None] | None = None
        self._presses = False  # there is something that is not to wait
        self._moment: asyncio.TimerHandle | None = None  # until what may wait does no longer

    def __len__(self) -> int:
        return len(self._followed) + len(self._refused)

    def __contains__(self, tag: int) -> bool:
        return tag in self._followed

    def stream(self, tag: int) -> TaskStream:
        """What is followed under a tag."""
        return self._followed[tag].stream

    def follow(self, followed: Followed) -> None:
        """Give the events of a stream from now on, those that it has behind `after` first, and no other of its tag.

        Of one that has ended the end is given in any case: by nothing else would its reader know that nothing comes.
        """
        self.leave(followed.tag)
        if followed.stream.finished is not None:
            followed.after = min(followed.after, followed.stream.last_sequence - 1)
        followed._wake = self._make_ready  # noqa: SLF001 - a part of this class
        self._followed[followed.tag] = followed
        followed.stream.listeners[followed] = None
        self._look(followed)

    def stop(self, tag: int, *, stopped: bool) -> None:
        """Give nothing of a tag for now, or all that there is of it again; nothing when it is not followed."""
        followed = self._followed.get(tag)
        if followed is not None:
            followed.stopped = stopped
            if stopped:
                self._make_unready(followed)
            else:
                self._look(followed)

    def refuse(self, tag: int, error: InferdError) -> None:
        """Give an error, the last word under a tag."""
        self._refused[tag] = error
        if len(self._refused) >= MOST_REFUSALS:
            self._room.clear()
        self.wake()

    def refuses(self, tag: int) -> bool:
        """Whether an error is still to be given under a tag."""
        return tag in self._refused

    async def room(self) -> None:
        """Wait until fewer than `MOST_REFUSALS` errors are still to be given."""
        await self._room.wait()

    def leave(self, tag: int) -> Followed | None:
        """Give nothing more of a tag; what was followed under it, if anything was."""
        followed = self._followed.pop(tag, None)
        if followed is not None:
            followed.stream.leave(followed)
            followed.close()
            self._make_unready(followed)
        self._forgive(tag)
        return followed

    def _forgive(self, tag: int) -> None:
        self._refused.pop(tag, None)
        if len(self._refused) < MOST_REFUSALS:
            self._room.set()

    def wake(self) -> None:
        """Let `come` return, though there may be nothing."""
        self._presses = True
        self._let_pass()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _let_pass(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None

    async def come(self) -> None:
        """Wait until there is something to give that does not wait any longer, or `wake`."""
        if not self._presses:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def collect(self) -> tuple[list[tuple[Followed, list[Numbered]]], list[tuple[int, InferdError]]]:
        """What there is to give, as much as one message takes: events by stream, and errors by tag.

        A stream whose last event was given, or that lost events, is followed no longer; the caller finds the first by
        `Finished`, the second among the errors.
        """
        given: list[tuple[Followed, list[Numbered]]] = []
        self._presses = False
        self._let_pass()
        most = max(1, self._batch_bytes // REFUSAL_BYTES)
        refused = list(islice(self._refused.items(), most))
        for tag, _ in refused:
            self._forgive(tag)
        left_bytes = self._batch_bytes - REFUSAL_BYTES * len(refused)
        while self._ready and left_bytes > 0:
            followed, _ = self._ready.popitem(last=False)
            followed.ready = False
            if followed.fetches():
                continue  # it is ready again when that is there
            try:
                batch, size_bytes = followed.read(left_bytes, least=0 if given or refused else 1)
            except InferdError as error:
                self.leave(followed.tag)
                refused.append((followed.tag, error))
                left_bytes -= REFUSAL_BYTES
                continue
            left_bytes -= size_bytes
            if batch:
                given.append((followed, batch))
            if followed.after < followed.stream.last_sequence:
                self._make_ready(followed, Urgency.AT_ONCE)  # for the rest, in the next message
                break
            if followed.stream.finished is not None:
                self.leave(followed.tag)
        if self._ready or self._refused:
            self._presses = True
        return given, refused

    def _look(self, followed: Followed) -> None:
        stream, after = followed.stream, followed.after
        if after < stream.pressing or stream.finished is not None:
            self._make_ready(followed, Urgency.AT_ONCE)
        elif after < stream.last_sequence:
            self._make_ready(followed, Urgency.MOMENT)

    def _make_ready(self, followed: Followed, urgency: Urgency) -> None:
        if followed.stopped or self._followed.get(followed.tag) is not followed:  # its timer may ring all the same
            return
        if not followed.ready:
            followed.ready = True
            self._ready[followed] = None
        if urgency is Urgency.AT_ONCE:
            self.wake()
        elif self._moment is None and not self._presses:
            self._moment = asyncio.get_running_loop().call_later(MOMENT_S, self.wake)

    def _make_unready(self, followed: Followed) -> None:
        followed.ready = False
        self._ready.pop(followed, None)
