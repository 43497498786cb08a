"""A kernel takes up what the one before it has kept.

What of it cannot be read is left out, told in the log, and stays in the store: the rest is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import structlog

from inferd.core.task_events import Finished
from inferd.errors import InferdError
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept_events import read_entries
from inferd.runtime.kept_records import read_model, read_progress, read_task
from inferd.store.store import DamagedError, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.core.model import ModelSpec
    from inferd.core.restored import RestoredTask
    from inferd.runtime.clock import Clock
    from inferd.runtime.driver import Driver
    from inferd.runtime.event_log import Entry
    from inferd.store.store import Record, Store

UNREADABLE = (DamagedError, ValueError, TypeError, KeyError, AttributeError, IndexError)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A task that was kept, and all that it told."""

    task: RestoredTask
    cached_tokens: int | None
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Before:
    """What the kernel before this one has kept."""

    models: Sequence[ModelSpec]
    tasks: Sequence[Found]


async def read_kept(driver: Driver) -> Before:
    """What was kept; nothing where the kernel has no store.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    if driver.keeper is None:
        return Before((), ())
    return Before(
        await driver.keeper.read(_models),
        await driver.keeper.read(lambda store: _tasks(store, driver.clock)),
    )


def restore(driver: Driver, before: Before) -> None:
    """Make known what was kept, before any client is served: models, then tasks, which go on."""
    for spec in before.models:
        try:
            driver.create_model(spec)
        except InferdError as error:
            log.warning("a model that was kept is left out", model=spec.name, why=error.message)
        if driver.keeper is not None:
            driver.keeper.adopt_model(spec.name)
    # In the order in which they ended: the events of the last ones are those that `retained_bytes` leaves.
    for each in sorted(before.tasks, key=lambda found: inf if found.task.finished is None else found.task.finished):
        stream = driver.streams.open(each.task.spec.task_id)
        stream.continuation.cached_tokens = each.cached_tokens
        stream.restore(each.entries)
        stream.detached = True
        if stream.finished is not None:  # at once: its events take nothing from those of tasks that go on
            driver.streams.ended(stream)
    if before.tasks:
        driver.restore(tuple(each.task for each in before.tasks))


def _models(store: Store) -> list[ModelSpec]:
    models = []
    for record in store.records(Kind.MODEL, partial(_leave_out, "model")):
        try:
            models.append(read_model(record.value))
        except UNREADABLE as error:
            _leave_out("model", record.tenant, record.key, error)
    return models


def _tasks(store: Store, clock: Clock) -> list[Found]:
    leave_out = partial(_leave_out, "task")
    progress = {(record.tenant, record.key): record.value for record in store.records(Kind.PROGRESS, leave_out)}
    tasks = []
    for record in store.records(Kind.TASK, leave_out):
        try:
            tasks.append(_found(store, record, progress.get((record.tenant, record.key)), clock))
        except UNREADABLE as error:
            leave_out(record.tenant, record.key, error)
    return tasks


def _found(store: Store, record: Record, progress: bytes | None, clock: Clock) -> Found:
    if progress is None:
        raise ValueError("where it stands is not kept, or damaged")
    kept = read_task(record.value, clock)
    pieces = store.pieces(record.tenant, Kind.TASK, record.key)
    entries = [entry for piece in pieces for entry in read_entries(piece)]
    last = entries[-1] if entries else None
    event = last.event if isinstance(last, Numbered) else None
    outcome = event.outcome if isinstance(event, Finished) else None
    task, cached_tokens = read_progress(kept, progress, outcome, clock)
    return Found(task=task, cached_tokens=cached_tokens, entries=entries)


def _leave_out(what: str, tenant: str, key: str, error: Exception) -> None:
    why = error.message if isinstance(error, InferdError) else f"{type(error).__name__}: {error}"
    log.error(
        "what was kept cannot be read: it is left out, and stays in the store",
        what=what,
        key=key,
        tenant=tenant,
        why=why,
    )
