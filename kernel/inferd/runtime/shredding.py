"""A tenant is shredded while the kernel serves: its tasks end, its keys go, and then what they sealed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferd.core.past_events import LosePast
from inferd.core.past_tasks import PastTask
from inferd.errors import InferdError, StoreUnavailableError
from inferd.store.sealing.turning import keys_of_store, shred

if TYPE_CHECKING:
    from inferd.core.ids import ModelName, TaskId, Tenant
    from inferd.runtime.driver import Driver

SETTLE_S = 5.0  # most that is waited for what its tasks have told to be written, before nobody can read it
PAGE = 1000
ANY_DIGEST = "0" * 64

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shredded:
    """What went.

    Attributes:
        keys: Keys that were dropped.
        tasks: Tasks that were known, living or not.
        blobs: Blobs.
    """

    keys: int
    tasks: int
    blobs: int


class Shredding:
    """Has all of a tenant gone. What it does next it does with keys of its own, as one that never was.

    Args:
        driver: Of the kernel.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = asyncio.Lock()

    async def shred(self, tenant: Tenant) -> Shredded:
        """End the tasks and leases of a tenant, drop its keys, and then what they sealed: nobody reads it again.

        Raises:
            InvalidFieldError: There is no tenant of an empty name.
            StoreUnavailableError: Nothing is kept or sealed, or it cannot be written: its tasks have ended, and what
                was kept is as it was.
        """
        keeper = self._driver.keeper
        if keeper is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, store.url is memory:; there is nothing to shred",
                metadata={"cause": "no store"},
            )
        async with self._lock:
            await keeper.read(keys_of_store)  # or nothing is done
            models = self._models_of(tenant)
            ended = self._end_all(tenant)
            writing = [future for task_id in ended if (future := keeper.tasks.wait(task_id)) is not None]
            if writing:  # behind the shredding it would be written with a key that is new
                await asyncio.wait(writing, timeout=SETTLE_S)
            keys: int = await keeper.read(lambda store: shred(store, tenant))
            ended += self._end_all(tenant)  # what came meanwhile is not kept any more
            blobs = 0 if keeper.blobs is None else await keeper.blobs.shred(tenant)
            for forget in keeper.forgets:
                forget(tenant)
            self._driver.prefixes.forget_all()  # first: workers that are stopped keep nothing, either
            await self._unload(models)
        log.warning("a tenant is shredded", tenant=tenant, keys=keys, tasks=len(ended), blobs=blobs)
        return Shredded(keys, len(ended), blobs)

    def _end_all(self, tenant: Tenant) -> list[TaskId]:
        driver = self._driver
        ended: list[TaskId] = []
        error = StoreUnavailableError(
            f"what is kept of tenant {tenant!r} was shredded, and this with it; nobody can read it again",
            metadata={"cause": "shredded"},
        )
        while tasks := driver.views.tasks(tenant, size=PAGE).records:
            for task in tasks:
                task_id = task.spec.task_id
                if isinstance(task, PastTask):
                    driver.restore(LosePast(task_id))
                    if driver.keeper is not None:
                        driver.keeper.tasks.past.lose(task_id, tenant)
                    driver.watchers.tasks.note(tenant, task_id)
                else:
                    driver.withdraw(task_id, tenant, error)
                ended.append(task_id)
        after: int | None = None
        while leases := driver.views.leases(tenant, after=after, size=PAGE).records:
            for lease in leases:
                driver.withdraw_lease(lease.spec.lease_id, tenant, error)
                after = lease.number
        return ended

    def _models_of(self, tenant: Tenant) -> list[ModelName]:
        """The models whose files are blobs of the tenant."""
        blobs = None if self._driver.keeper is None else self._driver.keeper.blobs
        if blobs is None:
            return []
        folder, views = blobs.opened.folder(tenant, ANY_DIGEST).parent, self._driver.views
        return [name for name in views.model_names() if folder in Path(views.model(name).spec.path).parents]

    async def _unload(self, models: list[ModelName]) -> None:
        for name in models:
            try:
                await self._driver.loading.unload(name, force=True, instance_id=None)
                continue
            except InferdError as error:  # a lease of another tenant holds it
                why = error.message
            log.error("a model of blobs that were shredded stays loaded", model=name, why=why)
