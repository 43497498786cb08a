"""What is to be written of a task: what it is to do, where it stands, and what it has told."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from inferd.core.task_events import Finished
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept import Sent
from inferd.runtime.kept_events import write_pieces
from inferd.runtime.kept_records import write_progress, write_task
from inferd.store.store import Append, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.task import TaskSpec
    from inferd.runtime.clock import Clock
    from inferd.runtime.event_log import Entry
    from inferd.runtime.kept import Kept
    from inferd.store.store import Write

LARGE_BYTES = 4096  # of a record that is not worth to be kept whole when its task has ended


def send(kept: Kept, clock: Clock) -> Sent:
    """All that the store does not have of a task as it stands; what that comes to is made on the store's thread."""
    kept.pending_bytes += kept.stream.ahead_bytes
    kept.pending += kept.stream.take()
    writes = partial(_drops, kept.task.spec) if kept.gone else _changes(kept, clock)
    return Sent(version=kept.version, count=len(kept.pending), gone=kept.gone, state=kept.task.state, writes=writes)


def _drops(spec: TaskSpec) -> list[Write]:
    return [Drop(spec.tenant, Kind.TASK, spec.task_id), Drop(spec.tenant, Kind.PROGRESS, spec.task_id)]


def _changes(kept: Kept, clock: Clock) -> Callable[[], list[Write]]:
    ended = kept.task.finished is not None
    anew = not kept.made or (ended and kept.large)
    kept.large = kept.task.spec.demand.memory_bytes > LARGE_BYTES and not ended
    told = [*kept.before, *kept.pending]
    end = told[-1] if told else None
    if end is None and kept.stream.finished is not None:
        end = Numbered(kept.stream.last_sequence, kept.stream.finished)
    progress = write_progress(
        kept.task,
        kept.stream.continuation,
        clock,
        last=told[-1].sequence if told else kept.stream.last_sequence,
        end=end if isinstance(end, Numbered) and isinstance(end.event, Finished) else None,
        first_output_at=kept.stream.first_output_at,
    )
    made = partial(write_task, copy(kept.task), clock, names=bool(kept.held)) if anew else None
    return partial(_writes, kept.task.spec, made, progress, told)


def _writes(spec: TaskSpec, made: Callable[[], bytes] | None, progress: bytes, told: Sequence[Entry]) -> list[Write]:
    """The record of a task where it is made anew, where it stands, and what it has told; nothing of that changes."""
    tenant, key = spec.tenant, spec.task_id
    writes: list[Write] = [] if made is None else [Put(tenant, Kind.TASK, key, made())]
    writes.append(Put(tenant, Kind.PROGRESS, key, progress))
    writes += [Append(tenant, Kind.TASK, key, number, value) for number, value in write_pieces(told)]
    return writes
