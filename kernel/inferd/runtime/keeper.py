"""What outlives the kernel, on its way into the store: written together, shown and acknowledged once it is there.

The core's changes come first, before anything that follows from them is done; see `Driver`. A task is kept from when it
is detached. What it tells is held back until it is in the store: so whoever has seen an event finds it again, under its
number, with the kernel after this one. The kernel itself does not wait: a task is sent, and goes on, meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from inferd.core.changes import (
    QuotaUsed,
    ShareChanged,
)
from inferd.core.room import Room
from inferd.errors import InferdError, ShuttingDownError
from inferd.runtime.kept import RETRY_AFTER_S, Kept, refuse, typed
from inferd.runtime.kept_leases import KeptLeases
from inferd.runtime.kept_models import KeptModels, waiting_for
from inferd.runtime.kept_shares import AFTER_S, KeptShares
from inferd.runtime.kept_tasks import CHANGES, KeptTasks
from inferd.runtime.patience import Patience
from inferd.runtime.records import Records
from inferd.runtime.store_state import STORE, StoreState
from inferd.runtime.store_thread import StoreThread
from inferd.runtime.writing import write_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.changes import Change
    from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
    from inferd.core.model import ModelSpec
    from inferd.core.task import TaskSpec
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.driver import Driver
    from inferd.runtime.keeper_times import KeeperTimes
    from inferd.runtime.kept import Sent
    from inferd.runtime.kept_models import DueModel
    from inferd.runtime.leading import Leadership
    from inferd.runtime.trail import Trail
    from inferd.store.store import Store

    Batch = Sequence[tuple[Kept, Sent]]
    Writing = asyncio.Future[list[InferdError | None]]

MOST_TASKS = 1000  # in one write: the loop makes them up, and so serves others between them
DRAIN_S = 5.0  # most that the end of the kernel waits for a store

log = structlog.get_logger()


class Keeper:
    """Keeps detached tasks, leases and the models of clients. One writer: the driver; it writes on a thread of its own.

    Args:
        store: Where.
        times: How often.
        driver: Whose tasks, leases and models it keeps; it withdraws a task or a lease that cannot be kept.

    Attributes:
        tasks, models: Those that are kept.
        shares: What tenants were served, and what they used of quotas.
        trail: What is told of calls; None until it is opened.
        leadership: How this kernel stands to others with the same store; None where there can be none.
        most_output_tokens: Of a task that is accepted now.
        forgets: Who else has something of tenants, and forgets it when one is shredded.
    """

    def __init__(self, store: Store, times: KeeperTimes, driver: Driver) -> None:
        self._store = store
        self._times = times
        self._driver = driver
        self._thread = StoreThread()
        records = Records(store, self._thread)
        self.read, self.keep_records = records.read, records.keep
        room = Room(times.stored_bytes, times.tenant_share)
        self.tasks = KeptTasks(driver, records, room, changed=self._soon, told=self._tell)
        self.unwritten = self.tasks.unwritten
        self.models = KeptModels(driver.views, driver.clock)
        self._leases = KeptLeases(driver.views, driver.clock)
        self.shares = KeptShares(driver.clock)
        self._writing: Writing | None = None
        self._began = 0.0  # it
        self._urgent = self._closing = False
        self._timer: asyncio.Handle | None = None
        self.state = StoreState(store.name, lambda: driver.watchers.models.notify(STORE))
        self.trail: Trail | None = None
        self.leadership: Leadership | None = None
        self.most_output_tokens = times.most_output_tokens
        self.forgets: list[Callable[[Tenant], None]] = []
        self._patience = Patience(DRAIN_S)
        self.hurry = self._patience.hurry  # the kernel ends at once: a store that does not answer is not waited for

    @property
    def blobs(self) -> Blobs | None:
        """What is in blobs of tasks; None until they are opened."""
        return self.tasks.blobs

    def open_blobs(self, blobs: Blobs) -> None:
        """What is large of tasks is in these."""
        self.tasks.open(blobs, self._times.retry_s)

    # What the driver tells.

    def commit(self, changes: Sequence[Change]) -> None:
        """Keep what has changed. Most tasks are not kept, and cost a look at the kinds of their changes."""
        if self._closing:
            return  # what ends now with the kernel goes on with the next one
        for change in changes:
            if type(change) in CHANGES:
                self.tasks.note(change)
            else:
                self._note(change)

    def _note(self, change: Change) -> None:
        if isinstance(change, ShareChanged | QuotaUsed):
            if self.shares.note(change):
                asyncio.get_running_loop().call_later(AFTER_S, self._write_shares)
        elif self.models.note(change, self.blobs) or self._leases.note(change):
            self._soon()

    def _write_shares(self) -> None:
        self.shares.hurry()
        if self._timer is None and self.state.writes and not self._closing:
            self._flush()

    def _tell(self, kept: Kept) -> None:
        """A task has told something, which is written with what others tell, and may be seen then."""
        self.tasks.backlog.check(kept, failing=kept.stalled or not self.state.writes)
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(self._times.output_interval_s, self._flush)

    # What clients wait for.

    def check(self) -> None:
        """Refuse what is to be kept while nothing can be.

        Raises:
            StoreUnavailableError: The last write failed, and none has been done since.
        """
        self.state.check()

    def check_new(self, spec: TaskSpec) -> None:
        """Refuse to keep a new task while nothing can be, or there is no room for it.

        Raises:
            StoreUnavailableError: As `check`.
            LimitExceededError: Living tasks take as much of the store as they may, or those of the tenant.
        """
        self.check()
        self.tasks.room.check(spec.tenant, spec.demand.memory_bytes)

    def check_task(self, task_id: TaskId) -> None:
        """Refuse to change a task that is kept while nothing can be; from then on its client says whether it goes on.

        Raises:
            StoreUnavailableError: As `check`.
        """
        if (kept := self.tasks.find(task_id)) is not None:
            self.check()
            self.tasks.backlog.let_go(kept)

    async def settled(self, task_id: TaskId) -> None:
        """Wait until all that has become of a task is kept; at once for one that is not to be kept.

        Raises:
            StoreUnavailableError: It cannot be written now; it is tried again, but for a new task, which is withdrawn.
            ShuttingDownError: The kernel ends before that.
        """
        if (written := self.tasks.wait(task_id)) is not None:
            self._check_closing()
            await written

    async def keep_model(self, spec: ModelSpec) -> None:
        """Keep a model for the kernels after this one.

        Raises:
            StoreUnavailableError, ShuttingDownError: As `settled`.
        """
        self.check()
        self._check_closing()
        self.models.put(spec.name)
        self._soon()
        await self.settled_model(spec.name)

    def keep_model_soon(self, name: ModelName) -> None:
        """As `keep_model`, for whom nobody waits."""
        if not self._closing and self.models.put(name):
            self._soon()

    async def settled_model(self, name: ModelName) -> None:
        """Wait until what has become of a model is kept; at once for one that is not to be kept.

        Raises:
            StoreUnavailableError, ShuttingDownError: As `settled`.
        """
        if (written := self.models.wait(name)) is not None:
            await written

    async def settled_lease(self, lease_id: LeaseId) -> None:
        """Wait until what has become of a lease is kept; at once for one of which nothing is to be written.

        Raises:
            StoreUnavailableError, ShuttingDownError: As `settled`; a lease that was to be granted is withdrawn.
        """
        if (written := self._leases.wait(lease_id)) is not None:
            self._check_closing()
            await written

    async def granted(self, lease_id: LeaseId) -> None:
        """Wait until a lease may be told of: its grant, its renewal or its release is kept, or the grant is withdrawn.

        Raises:
            StoreUnavailableError, ShuttingDownError: As `settled`, of a lease that was kept.
        """
        if (written := self._leases.wait_for_grant(lease_id)) is not None:
            self._check_closing()
            await written

    def _check_closing(self) -> None:
        if self._closing:
            raise ShuttingDownError("the kernel is shutting down", retry_after_s=RETRY_AFTER_S)

    # Writing.

    @property
    def _due(self) -> bool:
        """Whether there is something to be written."""
        trail = self.trail is not None and self.trail.due
        return bool(self.tasks or self.models or self._leases or self.shares or trail)

    @property
    def closing(self) -> bool:
        """Whether the kernel ends: tasks that are kept go on with the next one."""
        return self._closing

    def write_soon(self) -> None:
        """Something of the trail is to be written now."""
        if not self._closing:
            self._soon()

    def beside(self, do: Callable[[], None]) -> None:
        """Do something where the store is written, which nobody waits for."""
        asyncio.get_running_loop().run_in_executor(self._thread, do)

    def _soon(self) -> None:
        """Write when the event under way has been dealt with, or the write under way is done."""
        self._urgent = True
        if self._writing is None and self.state.writes:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._writing is not None or not self._due:
            return
        batch = self.tasks.take(MOST_TASKS)
        gone = self.tasks.past.take(MOST_TASKS)
        trail = self.trail is not None and self.trail.due
        if not (batch or gone or self.models or self._leases or self.shares or trail):
            return  # what there was goes into blobs first
        models = self.models.take()
        self._urgent = self._urgent and bool(self.tasks)
        rest = [*gone, *(model.write for model in models.values()), *self._leases.take(), *self.shares.take()]
        told = self.trail.take() if self.trail is not None else tuple
        parts = [*(sent.writes for _, sent in batch), lambda: [*rest, *told()]]
        self._began = time.monotonic()
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread.first, write_parts, self._store, parts)
        self._writing.add_done_callback(lambda done: self._wrote(batch, models, done))

    def _wrote(self, batch: Batch, models: dict[ModelName, DueModel], done: Writing) -> None:
        self._writing = None
        self.state.took(time.monotonic() - self._began)
        self.tasks.backlog.end()
        if (error := done.exception()) is not None:
            why = typed(error)
            self.state.failed(why)
            results: list[InferdError | None] = [why] * (len(batch) + 1)
        else:
            self.state.written()
            results = done.result()
        self._settle(batch, models, results)
        if self._due and self._timer is None and not self._closing:
            wait_s = self._times.retry_s if any(results) else 0.0 if self._urgent else self._times.output_interval_s
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._flush)

    def _settle(self, batch: Batch, models: dict[ModelName, DueModel], results: Sequence[InferdError | None]) -> None:
        """Tell what has become of each part: of each task, and of all the rest."""
        failed = [(kept, why) for (kept, _), why in zip(batch, results, strict=False) if why is not None]
        for (kept, sent), why in zip(batch, results, strict=False):
            if why is None:
                self.tasks.wrote(kept, sent)
        if self.state.writes:
            self.tasks.backlog.go_on()  # before the next write: the kernel after this one is not to find them stopped
        fresh = self._settle_rest(models, results[-1])
        self.tasks.failed(failed)
        for name in fresh:
            with suppress(InferdError):  # one of which use was made meanwhile stays, and is written with what did
                self._driver.delete_model(name)
        if not self._due:
            self.state.forget()  # nothing is left by which it would be seen that the cause is gone

    def _settle_rest(self, models: dict[ModelName, DueModel], error: InferdError | None) -> list[ModelName]:
        """That is written; or nobody knows, and it is due again. The models that are to be given up if they can be."""
        if self.trail is not None:
            self.trail.settle(error)
        if error is None:
            self.tasks.past.settle(done=True)
            self.models.wrote(models)
            self._leases.wrote()
            self.shares.wrote()
            return []
        self.tasks.past.settle(done=False)
        fresh = self.models.failed(models)
        self.shares.failed()
        leases, waiting_for_leases = self._leases.failed()
        for future in (*waiting_for(models), *waiting_for_leases):
            refuse(future, error)
        for lease_id, tenant in leases.items():
            self._driver.withdraw_lease(lease_id, tenant, error)
        return fresh

    async def drain(self) -> None:
        """Wait until all is written, or the store has not taken it for long."""
        self.shares.hurry()
        if self.trail is not None:
            self.trail.hurry()
        async with self._patience.bounds():
            while (self._writing or self._due or self.tasks.underway) and self.state.writes:
                if self._writing is None and self._due:
                    self._flush()
                elif self._writing is None:
                    await asyncio.wait(self.tasks.underway)
                elif not self._writing.done():
                    await asyncio.wait([self._writing])
                await asyncio.sleep(0)

    def stop(self) -> None:
        """Keep nothing of what follows: the kernel ends, and its tasks go on with the next one."""
        if self._closing:
            return
        self._closing = True
        why = "the kernel is shutting down; it goes on with this when it is started again"
        error = ShuttingDownError(why, retry_after_s=RETRY_AFTER_S)
        self.tasks.stop(error)
        for waiter in (*waiting_for(self.models.take()), *self._leases.abandon()):
            refuse(waiter, error)
        if self.trail is not None:
            self.trail.stop(error)

    async def close(self) -> None:
        """Let go of the store, or leave it alone when what is being written hangs."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown()
        if await self._patience.saw(closing):
            closing.result()
        else:
            closing.cancel()
            log.error("the store does not answer; the kernel ends without closing it")

    def _end(self) -> None:
        if self.trail is not None:
            self.trail.end(self._store)
        self._store.close()
