"""What is to be written of a task: what it is to do, where it stands, and what it has told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core.task_events import Finished
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept import Sent
from inferd.runtime.kept_events import write_pieces
from inferd.runtime.kept_records import write_progress, write_task
from inferd.store.store import Append, Drop, Kind, Put

if TYPE_CHECKING:
    from inferd.runtime.clock import Clock
    from inferd.runtime.kept import Kept
    from inferd.store.store import Write

LARGE_BYTES = 4096  # of a record that is not worth to be kept whole when its task has ended


def send(kept: Kept, clock: Clock) -> Sent:
    """All that the store does not have of a task as it stands."""
    kept.pending_bytes += kept.stream.ahead_bytes
    kept.pending += kept.stream.take()
    writes = _drops(kept) if kept.gone else _writes(kept, clock)
    return Sent(version=kept.version, count=len(kept.pending), gone=kept.gone, writes=writes)


def _drops(kept: Kept) -> list[Write]:
    tenant, key = kept.task.spec.tenant, kept.task.spec.task_id
    return [Drop(tenant, Kind.TASK, key), Drop(tenant, Kind.PROGRESS, key)]


def _writes(kept: Kept, clock: Clock) -> list[Write]:
    tenant, key = kept.task.spec.tenant, kept.task.spec.task_id
    writes: list[Write] = []
    ended = kept.task.finished is not None
    if not kept.made or (ended and kept.large):
        value = write_task(kept.task, clock, names=bool(kept.held))
        kept.large = len(value) > LARGE_BYTES and not ended
        writes.append(Put(tenant, Kind.TASK, key, value))
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
    writes.append(Put(tenant, Kind.PROGRESS, key, progress))
    writes += [Append(tenant, Kind.TASK, key, number, value) for number, value in write_pieces(told)]
    return writes
