"""A tenant's tasks as one list that is followed."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from dataclasses import dataclass, field

from inferd.core.ids import TaskId, Tenant
from inferd.core.task import Task, TaskState
from inferd.runtime.driver import Driver
from inferd.runtime.front.shown import is_listed, page_of

PART = 100  # most tasks of a part: so many are written at once, with labels as long as they may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a watcher of tasks is told at once.

    Attributes:
        anew: Whether the list begins anew: what was told before is void.
        tasks: Tasks as they stand.
        forgotten: Tasks that were told and are known no longer.
        more: Whether another part follows at once.
    """

    anew: bool = False
    tasks: list[Task] = field(default_factory=list)
    forgotten: list[TaskId] = field(default_factory=list)
    more: bool = False


class TaskList:
    """Follows the tasks of a tenant that are in some states, none for all; those of trials where asked for.

    One writer: its watcher.

    What changes while the watcher is busy is merged: a task is told as it stands then, once.
    """

    def __init__(self, driver: Driver, tenant: Tenant, states: Collection[TaskState], *, trials: bool = False) -> None:
        self._driver = driver
        self._tenant = tenant
        self._states = states
        self._trials = trials
        self._told: set[TaskId] = set()  # that were in those states when they were told last

    async def follow(self) -> AsyncGenerator[Part, None]:
        """The tasks that there are, newest first; then each that is made or changes. Never ends by itself.

        Raises:
            ShuttingDownError: The kernel is shutting down.
            StoreUnavailableError: Some of them are in the store, and cannot be read now.
        """
        with self._driver.watchers.tasks.watch(self._tenant) as untold:
            while True:
                self._driver.check_open()
                seen, changed = untold.version, untold.take()
                if changed is None:
                    async for part in self._all():
                        yield part
                elif changed:
                    for start in range(0, len(changed), PART):
                        part = await self._changed(changed[start : start + PART], more=start + PART < len(changed))
                        if part.tasks or part.forgotten:
                            yield part
                else:
                    await untold.wait(seen)

    async def _all(self) -> AsyncIterator[Part]:
        """The list from its beginning; each part as things stand when it is asked for."""
        self._told.clear()
        anew, after, more = True, None, True
        while more:
            page = await page_of(self._driver, self._tenant, self._states, after=after, size=PART, trials=self._trials)
            more = page.more
            self._told.update(task.spec.task_id for task in page.records)
            after = page.records[-1].number if page.records else None
            yield Part(anew=anew, tasks=page.records, more=more)
            anew = False

    async def _changed(self, task_ids: list[TaskId], *, more: bool) -> Part:
        """Those of some tasks that are in the list, leave it or are forgotten."""
        await self._driver.archive.recall(self._tenant, task_ids)
        part = Part(more=more)
        for task_id in task_ids:
            task, told = self._driver.views.find_task(task_id), task_id in self._told
            listed = task is not None and is_listed(self._driver, task, self._states, trials=self._trials)
            (self._told.add if listed else self._told.discard)(task_id)
            if task is not None and (listed or told):
                part.tasks.append(task)
            elif told:
                part.forgotten.append(task_id)
        return part
