"""What has happened to a run, in the order in which it was kept: its events, and what each item has given.

Each entry is a piece of the run's record in the store, whose number is the `sequence` of the event: whoever has seen an
event finds it again with the kernel after this one, and an item that is told as done is never done again. Of what an
item has given only the place is in memory. Without a store all of it is.
"""

from __future__ import annotations

import asyncio
import json
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from inferd.core.expressions import bytes_of
from inferd.core.pipeline import PipelineState, StepState
from inferd.errors import InferdError, LimitExceededError, StoreUnavailableError
from inferd.runtime.signal import Signal
from inferd.store.store import Append, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inferd.store.store import Put, Store, Write

HEAD_END = b"\n"
RETRY_S = 1.0  # between two tries to write what the store did not take
INPUT = 0  # the number of the piece that is the input
SCANNED = 4096  # entries that are read before the loop serves others
READ_ITEMS, READ_BYTES = 256, 1 << 20  # that are read before others may use the store
NEAR = 4  # entries that are passed over rather than begin to read anew
ENTRY_BYTES = 256  # that each entry takes beside what an item gave, about


class Happened(IntEnum):
    """What an entry tells; the numbers are what is kept."""

    BEGAN = 1  # a step, of so many items
    DONE = 2  # an item
    SKIPPED = 3  # an item: it is null
    RETRIED = 4  # an item is tried again
    LEFT_OUT = 5  # a step, all of it: it is null
    ENDED = 6  # the run


class Entry(NamedTuple):
    """One thing that has happened.

    Attributes:
        sequence: Its number, from 1.
        kind: What it is.
        step: Number of the step.
        number: The place of the item; of a step that began how many it has; of the end the state.
        reason: Why an item is tried again.
    """

    sequence: int
    kind: Happened
    step: int = 0
    number: int = 0
    reason: str = ""


class Rows(Protocol):
    """The store, as its keeper lets it be used."""

    async def read(self, reading: Callable[[Store], Any]) -> Any:
        """What `reading` finds in the store."""

    async def keep_records(self, records: Sequence[Write]) -> None:
        """Write all or nothing."""


@dataclass(slots=True)
class StepBook:
    """How a step stands. One writer: the journal.

    Attributes:
        items: How many it has; None before it begins.
        places: The number of the entry that has what an item has given, by its place; 0 for none.
        sizes: How many bytes that has.
        done: How many items are.
        left_out: Whether all of it is.
    """

    items: int | None = None
    places: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    done: int = 0
    left_out: bool = False

    @property
    def state(self) -> StepState:
        """Where it stands."""
        if self.left_out:
            return StepState.SKIPPED
        if self.finished:
            return StepState.FINISHED
        return StepState.WAITING if self.items is None else StepState.RUNNING

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left to be done."""
        return self.left_out or (self.items is not None and self.done == self.items)


@dataclass(slots=True)
class _Due:
    """An entry on its way into the store."""

    kind: Happened
    step: int
    number: int
    raw: str
    size: int
    facts: tuple[int | str, ...]
    also: tuple[Write, ...]
    kept: bool = False


class Journal:
    """The entries of a run. One writer: the run.

    Args:
        rows: Where it is kept; None where nothing is.
        tenant, run_id: Whose it is.
        steps: How many steps the pipeline has.
        most_bytes: Of all that items give.

    Attributes:
        steps: How each step stands.
        changed: Notified when there are more entries.
        state: Where the run stands.
        usage: Tasks, tokens of prompts and of output.
        size_bytes: Of what items have given, and of the entries.
    """

    def __init__(self, rows: Rows | None, tenant: str, run_id: str, *, steps: int, most_bytes: int) -> None:
        self._rows, self._tenant, self._run_id, self._most_bytes = rows, tenant, run_id, most_bytes
        self.steps = [StepBook() for _ in range(steps)]
        self.changed = Signal()
        self.state = PipelineState.RUNNING
        self.usage = [0, 0, 0]
        self.size_bytes = 0
        self._kinds, self._of, self._numbers = array("B"), array("H"), array("I")
        self._reasons: dict[int, str] = {}
        self._held: dict[int, str] = {}  # without a store
        self._due: list[_Due] = []
        self._lock = asyncio.Lock()
        self._closing = False

    @property
    def last(self) -> int:
        """The number of the newest entry; 0 for none."""
        return len(self._kinds)

    def entries(self, after: int, most: int) -> list[Entry]:
        """Those behind a number, at most so many."""
        return [
            Entry(at + 1, Happened(self._kinds[at]), self._of[at], self._numbers[at], self._reasons.get(at + 1, ""))
            for at in range(after, min(self.last, after + most))
        ]

    # Writing.

    async def add(
        self,
        kind: Happened,
        step: int = 0,
        number: int = 0,
        raw: str = "",
        *facts: int | str,
        also: Sequence[Write] = (),
    ) -> None:
        """Something has happened: it is kept, and told, when this returns. Those that come meanwhile share a write.

        Raises:
            LimitExceededError: All that items give is more than it may be.
            StoreUnavailableError: The journal is closed.
        """
        size = bytes_of(raw)
        size_bytes = self.size_bytes + size + ENTRY_BYTES
        if kind is not Happened.ENDED and size_bytes > self._most_bytes:
            raise LimitExceededError(
                f"what the steps of this run give would have {size_bytes} bytes, with {ENTRY_BYTES} for each item, and"
                f" pipelines.run_bytes is {self._most_bytes}; give less, or raise that setting of the kernel",
                metadata={"bound": "pipelines.run_bytes", "value": str(size_bytes), "limit": str(self._most_bytes)},
            )
        self.size_bytes = size_bytes
        self._due.append(due := _Due(kind, step, number, raw, size, facts, tuple(also)))
        writing = asyncio.ensure_future(self._write(due))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # it is kept or not, and known to be
            with suppress(InferdError):
                writing.result()
            raise

    async def _write(self, due: _Due) -> None:
        async with self._lock:
            if due.kept:
                return
            batch, self._due = self._due, []
            if self._rows is not None:
                await self._keep(self._rows, batch)
            for each in batch:
                each.kept = True
                self._note(each.kind, each.step, each.number, each.facts, each.size)
                if self._rows is None:
                    self._held[self.last] = each.raw
        self.changed.notify()

    async def _keep(self, rows: Rows, batch: Sequence[_Due]) -> None:
        writes: list[Write] = []
        for number, each in enumerate(batch, self.last + 1):
            head = json.dumps([each.kind, each.step, each.number, *each.facts], separators=(",", ":")).encode()
            writes += [
                *each.also,
                Append(self._tenant, Kind.PIPELINE, self._run_id, number, head + HEAD_END + each.raw.encode()),
            ]
        while True:
            if self._closing:
                raise StoreUnavailableError("the run is not carried on by this kernel")
            try:
                await rows.keep_records(writes)
            except StoreUnavailableError:  # it is held up as long as the store is
                await asyncio.sleep(RETRY_S)
            else:
                return

    def close(self) -> None:
        """Keep nothing of what follows."""
        self._closing = True

    def _note(self, kind: Happened, step: int, number: int, facts: Sequence[int | str], size: int) -> None:
        self._kinds.append(kind)
        self._of.append(step)
        self._numbers.append(number)
        sequence = self.last
        if kind is Happened.ENDED:
            self.state = PipelineState(number)
            return
        book = self.steps[step]
        if kind is Happened.BEGAN:
            book.items = number
            book.places, book.sizes = array("I", bytes(4 * number)), array("I", bytes(4 * number))
        elif kind is Happened.LEFT_OUT:
            book.left_out = True
        elif kind is Happened.RETRIED:
            self._reasons[sequence] = str(facts[0]) if facts else ""
        else:
            book.done += 1
            book.places[number], book.sizes[number] = sequence, size
            if kind is Happened.DONE and facts:  # of a task
                for at, more in enumerate((1, *facts)):
                    self.usage[at] += int(more)

    # Reading.

    async def replay(self) -> None:
        """Find what the kernels before this one have kept.

        Raises:
            StoreUnavailableError: It cannot be read.
            ValueError, IndexError, TypeError: It is not what was written.
        """
        if (rows := self._rows) is None:
            return
        tenant, run_id, after = self._tenant, self._run_id, INPUT

        def scan(store: Store) -> list[tuple[Any, int]]:
            found = []
            for piece in store.pieces(tenant, Kind.PIPELINE, run_id, after=after):
                head, _, raw = piece.partition(HEAD_END)
                found.append((json.loads(head), len(raw)))
                if len(found) == SCANNED:
                    break
            return found

        while found := await rows.read(scan):
            for (kind, step, number, *facts), size in found:
                self._note(Happened(kind), step, number, facts, size)
            after += len(found)
            self.size_bytes += sum(size + ENTRY_BYTES for _, size in found)

    async def values(self, step: int, begin: int, end: int) -> list[str]:
        """What some items have given, by their places; all of them are done.

        Raises:
            StoreUnavailableError: It cannot be read now.
        """
        places, sizes = self.steps[step].places[begin:end], self.steps[step].sizes[begin:end]
        if (rows := self._rows) is None:
            return [self._held[place] or "null" for place in places]
        found, batch, size = dict[int, str](), list[int](), 0
        for place, has in sorted(zip(places, sizes, strict=True)):
            if batch and (len(batch) == READ_ITEMS or size + has > READ_BYTES):
                found |= await self._some(rows, batch)
                batch, size = [], 0
            batch.append(place)
            size += has
        found |= await self._some(rows, batch)
        return [found[place] for place in places]

    async def _some(self, rows: Rows, places: Sequence[int]) -> dict[int, str]:
        """What entries have, by their numbers, which rise."""
        tenant, run_id = self._tenant, self._run_id

        def read(store: Store) -> Iterator[bytes]:
            pieces: Iterator[bytes] = iter(())
            at = -NEAR
            for place in places:
                if place - at > NEAR:
                    pieces, at = store.pieces(tenant, Kind.PIPELINE, run_id, after=place - 1), place - 1
                for _ in range(place - at - 1):
                    next(pieces, None)
                at = place
                yield next(pieces, b"")

        pieces = await rows.read(lambda store: list(read(store)))
        if not all(pieces):  # each has a head
            message = f"entries of pipeline run {run_id} are not in the store any more"
            raise StoreUnavailableError(message, metadata={"cause": "damaged"})
        return {
            place: piece.partition(HEAD_END)[2].decode() or "null" for place, piece in zip(places, pieces, strict=True)
        }


def first_writes(tenant: str, run_id: str, record: Put, given: str | None) -> list[Write]:
    """The writes that keep a new run: its record, and its input as its first piece."""
    piece = () if given is None else (Append(tenant, Kind.PIPELINE, run_id, INPUT, given.encode()),)
    return [record, *piece]
