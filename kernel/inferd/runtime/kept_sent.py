"""What is to be written of a task: what it is to do, where it stands, and what it has told."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from inferd.core.task_events import Finished
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept import Sent, Sizes
from inferd.runtime.kept_events import InBlob, write_pieces
from inferd.runtime.kept_records import KeptTask, with_bytes, write_past, write_progress, write_task
from inferd.store.store import Append, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.task import Task, TaskSpec
    from inferd.runtime.clock import Clock
    from inferd.runtime.kept import Kept
    from inferd.runtime.kept_events import KeptEntry
    from inferd.store.store import Write

DELETED = ""  # stands in place of a digest where what a task has told was deleted
LARGE_BYTES = 4096  # of a record that is not worth to be kept whole when its task has ended


def send(kept: Kept, clock: Clock) -> Sent:
    """All that the store does not have of a task as it stands; what that comes to is made on the store's thread."""
    kept.take()
    spec, sizes = kept.task.spec, Sizes(kept.sizes.record, 0 if kept.deleting else kept.sizes.pieces)
    return Sent(
        version=kept.version,
        count=len(kept.pending),
        gone=kept.gone,
        state=kept.task.state,
        deletes=kept.deleting,
        sizes=sizes,
        writes=partial(drops, spec.tenant, spec.task_id, [*kept.outputs])
        if kept.gone
        else _changes(kept, sizes, clock),
    )


def deletes(tenant: str, key: str, digests: Sequence[str]) -> list[Write]:
    """What a task has told goes, and that it did is kept."""
    outputs = [Drop(tenant, Kind.OUTPUT, output_key(key, digest)) for digest in digests]
    told = Put(tenant, Kind.OUTPUT, output_key(key, DELETED), b"0")
    return [Drop(tenant, Kind.TASK, key, record=False), *outputs, told]


def output_key(task_id: str, digest: str) -> str:
    """Under which it is kept that outputs of a task are in a blob."""
    return f"{task_id}/{digest}"


def drops(tenant: str, key: str, digests: Sequence[str] = ()) -> list[Write]:
    """What a task has of the store goes; outputs in blobs have these digests."""
    outputs = [Drop(tenant, Kind.OUTPUT, output_key(key, digest)) for digest in (*digests, DELETED)]
    return [*(Drop(tenant, kind, key) for kind in (Kind.TASK, Kind.PROGRESS, Kind.PAST)), *outputs]


def _changes(kept: Kept, sizes: Sizes, clock: Clock) -> Callable[[], list[Write]]:
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
    made = partial(write_task, _as_made(kept.task), clock, names=bool(kept.held)) if anew else None
    written: list[KeptEntry] = [kept.in_blobs.get(each.sequence, each) for each in told] if kept.in_blobs else [*told]
    spec = kept.task.spec
    gone = deletes(spec.tenant, spec.task_id, tuple(kept.outputs)) if kept.deleting else []
    past = write_past(kept.task, clock) if ended else b""
    return partial(_writes, spec, made, (progress, past), written, sizes, kept.sizes.pieces, gone)


def _as_made(task: Task) -> KeptTask:
    """What of a task never changes, for another thread."""
    return KeptTask(task.spec, task.number, task.created)


def _writes(  # noqa: PLR0917 - of one call
    spec: TaskSpec,
    made: Callable[[], bytes] | None,
    standing: tuple[bytes, bytes],
    told: Sequence[KeptEntry],
    sizes: Sizes,
    pieces_bytes: int,
    gone: Sequence[Write],
) -> list[Write]:
    """The record of a task where it is made anew, where it stands, and what it has told; nothing of that changes.

    Of one that has ended `standing` has what is known without those, too; else nothing.
    """
    tenant, key = spec.tenant, spec.task_id
    writes: list[Write] = [*gone]
    if made is not None:
        writes.append(Put(tenant, Kind.TASK, key, record := made()))
        sizes.record = len(record)
    pieces = write_pieces(told)
    sizes.pieces = (0 if gone else pieces_bytes) + sum(len(value) for _, value in pieces)
    for kind, written in zip((Kind.PROGRESS, Kind.PAST), standing, strict=True):
        if written:
            writes.append(Put(tenant, kind, key, with_bytes(written, sizes.record, sizes.pieces)))
    writes += [
        Put(tenant, Kind.OUTPUT, output_key(key, each.digest), str(each.size_bytes).encode())
        for each in told
        if isinstance(each, InBlob)
    ]
    writes += [Append(tenant, Kind.TASK, key, number, value) for number, value in pieces]
    return writes
