"""A kernel takes up what the one before it has kept.

What of it cannot be read is left out, told in the log, and stays in the store: the rest is served.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferd.core.events import RestoreLeases, RestoreTasks, RestoreUses
from inferd.core.ids import ModelName
from inferd.core.lease import ModelClaim
from inferd.core.past_events import RestorePast
from inferd.core.traits import NO_TRAITS, Traits, whole
from inferd.core.version import VersionState
from inferd.errors import InferdError, LimitExceededError
from inferd.model_names import version_of
from inferd.runtime.collector import collector_paused
from inferd.runtime.ended import read_tasks
from inferd.runtime.found import leave_out
from inferd.runtime.kept_leases import FENCING, read_token
from inferd.runtime.kept_records import UNREADABLE
from inferd.runtime.kept_shares import read_share, read_use
from inferd.runtime.lacking import tell_lacking, unknown_model
from inferd.runtime.lease_records import read_lease
from inferd.runtime.model_records import KeptModel, read_model
from inferd.runtime.placement import blobs_version, stat_files
from inferd.runtime.shared_work import SharedWork, with_blobs
from inferd.store.store import NO_TENANT, Kind
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from inferd.core.model import ModelSpec
    from inferd.core.restored import RestoredLease, RestoredShare, RestoredUse, RestoredVersion
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.clock import Clock
    from inferd.runtime.driver import Driver
    from inferd.runtime.ended import Ended
    from inferd.runtime.found import Found
    from inferd.runtime.lacking import Lacking
    from inferd.store.store import Put, Store

log = structlog.get_logger()
UNREAD = "what was kept of it cannot be read; create it anew, or delete it"


@dataclass(frozen=True, slots=True)
class Before:
    """What the kernel before this one has kept.

    Attributes:
        tasks: Those that go on.
        ended: Those that do not; of some of them is `anew` what is known of them.
    """

    kept: Sequence[KeptModel] = ()
    tasks: Sequence[Found] = ()
    leases: Sequence[RestoredLease] = ()
    token: int = 0  # the highest fencing token that may have been given
    shares: Sequence[RestoredShare] = ()
    lacks: Mapping[ModelName, str] = field(default_factory=dict)  # why models cannot be loaded now
    uses: Sequence[RestoredUse] = ()
    pulled: Sequence[ModelSpec] = ()  # those that were pulled, and are known by their names only
    numbered: Sequence[ModelSpec] = ()  # versions that something kept waits for, as models of their own ("chat@3")
    ended: Sequence[Ended] = ()
    anew: Sequence[Put] = ()

    @property
    def models(self) -> list[ModelSpec]:
        """What serves of the models."""
        return [each.spec for each in self.kept]


async def read_kept(driver: Driver, lacking: Lacking | None = None) -> Before:
    """What was kept; nothing where the kernel has no store. `lacking` says what models lack now.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    floor = _token_floor(driver.clock)
    if driver.keeper is None:
        return Before(token=floor)
    tasks, ended, anew = await driver.keeper.read(lambda store: _tasks(store, driver.clock))
    before = Before(
        await _of_blobs(driver.keeper.blobs, await driver.keeper.read(lambda store: _models(store, driver.clock))),
        await _with_blobs(driver.keeper.blobs, tasks),
        await driver.keeper.read(lambda store: _leases(store, driver.clock)),
        max(floor, await driver.keeper.read(_token)),
        await driver.keeper.read(_shares),
        uses=await driver.keeper.read(lambda store: _uses(store, driver.clock)),
        ended=ended,
        anew=anew,
    )
    before = replace(before, numbered=await _numbered(driver.keeper.blobs, before))
    return before if lacking is None else await _with_lacks(before, lacking)


async def kept_names(driver: Driver) -> Collection[str]:
    """The names and aliases of models that were kept and can be read: the library has no say in what these are.

    Raises:
        StoreUnavailableError: They cannot be read.
    """
    return () if driver.keeper is None else await driver.keeper.read(lambda store: _names(store, driver.clock))


def _names(store: Store, clock: Clock) -> set[str]:
    names: set[str] = set()
    for record in store.records(Kind.MODEL, lambda *_: None):  # `_models` warns of those that are damaged
        with suppress(*UNREADABLE):
            kept = read_model(record.value, clock)
            names.update((kept.spec.name, *kept.traits.aliases))
    return names


async def _with_lacks(before: Before, lacking: Lacking) -> Before:
    """With what models lack now, and with those that were pulled and that something kept waits for."""
    known = [*before.models, *before.numbered]
    lacks = await lacking.of(spec for spec in known if spec.devices)
    pulled = await lacking.pulled(_wanted(before) - {spec.name for spec in known})
    lacks |= {name: why for name, (_, why) in pulled.items()}
    return replace(before, lacks=lacks, pulled=[spec for spec, _ in pulled.values()])


def _wanted(before: Before) -> set[ModelName]:
    """The models that something waits for."""
    wanted = {each.task.spec.model for each in before.tasks}
    for lease in before.leases:
        wanted.update(claim.model for claim in lease.spec.claims if isinstance(claim, ModelClaim))
    return wanted


async def _numbered(blobs: Blobs | None, before: Before) -> list[ModelSpec]:
    """The versions that something waits for by their number, whose files are still those that they were made of."""
    kept, found = {each.spec.name: each for each in before.kept}, []
    for name in sorted(_wanted(before) - kept.keys()):
        if (meant := version_of(name)) is None or (base := kept.get(ModelName(meant[0]))) is None:
            continue
        specs = {each.number: each.spec for each in base.versions} or {1: base.spec}
        if (spec := specs.get(meant[1])) is None:
            continue
        spec = replace(spec, name=name, min_instances=0)
        if spec.tenant:
            placed = None if blobs is None else await _placed(blobs, spec)
        else:
            placed = spec if await asyncio.to_thread(_is_as_it_was, spec) else None
        if placed is None:
            log.warning("the files of a version that something kept waits for have changed: it ends", model=name)
        else:
            found.append(placed)
    return found


def _is_as_it_was(spec: ModelSpec) -> bool:
    try:
        return stat_files(Path(spec.path))[1] == spec.file_version
    except (OSError, InferdError):
        return False


def restore(driver: Driver, before: Before) -> None:
    """Make known what was kept, before any client is served: models, then leases, then tasks, which go on."""
    with collector_paused():
        _restore(driver, before)
    if driver.keeper is not None and (before.tasks or before.ended or before.leases or before.models):
        living = [each.task for each in before.tasks]
        log.info(
            "what the kernel before this one kept is taken up",
            store=driver.keeper.state.name,
            tasks=len(before.tasks) + len(before.ended),
            had_run=sum(task.attempt > 0 for task in living),
            had_waited=sum(task.attempt == 0 for task in living),
            leases=len(before.leases),
            models=len(before.models),
        )


def _restore(driver: Driver, before: Before) -> None:
    _restore_models(driver, before)
    driver.restore(RestoreLeases(tuple(before.leases), before.token))
    _tell_of_excess(driver)
    driver.restore(RestorePast(tuple(each.entry for each in before.ended)))
    for each in before.tasks:
        stream = driver.streams.open(each.task.spec.task_id)
        stream.go_on(each.told)
        stream.detached = True
    if driver.keeper is not None:
        driver.keeper.tasks.expect_past(before.ended, before.anew)
        for share in before.shares:
            driver.keeper.shares.adopt(share)
        for use in before.uses:
            driver.keeper.shares.adopt(use)
        driver.keeper.tasks.expect({each.task.spec.task_id: each.left for each in before.tasks})
    driver.restore(RestoreUses(tuple(before.uses)))
    if before.tasks or before.shares:
        _go_on(driver, before)
    for kept in before.kept:  # behind the tasks and leases that they are to bring to their end
        if kept.going and driver.views.find_model(kept.spec.name) is not None:
            driver.delete_model(kept.spec.name, drain=True)


def _restore_models(driver: Driver, before: Before) -> None:
    """Make models known, those that lack something now, too."""
    tell_lacking(before.lacks)
    for spec in before.pulled:
        _create(driver, spec, before.lacks[spec.name])
    wanted = _wanted(before)
    for kept in before.kept:
        spec = kept.spec
        if not spec.devices and spec.name not in wanted:
            continue  # it could not be read
        try:
            _create(driver, spec, before.lacks.get(spec.name, "") if spec.devices else UNREAD, kept.versions)
            if kept.traits != NO_TRAITS:
                _give_traits(driver, spec.name, kept.traits)
        except InferdError as error:
            log.warning("a model that was kept is left out", model=spec.name, why=error.message)
        if driver.keeper is not None:
            driver.keeper.models.adopt(spec.name)
    for spec in before.numbered:
        try:
            _create(driver, spec, before.lacks.get(spec.name, ""))
        except InferdError as error:
            log.warning("a version that something kept waits for is left out", model=spec.name, why=error.message)


def _give_traits(driver: Driver, name: ModelName, traits: Traits) -> None:
    """Give a model what it had; an alias that names another one by now is left out alone."""
    views, left = driver.views, []
    for alias in traits.aliases:
        owner = views.aliases.get(alias) if views.find_model(ModelName(alias)) is None else alias
        if owner is None:
            left.append(alias)
        else:
            log.warning("an alias that was kept is left out: another model has it", alias=alias, model=name, now=owner)
    driver.loading.set_traits(name, whole(replace(traits, aliases=tuple(left))))


def _create(driver: Driver, spec: ModelSpec, lacks: str, versions: tuple[RestoredVersion, ...] = ()) -> None:
    if lacks:
        driver.create_model(spec, kept=True, lacks=lacks, versions=versions)
        return
    try:
        driver.create_model(spec, versions=versions)
    except LimitExceededError as error:
        driver.create_model(spec, kept=True, versions=versions)
        log.warning("a model that was kept is taken up beyond a bound", model=spec.name, why=error.message)


def _go_on(driver: Driver, before: Before) -> None:
    driver.restore(RestoreTasks(tuple(each.task for each in before.tasks), tuple(before.shares)))
    for bound, value, limit in driver.views.exceeded():
        log.warning("tasks that were kept are taken up beyond a bound", bound=bound, value=value, limit=limit)


def _models(store: Store, clock: Clock) -> list[KeptModel]:
    models = []

    def damaged(tenant: str, key: str, error: Exception) -> None:
        leave_out("model", tenant, key, error)
        models.append(KeptModel(unknown_model(key)))  # its tasks wait until it is created anew, or deleted

    for record in store.records(Kind.MODEL, damaged):
        try:
            models.append(read_model(record.value, clock))
        except UNREADABLE as error:
            damaged("", record.key, error)
    return models


def _leases(store: Store, clock: Clock) -> list[RestoredLease]:
    leases = []
    for record in store.records(Kind.LEASE, partial(leave_out, "lease")):
        try:
            leases.append(read_lease(record.value, clock))
        except UNREADABLE as error:
            leave_out("lease", record.tenant, record.key, error)
    return leases


def _token_floor(clock: Clock) -> int:
    """What no kernel has given a fencing token above, microseconds of Unix time, as fewer are given than pass.

    So tokens rise also where the highest one is not known: behind a damaged or a new store, an older copy, or none.
    """
    return max(0, int(clock.wall(clock.now()) * 1_000_000))


def _token(store: Store) -> int:
    """The highest that was given, as it is kept; it holds where the wall clock was set back."""
    counts = {record.key: record.value for record in store.records(Kind.COUNT, partial(leave_out, "count"))}
    try:
        return read_token(counts)
    except UNREADABLE as error:
        leave_out("count", NO_TENANT, FENCING, error)
        return 0


def _shares(store: Store) -> list[RestoredShare]:
    shares = []
    for record in store.records(Kind.SHARE, partial(leave_out, "share")):
        try:
            shares.append(read_share(record))
        except UNREADABLE as error:
            leave_out("share", record.tenant, record.key, error)
    return shares


def _uses(store: Store, clock: Clock) -> list[RestoredUse]:
    uses = []
    for record in store.records(Kind.USE, partial(leave_out, "use of a quota")):
        try:
            uses.append(read_use(record, clock))
        except UNREADABLE as error:
            leave_out("use of a quota", record.tenant, record.key, error)
    return uses


def _tell_of_excess(driver: Driver) -> None:
    """Leases hold what they were granted, though a device may have less to give than that by now."""
    for device in driver.views.devices.values():
        if device.lease_bytes > device.capacity_bytes or device.leased_cores > device.cores:
            log.warning(
                "leases that were kept hold more than the device has to give now; nothing more is given of it",
                device=device.device_id,
                lease_bytes=device.lease_bytes,
                capacity_bytes=device.capacity_bytes,
                leased_cores=device.leased_cores,
                cores=device.cores,
            )


def _tasks(store: Store, clock: Clock) -> tuple[list[Found], list[Ended], list[Put]]:
    with collector_paused():
        return read_tasks(store, clock)


async def _of_blobs(blobs: Blobs | None, models: Sequence[KeptModel]) -> list[KeptModel]:
    """The models, those of blobs with their folders; a version that serves no more is left out without its own."""
    if blobs is None:
        return list(models)
    found = []
    for kept in models:
        if (spec := await _placed(blobs, kept.spec)) is not None:
            versions = []
            for each in kept.versions:
                if each.state is VersionState.SERVING:  # it is of the model's own files
                    versions.append(replace(each, spec=_at(each.spec, spec.path)))
                elif (placed := await _placed(blobs, each.spec)) is not None:
                    versions.append(replace(each, spec=placed))
            found.append(replace(kept, spec=spec, versions=tuple(versions)))
    return found


async def _placed(blobs: Blobs, spec: ModelSpec) -> ModelSpec | None:
    """A model of blobs with the folder that this kernel has for it; None for none. Others are as they are."""
    if not spec.tenant:
        return spec
    try:
        placed = await blobs.models.place(spec.tenant, spec.source, spec.name, checks=False)
    except InferdError as error:
        leave_out("model", spec.tenant, spec.name, error)
        return None
    blobs.models.keep(placed)
    return _at(spec, str(placed.path))


def _at(spec: ModelSpec, path: str) -> ModelSpec:
    return replace(spec, path=path, file_version=blobs_version(spec.source)) if spec.tenant else spec


async def _with_blobs(blobs: Blobs | None, tasks: Sequence[Found]) -> list[Found]:
    """The tasks, with what is in blobs of their inputs."""
    found = []
    for each in tasks:
        spec, task = each.task.spec, each
        if isinstance(spec.work, SharedWork | task_pb2.Work) and blobs is not None:
            try:
                work = await with_blobs(spec.work, partial(blobs.memories.read, spec.tenant))
            except InferdError as error:
                leave_out("task", spec.tenant, spec.task_id, error)
                continue
            if work is not spec.work:
                task = replace(each, task=replace(each.task, spec=replace(spec, work=work)))
        found.append(task)
    return found
