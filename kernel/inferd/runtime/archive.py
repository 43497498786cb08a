"""Ended tasks of kernels before this one are in the store: their records are read when somebody asks for them.

Those that were asked for last are held by the core, as all others are.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from inferd.core.past_events import LosePast, RecallTasks, ReleaseTasks
from inferd.runtime.ended import read_ended

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from inferd.core.ids import TaskId, Tenant
    from inferd.runtime.driver import Driver
    from inferd.runtime.found import Found


class Archive:
    """One writer: those who ask for tasks.

    Args:
        driver: Of the kernel.
        most: Records that are held though nobody asks for them now.
    """

    def __init__(self, driver: Driver, most: int) -> None:
        self._driver = driver
        self._most = most
        self._held: OrderedDict[TaskId, None] = OrderedDict()  # what was asked for last is the last one
        self._asked: Counter[TaskId] = Counter()  # by how many who wait for others
        self._settling = False

    async def recall(self, tenant: Tenant, task_ids: Collection[TaskId]) -> None:
        """Have the records of these tasks of a tenant known, but for those that cannot be read; others as they are.

        They are when this returns, and until the caller waits for something else.

        Raises:
            StoreUnavailableError: They cannot be read now.
        """
        for task_id in task_ids:
            if task_id in self._held:
                self._held.move_to_end(task_id)
        past = [task_id for task_id in task_ids if self._driver.views.find_past(task_id, tenant) is not None]
        keeper = self._driver.keeper
        if not past or keeper is None:
            return
        self._asked.update(task_ids)
        try:
            names = [(tenant, task_id) for task_id in past]
            found, lost = await keeper.read(partial(read_ended, names=names, clock=self._driver.clock))
        finally:
            self._asked.subtract(task_ids)
            self._asked = +self._asked  # without those of nobody
            if not self._settling:  # whatever became of it: what others had read for it may be let go of
                self._settling = True
                asyncio.get_running_loop().call_soon(self._settle)
        self._know(found)
        for task_id in lost:
            self._lose(task_id, tenant)

    def _know(self, found: Iterable[Found]) -> None:
        views, keeper = self._driver.views, self._driver.keeper
        fresh = [each for each in found if views.find_past(each.task.spec.task_id, each.task.spec.tenant) is not None]
        self._driver.restore(RecallTasks(tuple(each.task for each in fresh)))
        for each in fresh:
            task_id = each.task.spec.task_id
            stream = self._driver.streams.recall(task_id, each.told)
            self._held[task_id] = None
            if keeper is not None:
                keeper.tasks.recall(each, stream)

    def _lose(self, task_id: TaskId, tenant: Tenant) -> None:
        """One cannot be read: it is not known to this kernel, and what there is of it stays."""
        if (keeper := self._driver.keeper) is not None and self._driver.views.find_past(task_id, tenant) is not None:
            self._driver.restore(LosePast(task_id))
            keeper.tasks.past.lose(task_id, tenant)
            self._driver.watchers.tasks.note(tenant, task_id)

    def _settle(self) -> None:
        """Hold no more than may be, but for what is asked for, or with which something is to be done."""
        self._settling = False
        for task_id in list(self._held):
            if len(self._held) <= self._most:
                return
            if self._driver.views.find_task(task_id) is None:
                del self._held[task_id]  # it was forgotten
            elif task_id not in self._asked and (keeper := self._driver.keeper) and keeper.tasks.release(task_id):
                del self._held[task_id]
                self._driver.streams.forget(task_id)
                self._driver.restore(ReleaseTasks((task_id,)))
