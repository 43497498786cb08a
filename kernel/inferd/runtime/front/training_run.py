"""One attempt at a training: a worker of its own where there is room, and a task that does its steps there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.core.host import HOST_LABEL, LOCAL
from inferd.core.ids import NO_LEASE, DeviceId, LeaseId
from inferd.core.model import Instance, InstanceState, ModelSpec
from inferd.core.placement_rules import PlacementRules
from inferd.core.priority import Priority
from inferd.core.resources import HOST_DEVICE
from inferd.core.training import BACKEND, FOLLOWER, LOADER, ORDER_SETTING, TRAINING, Order, write_order
from inferd.errors import BackendUnavailableError, InferdError
from inferd.plugin.registry import BackendState
from inferd.runtime.front.training_gang import TrainingGang, drive
from inferd.runtime.front.training_pace import pace
from inferd.runtime.front.trials import LOOK_S, NoRoomError, Place, Trials
from inferd.runtime.instances import newest
from inferd.runtime.placement import stat_files
from inferd.runtime.training_work import training_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.ids import ModelName, Tenant
    from inferd.core.plan import LoadPlan
    from inferd.core.resources import MemoryNeed
    from inferd.core.training import Training
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.front.training_gang import Tell
    from inferd.runtime.plugins import Plugins
    from inferd.runtime.training_files import TrainingFiles
    from inferd.sandbox.state import Access
    from inferd.training_settings import Train

SETTLE_LOOKS: Final = 3  # so often it is seen that others wait before a training gives its room to them


class TrainingRoom(Trials):
    """Loads a training beside what serves, and takes it away when others need the room.

    Args:
        driver: Of the kernel.
        training: Which.
        lease_id: The lease that it is loaded under, whose room is its own; "" for none.
        settings: By which models go for it, and tasks on its processor leave it time.
        guess: What it is taken to need where that cannot be measured; None where nothing is loaded then.
    """

    def __init__(
        self,
        driver: Driver,
        training: Training,
        lease_id: LeaseId,
        settings: Train,
        *,
        guess: MemoryNeed | None = None,
    ) -> None:
        super().__init__(driver)
        self._guess = guess
        self._lease_id = lease_id
        self._yields = training.spec.priority is Priority.LOW
        self._settings = settings

    def _on_free_cores(self, spec: ModelSpec) -> ModelSpec:
        return spec if self._lease_id else super()._on_free_cores(spec)

    async def _find_place(self, spec: ModelSpec, tell: Callable[[LoadPlan], str]) -> Place:
        plan = await self._driver.plan_load(spec, guess=self._guess)
        if self._lease_id:
            return Place(cores=0)
        now, instances = self._driver.clock.now(), self._driver.machine.fleet.instances
        quick = [each for each in plan.evicted if now - instances[each].used < self._settings.idle_s]
        if not plan.fits or quick:
            raise NoRoomError(tell(plan))
        account = self._driver.views.devices[plan.device_id]
        return Place(cores=account.free_cores if account.cores else 0)

    async def _load(self, name: ModelName, tenant: Tenant) -> Instance:
        model = await self._driver.loading.load(name, tenant, self._lease_id)
        instance = newest(each for each in model.instances.values() if each.living)
        if instance is None:
            raise NoRoomError("its worker ended as soon as it was loaded")
        return instance

    async def _until_wanted(self, instance: Instance, place: Place) -> str:
        watching = asyncio.ensure_future(super()._until_wanted(instance, place))
        pacing = asyncio.ensure_future(self._pace(instance))
        seen = 0
        try:
            while not watching.done():
                await asyncio.wait({watching}, timeout=LOOK_S)
                waiting = self._waiting_for(instance) if self._yields and not self._lease_id else ""
                seen = seen + 1 if waiting else 0
                if seen >= SETTLE_LOOKS and not watching.done():
                    return f"model {waiting!r} waits for memory of {instance.device_id}"
            return watching.result()
        finally:
            pacing.cancel()
            watching.cancel()

    async def _pace(self, instance: Instance) -> None:
        """Have it leave time to tasks of models on its processor, where that is this host's."""
        workers, others = self._driver.supervisor.workers, self._driver.machine.fleet.instances
        if instance.device_id != HOST_DEVICE:
            return

        def pid() -> int:
            worker = workers.get(instance.instance_id)
            return worker.pid if worker is not None and instance.living else 0

        def are_others() -> bool:
            return any(
                each.running and instance.device_id in each.device_ids and not each.model.startswith(TRAINING)
                for each in others.values()
            )

        await pace(pid, are_others, self._settings.share)

    def _waiting_for(self, instance: Instance) -> str:
        """Who waits for memory of its device, other trainings left out; "" for nobody."""
        for each in self._driver.machine.fleet.instances.values():
            waits = each.state is InstanceState.WAITING and instance.device_id in each.device_ids
            if waits and not each.model.startswith(TRAINING):
                return each.model
        return ""


class TrainingRun:
    """Attempts a training.

    Args:
        driver: Of the kernel.
        tasks: By which its steps are done.
        plugins: Who may train.
        files: Of trainings.
        settings: Bounds.
    """

    def __init__(self, driver: Driver, tasks: Tasks, plugins: Plugins, files: TrainingFiles, settings: Train) -> None:
        self._driver = driver
        self._tasks = tasks
        self._plugins = plugins
        self._files = files
        self._settings = settings

    async def go(self, training: Training, tell: Tell) -> None:
        """Have a worker do its steps, from its last checkpoint to the end; `tell` is given what it says.

        Raises:
            NoRoomError: There is no room for it.
            GaveWayError: Others needed its room.
            InferdError: It failed, or its worker died.
        """
        lease_id = self._lease_of(training)
        room = TrainingRoom(self._driver, training, lease_id, self._settings)
        spec = self._spec(training)
        await self._files.write_order(training.training_id, self._order(training))
        async with AsyncExitStack() as stack:
            if training.base:
                await stack.enter_async_context(self._driver.supervisor.opening(training.base))
            await room.run(
                spec,
                training.tenant,
                tell=lambda plan: plan.reason,
                measure=lambda instance: self._lead(training, instance, lease_id, tell),
            )

    async def gone(self, training: Training) -> None:
        """Wait until nothing is left of its workers, of which the one that leads saves what it has done."""
        for place in range(training.spec.recipe.ranks):
            await Trials(self._driver).gone(training.model_of(place))

    def _lease_of(self, training: Training) -> LeaseId:
        """The lease that it runs under, as long as that holds."""
        try:
            if training.lease_id:
                self._driver.views.active_lease(LeaseId(training.lease_id), training.tenant)
        except InferdError:
            return NO_LEASE
        return LeaseId(training.lease_id) if training.lease_id else NO_LEASE

    def _spec(self, training: Training) -> ModelSpec:
        """It, in the place of a model.

        Raises:
            BackendUnavailableError: What trains it is not there now.
        """
        folder = str(self._files.folder(training.training_id))
        together = training.spec.recipe.ranks > 1
        asked = self._access(training, reads=[training.base] if training.base else [], together=together)
        threads = self._settings.threads
        return ModelSpec(
            name=training.model,
            source=f"training:{training.training_id}",
            path=folder,
            format=BACKEND,
            size_bytes=0,
            backend=training.backend,
            backend_reason="it trains",
            loader=LOADER,
            devices=tuple(map(DeviceId, training.devices)),
            placement=PlacementRules(selector={HOST_LABEL: LOCAL}),
            pinned=True,
            values={"threads": threads} if threads else {},
            file_version=training.training_id,  # what a look has found of its need holds for all its workers
            access=replace(asked, writes=(*asked.writes, folder)),
        )

    def _follower(self, training: Training, place: int, file_version: str) -> ModelSpec:
        """Likewise, one of those that help: its files are those of the model that the training begins with.

        Raises:
            BackendUnavailableError: What trains it is not there now.
        """
        threads = self._settings.threads
        values: dict[str, str | int] = {ORDER_SETTING: write_order(self._order(training)).decode()}
        return ModelSpec(
            name=training.model_of(place),
            source=f"training:{training.training_id}",
            path=training.base,
            format=BACKEND,
            size_bytes=0,
            backend=training.backend,
            backend_reason="it trains",
            loader=FOLLOWER,
            devices=tuple(map(DeviceId, training.devices)),
            pinned=bool(training.spec.device),
            values=values | ({"threads": threads} if threads else {}),
            file_version=file_version,
            access=self._access(training, together=True),
        )

    def _access(self, training: Training, *, reads: Sequence[str] = (), together: bool) -> Access:
        """What its workers reach; those of several speak to each other.

        Raises:
            BackendUnavailableError: What trains it is not there now.
        """
        report = next((each for each in self._plugins.reports if each.name == training.backend), None)
        if report is None or report.spec is None or report.state is not BackendState.READY:
            why = "it is not installed" if report is None else f"it is {report.state.name}: {report.why}"
            raise BackendUnavailableError(f"backend {training.backend!r} trains it, and {why}", metadata={"cause": why})
        asked = report.spec.access
        return replace(asked, reads=(*asked.reads, *reads), network=asked.network or together, listens=together)

    def _order(self, training: Training) -> Order:
        return Order(
            loader=training.loader,
            base=training.base,
            recipe=training.spec.recipe,
            cores=self._settings.threads,
            nice=self._settings.nice,
            is_held=bool(training.held_digest),
        )

    async def _lead(self, training: Training, instance: Instance, lease_id: LeaseId, tell: Tell) -> None:
        """Have the steps done; who helps is taken to need what this instance does, until it can be measured."""
        if training.spec.recipe.ranks == 1:
            await drive(self._tasks, training_task(training, lease_id, self._settings), tell)
            return
        _, version = await asyncio.to_thread(stat_files, Path(training.base))
        gang = TrainingGang(
            training,
            tasks=self._tasks,
            settings=self._settings,
            load=lambda place, sit: TrainingRoom(
                self._driver, training, NO_LEASE, self._settings, guess=instance.need
            ).run(
                self._follower(training, place, version),
                training.tenant,
                tell=lambda plan: plan.reason,
                measure=lambda _: sit(),
            ),
        )
        await gang.lead(lease_id, tell)
