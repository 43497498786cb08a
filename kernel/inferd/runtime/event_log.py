"""The events of one task that are held, by number. Tokens that come step by step take columns, not an object a step."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from inferd.core.task_events import EmbeddingOutput, Logprobs, Output, PromptOutput, TaskEvent, TensorOutput
from inferd.errors import EventsDroppedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FLOAT_BYTES = 4
EVENT_BYTES = 200  # of the objects that hold one event, text and ids apart: measured with sys.getsizeof
TOKEN_BYTES = 36  # of a number in a tuple
ID_BYTES = 4  # of one in an array
WITH_TOKENS = (Output, PromptOutput)
LOGPROB_BYTES = 8  # of a token's id and logarithm


class Numbered(NamedTuple):
    """An event with its place in the task's sequence, counted from 1."""

    sequence: int
    event: TaskEvent


def cost_bytes(event: TaskEvent) -> int:
    """What holding an event costs, in bytes."""
    if isinstance(event, WITH_TOKENS):
        each = ID_BYTES if isinstance(event.token_ids, array) else TOKEN_BYTES
        size_bytes = EVENT_BYTES + 4 * len(event.text) + each * len(event.token_ids)
        if event.logprobs is not None:
            size_bytes += LOGPROB_BYTES * (len(event.logprobs.token_ids) + len(event.logprobs.top_ids))
        if isinstance(event, PromptOutput):
            size_bytes += FLOAT_BYTES * len(event.entropies)
        return size_bytes
    if isinstance(event, EmbeddingOutput):
        return EVENT_BYTES + FLOAT_BYTES * len(event.values)
    if isinstance(event, TensorOutput):
        return EVENT_BYTES + event.size_bytes
    return EVENT_BYTES


@dataclass(slots=True, eq=False)
class Run:
    """Outputs of sample 0 one after the other, each nothing but text and tokens. One writer: its log.

    Attributes:
        sequence: Number of the last one.
        texts: Of each.
        counts: How many of `token_ids` are each one's.
        token_ids: Of all.
    """

    sequence: int
    texts: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    token_ids: array[int] = field(default_factory=lambda: array("I"))

    def cost_bytes(self, place: int) -> int:
        """What one of them costs: no less than as an event of its own."""
        return EVENT_BYTES + 4 * len(self.texts[place]) + TOKEN_BYTES * self.counts[place]

    @property
    def first(self) -> int:
        """Number of the first of them."""
        return self.sequence - len(self.texts) + 1

    def split(self, count: int) -> tuple[Run, Run]:
        """The first so many of them, and the others."""
        tokens, last = sum(self.counts[:count]), self.first + count - 1
        return (
            Run(last, self.texts[:count], self.counts[:count], self.token_ids[:tokens]),
            Run(self.sequence, self.texts[count:], self.counts[count:], self.token_ids[tokens:]),
        )

    def behind(self, after: int) -> Output:
        """Those behind number `after`, as one."""
        if self.sequence - after == 1:  # as in most steps of most tasks
            count = self.counts[-1]
            return Output(self.texts[-1], tuple(self.token_ids[-count:]) if count else ())
        start = max(0, len(self.texts) - (self.sequence - after))
        count = sum(self.counts[start:])  # from the end: a reader is seldom far behind, and a run may be long
        return Output("".join(self.texts[start:]), tuple(self.token_ids[-count:]) if count else ())

    def whole(self) -> Output:
        """All of them as one."""
        return Output("".join(self.texts), tuple(self.token_ids))

    def drop(self, count: int) -> None:
        """Forget the first of them."""
        del self.token_ids[: sum(self.counts[:count])]
        del self.texts[:count]
        del self.counts[:count]


Entry = Numbered | Run


class EventLog:
    """Events in their order. One writer: the stream.

    Attributes:
        dropped: How many of the oldest are held no more.
        last: Number of the newest event; 0 before the first.
        size_bytes: What those that are held cost.
        newest_bytes: What the newest costs, which is never dropped.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.last = 0
        self.size_bytes = 0
        self.newest_bytes = 0
        self._entries: list[Numbered | Run] = []
        self._run: Run | None = None  # the last entry, if it is one

    def add(self, event: TaskEvent) -> int:
        """One more event; what it costs."""
        self.last += 1
        self._run = None
        self._entries.append(Numbered(self.last, event))
        size_bytes = self.newest_bytes = cost_bytes(event)
        self.size_bytes += size_bytes
        return size_bytes

    def add_tokens(self, text: str, token_ids: array[int]) -> int:
        """One more output of sample 0 of which nothing else is told; what it costs."""
        self.last = last = self.last + 1
        run = self._run
        if run is None:
            run = self._run = Run(last)
            self._entries.append(run)
        count = len(token_ids)
        run.sequence = last
        run.texts.append(text)
        run.counts.append(count)
        run.token_ids.extend(token_ids)
        size_bytes = self.newest_bytes = EVENT_BYTES + 4 * len(text) + TOKEN_BYTES * count
        self.size_bytes += size_bytes
        return size_bytes

    def go_on(self, last: int, newest: Numbered | None) -> None:
        """Begin behind event number `last`, of which only the newest is held, if it is given; nothing is here yet."""
        self.dropped = self.last = last
        if newest is not None:
            self.dropped = last - 1
            self.put(newest)

    def put(self, entry: Entry) -> int:
        """What was taken out of another log, all of it newer than what is here; what it costs."""
        self._entries.append(entry)
        self.last = entry.sequence
        if isinstance(entry, Run):
            self._run = entry
            size_bytes = sum(map(entry.cost_bytes, range(len(entry.texts))))
            self.newest_bytes = entry.cost_bytes(-1)
        else:
            self._run = None
            size_bytes = self.newest_bytes = cost_bytes(entry.event)
        self.size_bytes += size_bytes
        return size_bytes

    def entries(self) -> list[Entry]:
        """All that is there; it changes with the log."""
        return list(self._entries)

    def take(self) -> list[Entry]:
        """Take all out; the numbers go on."""
        entries, self._entries = self._entries, []
        self._run, self.size_bytes, self.newest_bytes = None, 0, 0
        return entries

    def read(self, after: int) -> list[Numbered]:
        """What is there behind number `after`, adjacent outputs of a sample merged.

        Raises:
            EventsDroppedError: Events behind `after` were dropped.
        """
        if after < self.dropped:
            first = self.dropped + 1
            raise EventsDroppedError(
                f"events {after + 1} to {self.dropped} are no longer held; the first one is {first}",
                metadata={"first_sequence": str(first)},
                field="after_sequence",
            )
        if (run := self._run) is not None and run.sequence - after <= len(run.texts):  # as in most steps of most tasks
            return [Numbered(run.sequence, run.behind(after))] if after < run.sequence else []
        start = len(self._entries)
        while start and self._entries[start - 1].sequence > after:
            start -= 1
        return joined(self._entries[start:], after)

    def drop(self, target_bytes: int) -> None:
        """Forget the oldest events until the others cost no more than so much, or only the newest is left."""
        whole = 0
        while self.size_bytes > target_bytes and self.dropped < self.last - 1:
            entry = self._entries[whole]
            if not isinstance(entry, Run):
                self.size_bytes -= cost_bytes(entry.event)
                self.dropped = entry.sequence
            elif not self._shorten(entry, target_bytes):
                break
            whole += 1
        del self._entries[:whole]

    def _shorten(self, run: Run, target_bytes: int) -> bool:
        """Forget the oldest of a run, as far as `drop` goes; whether that is all of it."""
        count, most = 0, min(len(run.texts), self.last - 1 - self.dropped)
        while self.size_bytes > target_bytes and count < most:
            self.size_bytes -= run.cost_bytes(count)
            count += 1
        self.dropped += count
        run.drop(count)
        return not run.texts


class Placed(Protocol):
    """What stands for one event."""

    @property
    def sequence(self) -> int:
        """Its number."""


K = TypeVar("K", bound=Placed)


class MissingEventsError(ValueError):
    """Of what was kept of a task some is missing.

    Attributes:
        first: Number of the first event behind what is missing.
    """

    def __init__(self, after: int, first: int) -> None:
        super().__init__(f"events {after + 1} to {first - 1} are missing")
        self.first = first


def in_order(entries: Iterable[Entry | K], after: int) -> Iterator[Entry | K]:
    """What of these comes behind number `after`, each event once, though they were kept in pieces that overlap.

    Raises:
        MissingEventsError: The next one is not there.
    """
    for entry in entries:
        if entry.sequence <= after:
            continue
        first = entry.first if isinstance(entry, Run) else entry.sequence
        if first > after + 1:
            raise MissingEventsError(after, first)
        if isinstance(entry, Run) and first <= after:
            _, entry = entry.split(after - first + 1)  # noqa: PLW2901 - the rest of it
        after = entry.sequence
        yield entry


def joined(entries: Sequence[Entry], after: int) -> list[Numbered]:
    """What of these comes behind number `after`, adjacent outputs of a sample merged."""
    behind = [
        Numbered(entry.sequence, entry.behind(after)) if isinstance(entry, Run) else entry
        for entry in entries
        if entry.sequence > after
    ]
    outputs = sum([type(numbered.event) is Output for numbered in behind])
    return behind if outputs < 2 else _merged(behind)  # noqa: PLR2004 - there is nothing to merge


def _merged(events: Sequence[Numbered]) -> list[Numbered]:
    batch: list[Numbered] = []
    for (kind, _), group in groupby(events, _kind):
        alike = list(group)
        if kind is Output and len(alike) > 1:
            batch.append(Numbered(alike[-1].sequence, _merge([numbered.event for numbered in alike])))
        else:
            batch += alike
    return batch


def _kind(numbered: Numbered) -> tuple[type[TaskEvent], int]:
    """Equal for events that are merged when they are adjacent and outputs."""
    event = numbered.event
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
