"""What clients are told of where tasks stand: of a kept one only what is written, for the rest could be undone."""

from collections.abc import Collection

from inferd.core.ids import Tenant
from inferd.core.index import Page
from inferd.core.task import (
    ASK_LABEL,
    DATASET_LABEL,
    EVALUATION_LABEL,
    EXPLANATION_LABEL,
    INDEX_LABEL,
    TRAINING_LABEL,
    TRIAL_LABEL,
    Task,
    TaskState,
)
from inferd.runtime.driver import Driver
from inferd.runtime.stream import TaskStream

MOST = 1 << 63  # more than there are tasks
INNER = (TRIAL_LABEL, EVALUATION_LABEL, EXPLANATION_LABEL, TRAINING_LABEL, ASK_LABEL, INDEX_LABEL, DATASET_LABEL)
"""Labels of tasks by which the kernel finds something out for a client: lists leave them out."""

GOING = (TaskState.QUEUED, TaskState.RUNNING)  # between them nothing is promised


def shown_state(task: Task, stream: TaskStream) -> TaskState:
    """The state of a task for its client."""
    written = stream.shown
    if written is None and (task.outcome is None or stream.finished is not None):
        return task.state
    if (written is None or written in GOING) and task.state not in GOING:
        return TaskState.RUNNING if task.attempt else TaskState.QUEUED
    return task.state if written is None or written in GOING else written


def is_listed(driver: Driver, task: Task, states: Collection[TaskState], *, trials: bool = False) -> bool:
    """Whether a task is among those in one of these states, none for all; those of trials where asked for."""
    if not trials and not task.spec.labels.keys().isdisjoint(INNER):
        return False
    stream = driver.streams.get(task.spec.task_id)
    return not stream.hidden and (not states or shown_state(task, stream) in states)


async def page_of(
    driver: Driver,
    tenant: Tenant,
    states: Collection[TaskState],
    *,
    after: int | None,
    size: int,
    trials: bool = False,
) -> Page[Task]:
    """As `Views.tasks`, with their records; tasks whose newest state is not written are where they were.

    Those of trials are among them only where asked for.

    Raises:
        StoreUnavailableError: Some of them are in the store, and cannot be read now.
    """
    while True:
        held, more = await _held(driver, tenant, states, after=after, size=size)
        last = held[-1].number if more else 0
        found = [*held, *_moved(driver, tenant, states, range(last + 1, MOST if after is None else after))]
        records = [task for task in found if is_listed(driver, task, states, trials=trials)]
        if records or not more:
            return Page(sorted(records, key=lambda task: -task.number), more=more)
        after = last


async def _held(
    driver: Driver, tenant: Tenant, states: Collection[TaskState], *, after: int | None, size: int
) -> tuple[list[Task], bool]:
    while True:
        page = driver.views.tasks(tenant, states, after=after, size=size)
        held = [record for record in page.records if isinstance(record, Task)]
        if len(held) == len(page.records):
            return held, page.more
        await driver.archive.recall(tenant, [record.spec.task_id for record in page.records])


def _moved(driver: Driver, tenant: Tenant, states: Collection[TaskState], numbers: range) -> list[Task]:
    """Tasks with these numbers that are in none of these states now, and of which that is not written."""
    if not states or driver.keeper is None:
        return []
    unwritten = driver.keeper.unwritten(tenant)
    return [task for task in unwritten if task.state not in states and task.number in numbers]
