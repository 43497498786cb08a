"""What waits to be computed, and what is computed next: by class and age, then in the order in which it came."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.engine.cause import last_line
from inferd.engine.tensor.entry import Entry, can_join
from inferd.engine.tensor.filling import Extent, Filling
from inferd.errors import InferdError, InternalError, is_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.tensor.sequences import Sequences

_log = logging.getLogger(__name__)


PASSED: Final = 8
"""A request that so many batches have passed over goes first, whatever its class: the kernel let it in by its age."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """What is computed as one.

    Attributes:
        entries: Of one key.
        alone: Nothing else is computed beside it.
    """

    entries: list[Entry]
    alone: bool = False


@dataclass(slots=True)
class Board:
    """The requests that wait. One writer: the loop, under its lock.

    A suspect is computed alone, when nothing else is, and behind something else if something else waited.

    Args:
        sequences: Of the instance.
        most: Most rows of a batch.
        delay_s: How long a request waits for others.

    Attributes:
        refused: Those whose turn came and that cannot be computed, and why; whoever tells it takes it out.
        due: When something that waits for others may be taken; None for nothing.
        running: Batches that are being computed.
        filling: Which requests belong together, and how.
    """

    sequences: Sequences
    most: int
    delay_s: float
    refused: list[tuple[Entry, InferdError]] = field(default_factory=list)
    due: float | None = None
    running: int = 0
    filling: Filling = field(init=False)
    _waiting: dict[int, Entry] = field(default_factory=dict)  # by handle, in the order in which they came
    _alone: Batch | None = None  # the suspect that is computed, until it has told something
    _rested: bool = True  # whether others had a turn since the last suspect

    def __post_init__(self) -> None:
        self.filling = Filling(self.sequences.signature)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, *, joins: bool = True) -> None:
        """A request waits; it `joins` the line of its sequence unless it is there."""
        self._waiting[entry.handle] = entry
        if joins and entry.request.sequence is not None:
            self.sequences.join(entry, entry.request.sequence)

    def remove(self, entry: Entry) -> None:
        """A request waits no longer."""
        self._waiting.pop(entry.handle, None)

    def take(self, now: float) -> Batch | None:
        """What is to be computed now; None for nothing, see `due`."""
        self.due = None
        if self._alone is not None:
            return None
        suspect = next((e for e in self._by_class(alone=True) if self._is_ready(e)), None)
        if suspect is not None and self._rested:
            return None if self.running else self._begin(Batch(entries=[suspect], alone=True))
        batch = self._take_ordinary(now)
        if batch is None and suspect is not None and not self.running:
            return self._begin(Batch(entries=[suspect], alone=True))
        self._rested = self._rested or batch is not None
        return None if batch is None else self._begin(batch)

    def told(self, batch: Batch) -> None:
        """A batch has told something, or will never: a suspect need not be alone any more."""
        if self._alone is batch:
            self._alone, self._rested = None, False

    def end(self, batch: Batch) -> None:
        """A batch is not computed any more."""
        self.running -= 1
        self.told(batch)

    def _begin(self, batch: Batch) -> Batch:
        self.running += 1
        for entry in batch.entries:
            del self._waiting[entry.handle]
        for entry in self._waiting.values():
            entry.passed_over += self._has_turn(entry)
        self._alone = batch if batch.alone else None
        return batch

    def _take_ordinary(self, now: float) -> Batch | None:
        seen = set()
        for lead in self._by_class(alone=False):
            if not self._is_ready(lead):
                continue
            if self.most == 1 or not can_join(lead) or lead.rows >= self.most:
                return Batch(entries=[lead])
            if lead.key in seen:
                continue
            seen.add(lead.key)
            entries, full = self._gather(lead)
            preferred = [] if full else self._prefer(entries)
            due = lead.arrived + self.delay_s
            if full or preferred or not self.delay_s or now >= due:
                return Batch(entries=preferred or entries)
            self.due = due if self.due is None else min(due, self.due)
        return None

    def _gather(self, lead: Entry) -> tuple[list[Entry], bool]:
        """A request and those that can be computed with it; whether no other one has room."""
        entries, rows, full = [lead], lead.rows, False
        extent = Extent(self.sequences.signature.batching.filled_times)
        extent.add(lead)
        for other in self._by_class(alone=False):
            if other is lead or not self._is_ready(other) or other.key != lead.key or not can_join(other):
                continue
            if rows + other.rows > self.most:
                full = True
            elif extent.add(other):
                entries.append(other)
                rows += other.rows
        return entries, full or rows >= self.most

    def _prefer(self, entries: list[Entry]) -> list[Entry]:
        """The first of these that have together the largest number of rows that is preferred; empty for none."""
        preferred, rows, most = self.sequences.signature.batching.preferred, 0, 0
        for count, entry in enumerate(entries, start=1) if preferred else ():
            rows += entry.rows
            most = count if rows in preferred else most
        return entries[:most]

    def _by_class(self, *, alone: bool) -> Iterator[Entry]:
        found = [entry for entry in self._waiting.values() if entry.request.alone is alone]
        return iter(sorted(found, key=_rank))

    def _has_turn(self, entry: Entry) -> bool:
        step = entry.request.sequence
        return step is None or self.sequences.is_first(entry, step)

    def _is_ready(self, entry: Entry) -> bool:
        """Whether a request can be computed; one whose sequence is not there is refused."""
        step = entry.request.sequence
        if entry.ready:
            return True
        if step is None:
            return self._make_ready(entry)
        if entry.handle not in self._waiting or not self._has_turn(entry):
            return False
        try:
            entry.inputs.update(self.sequences.states(entry, step))
        except BaseException as error:
            if not is_failure(error):
                raise
            if not isinstance(error, InferdError):
                _log.exception("the state of a sequence could not be given")
                error = InternalError(f"the state of the sequence cannot be made: {last_line(error)}")
            del self._waiting[entry.handle]
            self.refused.append((entry, error))
            return False
        return self._make_ready(entry)

    def _make_ready(self, entry: Entry) -> bool:
        """All of its inputs are there."""
        self.filling.measure(entry)
        entry.ready = True
        return True


def _rank(entry: Entry) -> tuple[bool, int]:
    """Those that were passed over too often by age alone: else a high class, as old, would be before them again."""
    young = entry.passed_over < PASSED
    return young, -entry.request.priority if young else 0
