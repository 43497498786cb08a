"""What may be done with trainings, and the running of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from inferd.core.lifecycle import advance
from inferd.core.training import TRAINING_TABLE, Training, TrainingChange, TrainingMethod, TrainingState
from inferd.errors import InvalidFieldError, LimitExceededError, RequestConflictError
from inferd.runtime.front.evaluations import new_id
from inferd.runtime.front.training_backend import choose_backend, devices_of
from inferd.runtime.front.training_course import Course, Known, move
from inferd.runtime.front.training_leavings import TrainingLeavings
from inferd.runtime.front.training_outcome import TrainingOutcome
from inferd.runtime.front.training_run import TrainingRun
from inferd.runtime.kept_trainings import HeldTrainings, StoredTrainings
from inferd.runtime.signal import Signal
from inferd.training_errors import TrainingNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Sequence

    from inferd.core.ids import Tenant
    from inferd.core.model import ModelSpec
    from inferd.core.training import Point, TrainingSpec
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.models import Models
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.kept_trainings import TrainingParts
    from inferd.runtime.plugins import Plugins
    from inferd.runtime.training_files import TrainingFiles
    from inferd.training_settings import Train

NEEDS_BASE: Final = frozenset(set(TrainingMethod) - {TrainingMethod.CLASSIFY})


class Trainings:
    """Has models trained. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        tasks: By which steps are done.
        plugins: Who may train.
        models: That trainings begin with, and become.
        files: Of trainings.
        settings: Bounds.
        share: A tenant may have so many times what is free of `train.kept` (`scheduler.tenant_share`).
    """

    def __init__(  # noqa: PLR0917 - what a training has to do with
        self,
        driver: Driver,
        tasks: Tasks,
        plugins: Plugins,
        models: Models,
        files: TrainingFiles,
        settings: Train,
        *,
        share: float,
    ) -> None:
        self._driver = driver
        self._streams = tasks.streams
        self._plugins = plugins
        self._models = models
        self._files = files
        self._settings = settings
        self._share = share
        keeper = driver.keeper
        self._parts: TrainingParts = HeldTrainings() if keeper is None else StoredTrainings(keeper)
        self._run = TrainingRun(driver, tasks, plugins, files, settings)
        self._outcome = TrainingOutcome(driver, models, files)
        self._leavings = TrainingLeavings(driver, self._outcome, files)
        self._known: dict[str, Known] = {}  # by id, which rise
        self._making: Counter[str] = Counter()  # by tenant: those whose data is written
        self._making_one = asyncio.Lock()
        self._queue = Signal()
        self._beside: set[asyncio.Task[Any]] = set()
        if keeper is not None:
            keeper.forgets.append(self._forget)

    async def adopt(self) -> None:
        """Those that were kept are here again; those that have not ended go on.

        Raises:
            StoreUnavailableError: They cannot be read.
        """
        found = await self._parts.trainings()
        for each in sorted(found, key=lambda training: training.training_id):
            waits = each
            if each.state is TrainingState.RUNNING:
                state = advance(TRAINING_TABLE, each.state, TrainingChange.WAIT)
                waits = replace(each, state=state, tokens_per_s=0.0, waits_for="the kernel has begun anew")
            self._known[each.training_id] = Known(waits)
        going = {name: known.training.tenant for name, known in self._known.items() if not known.training.ended}
        await self._files.sweep(going)

    # What clients ask.

    async def create(
        self,
        spec: TrainingSpec,
        rows: AsyncIterable[bytes],
        held: AsyncIterable[bytes] | None,
        caller: Caller,
        *,
        request_id: str = "",
        data_id: str = "",
        fields: tuple[str, str] = ("inline", "held_inline"),
    ) -> Training:
        """A new training, which is kept when this returns; or the one that the same `request_id` made.

        Args:
            spec: What is trained.
            rows: Its data, in pieces.
            held: What is held back; None for a share of the data.
            caller: Who asks.
            request_id: Makes this idempotent; "" for not.
            data_id: Equal for two calls with the same data.
            fields: What the data, and what is held back, are called in the call.

        Raises:
            InvalidFieldError: The spec or the data is wrong.
            RequestConflictError: The same `request_id` came with other contents.
            LimitExceededError: There are too many, or the data is too large.
            InferdError: Nothing here trains so, or the data cannot be read or kept now.
        """
        fingerprint = sha256(f"{spec!r} {data_id}".encode()).hexdigest()
        if (made := self._find_made(caller.tenant, request_id, fingerprint)) is not None:
            return made
        base = await self._base(spec)
        if spec.recipe.method is not TrainingMethod.LORA:
            self._outcome.check_name(spec.name, replace=spec.replace)
        report = choose_backend(self._plugins.reports, spec, base)
        self._check_room(caller.tenant)
        training_id = new_id()
        self._making[caller.tenant] += 1
        making: asyncio.Task[Training] | None = None
        try:
            tenant = caller.tenant
            data = await self._files.write(training_id, rows, tenant=tenant, is_held=False, field=fields[0])
            kept = None
            if held is not None:
                kept = await self._files.write(training_id, held, tenant=tenant, is_held=True, field=fields[1])
            training = Training(
                training_id=training_id,
                tenant=caller.tenant,
                spec=spec,
                backend=report.name,
                loader="" if report.spec is None else report.spec.loader,
                devices=devices_of(report, spec),
                base="" if base is None else base.path,
                lease_id=caller.lease_id,
                digest=data.digest,
                rows=data.rows,
                held_digest="" if kept is None else kept.digest,
                held_rows=0 if kept is None else kept.rows,
                created=time.time(),
                waits_for="it was made just now",
                request_id=request_id,
                fingerprint=fingerprint,
            )
            making = asyncio.create_task(self._make(training), name="a training that is made")
            self._beside.add(making)
            making.add_done_callback(self._beside.discard)
            return await asyncio.shield(making)  # one that is kept is known, whoever has gone
        finally:
            if making is None:
                await self._unmade(training_id, caller.tenant)

    async def _make(self, training: Training) -> Training:
        """Keep a new one and have it run; or find the one that the same call has made meanwhile."""
        try:
            async with self._making_one:
                made = self._find_made(training.tenant, training.request_id, training.fingerprint)
                if made is None:
                    await self._parts.put(training)
                    self._known[training.training_id] = Known(training)
                    self._queue.notify()
        finally:
            await self._unmade(training.training_id, training.tenant)
        return made or training

    async def _unmade(self, training_id: str, tenant: Tenant) -> None:
        """It is made no longer: one that is not known leaves no files."""
        self._making[tenant] -= 1
        if training_id not in self._known:
            await self._files.close(training_id, keeps_result=False)

    def _find_made(self, tenant: Tenant, request_id: str, fingerprint: str) -> Training | None:
        for known in reversed(self._known.values()) if request_id else ():
            made = known.training
            if made.tenant == tenant and made.request_id == request_id:
                if made.fingerprint != fingerprint:
                    raise RequestConflictError(
                        f"request_id {request_id!r} has made training {made.training_id} with other contents; take a"
                        " new one",
                        field="request_id",
                    )
                return made
        return None

    async def _base(self, spec: TrainingSpec) -> ModelSpec | None:
        """The model that it begins with."""
        if not spec.model:
            if spec.recipe.method in NEEDS_BASE:
                raise InvalidFieldError(
                    f"spec.model is empty, and {spec.recipe.method.name} begins with a model: name it",
                    field="spec.model",
                )
            return None
        return (await self._models.get(spec.model)).spec

    def _check_room(self, tenant: Tenant) -> None:
        have = sum(known.training.tenant == tenant for known in self._known.values()) + self._making[tenant]
        free = self._settings.kept - len(self._known) - self._making.total()
        if free < 1 or have + 1 > self._share * free:
            raise LimitExceededError(
                f"{len(self._known)} trainings are known, {have} of tenant {tenant!r}, and train.kept is"
                f" {self._settings.kept}, of which a tenant may have {self._share:g} times what is free for it; delete"
                " some",
                metadata={"bound": "train.kept", "value": str(have), "limit": str(self._settings.kept)},
            )

    def get(self, training_id: str, caller: Caller) -> Training:
        """The training of this id.

        Raises:
            TrainingNotFoundError: The tenant has none; so for all that follow.
        """
        return self._get(training_id, caller).training

    def _get(self, training_id: str, caller: Caller) -> Known:
        known = self._known.get(training_id)
        if known is None or known.training.tenant != caller.tenant:
            raise TrainingNotFoundError(
                f"no training {training_id[:80]!r}; `inferd trainings list` lists the known ones",
                metadata={"training_id": training_id[:80]},
                field="training_id",
            )
        return known

    def all(self, caller: Caller) -> list[Training]:
        """Those of the tenant, newest first."""
        known = (known.training for known in reversed(self._known.values()))
        return [training for training in known if training.tenant == caller.tenant]

    async def watch(self, training_id: str, caller: Caller) -> AsyncGenerator[Training, None]:
        """A training as it stands, then as it changes, until it has ended; what nobody reads is merged.

        Raises:
            TrainingNotFoundError: There is none, or none any more.
            LimitExceededError: The tenant has as many streams as it may have.
            ShuttingDownError: The kernel is shutting down.
        """
        known = self._get(training_id, caller)
        with self._streams.place(caller.tenant):
            async with self._driver.closing.cut_short():
                while True:
                    version = known.changed.version
                    yield known.training
                    if known.training.ended:
                        return
                    await known.changed.wait(version)
                    if not known.training.ended:
                        self._get(training_id, caller)  # its tenant may have been shredded

    async def points(self, training_id: str, caller: Caller) -> Sequence[Point]:
        """The curve of a training, by step.

        Raises:
            StoreUnavailableError: It cannot be read now.
        """
        return await self._parts.points(self._get(training_id, caller).training)

    async def cancel(self, training_id: str, caller: Caller) -> Training:
        """End a training; one that has ended stays as it is, and so does one whose result is being made known.

        Raises:
            StoreUnavailableError: It cannot be kept now: the training goes on.
        """
        known = self._get(training_id, caller)
        if not known.training.ended:
            await move(known, self._parts, TrainingChange.CANCEL, finished=time.time(), tokens_per_s=0.0)
            if known.training.state is not TrainingState.CANCELLED:
                if known.running is not None:
                    await asyncio.wait({known.running})
                return known.training
            if known.running is not None:
                known.running.cancel()
            await asyncio.shield(self._begin_removing(known))  # to its end, though the caller goes
        return known.training

    async def delete(self, training_id: str, caller: Caller) -> None:
        """Forget a training that has ended.

        Raises:
            InvalidFieldError: It goes on.
            StoreUnavailableError: It cannot be forgotten now.
        """
        known = self._get(training_id, caller)
        if not known.training.ended:
            raise InvalidFieldError(
                f"training {training_id} is {known.training.state.name}; cancel it first", field="training_id"
            )
        await self._parts.drop(known.training)
        self._known.pop(training_id, None)
        await self._leavings.close(training_id)

    # The running of them.

    async def run(self) -> None:
        """Run those that wait, so many at once, until this is cancelled; they go on with the kernel that follows."""
        running: set[asyncio.Task[None]] = set()
        try:
            await self._leavings.adopt(self._known)
            while True:
                version = self._queue.version
                while len(running) < self._settings.at_once and (known := self._next()) is not None:
                    known.running = asyncio.create_task(self._course(known).go(), name="training")
                    running.add(known.running)
                    known.running.add_done_callback(running.discard)
                    known.running.add_done_callback(lambda _: self._queue.notify())
                await self._queue.wait(version)
        finally:
            self._leavings.end()
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _course(self, known: Known) -> Course:
        return Course(
            known,
            run=self._run,
            outcome=self._outcome,
            parts=self._parts,
            files=self._files,
            settings=self._settings,
        )

    def _next(self) -> Known | None:
        """The one of the highest class, of the tenant that has the fewest going on, that has waited longest."""
        going = Counter(
            known.training.tenant
            for known in self._known.values()
            if known.running is not None and not known.running.done()
        )
        most = max(1, self._settings.at_once // 2)
        waiting = [
            known
            for known in self._known.values()
            if not known.training.ended and known.running is None and going[known.training.tenant] < most
        ]
        return min(
            waiting, key=lambda known: (-known.training.spec.priority, going[known.training.tenant]), default=None
        )

    def _forget(self, tenant: Tenant) -> None:
        for known in [each for each in self._known.values() if each.training.tenant == tenant]:
            self._known.pop(known.training.training_id)
            self._parts.forget(known.training)
            if known.running is not None:
                known.running.cancel()
            known.changed.notify()
            self._begin_removing(known)

    def _begin_removing(self, known: Known) -> asyncio.Task[None]:
        removing = asyncio.create_task(self._remove(known), name="files of a training")
        self._beside.add(removing)
        removing.add_done_callback(self._beside.discard)
        return removing

    async def _remove(self, known: Known) -> None:
        """Remove the files of a training once nothing works with them; those of a model that is known stay."""
        if known.running is not None:
            await asyncio.wait({known.running})
        await self._run.gone(known.training)
        await self._leavings.close(known.training.training_id)
