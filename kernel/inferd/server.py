"""The composition root: builds a kernel from its settings and serves it until it is told to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from inferd import descriptors
from inferd.config import Settings
from inferd.core.vigil import WorkerTimes
from inferd.doors import Doors, opened_doors
from inferd.exposing import check_metrics, exposing
from inferd.finding import found_meter, found_plugins, found_shelf, model_repository, watched_folder
from inferd.fronting import make_front
from inferd.listeners import check_listeners
from inferd.observing import observed
from inferd.plugin.registry import BackendReport
from inferd.runtime.baselines import keep_baselines, kept_baselines
from inferd.runtime.beside import running_beside
from inferd.runtime.blob_opening import blobs_of, opened_blobs
from inferd.runtime.certificates import Certificates
from inferd.runtime.core_limits import core_limits
from inferd.runtime.declaring import Declaring
from inferd.runtime.devices import DeviceMeter
from inferd.runtime.digests import Digests
from inferd.runtime.driver import Driver
from inferd.runtime.driver_limits import DriverLimits, engine_limits, prefix_limits
from inferd.runtime.failing import failing_store, make_fail
from inferd.runtime.failpoints import Failpoints
from inferd.runtime.front.authority import Authority
from inferd.runtime.front.front import Front
from inferd.runtime.keeper_times import KeeperTimes
from inferd.runtime.kept_times import set_clock
from inferd.runtime.leading import Leading, led
from inferd.runtime.own_memory import OwnMemory
from inferd.runtime.plugins import Plugins
from inferd.runtime.restoring import kept_names, read_kept, restore
from inferd.runtime.shelf import Shelf
from inferd.services.channel import channel_options
from inferd.services.doorway import Doorway
from inferd.services.server import offer_services
from inferd.standing import Standing, Watch
from inferd.store.opening import opened
from inferd.store.store import Store

STOP_GRACE_S = 1.0
CALLS_END_S = 5.0  # most that the end of the kernel waits for what calls put away that were cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A serving kernel.

    Attributes:
        addresses: Where it listens, ports filled in.
        metrics_address: Where Prometheus reads, host:port; empty for nowhere.
        needs_login: Whether calls over TCP do.
        socket_needs_login: Whether calls over sockets in files do, too.
        has_key_makers: Whether anybody may make keys.
        driver: Its runtime.
        declaring: Has models be as they are declared.
        reports: Its backends.
    """

    addresses: tuple[str, ...]
    metrics_address: str
    needs_login: bool
    socket_needs_login: bool
    has_key_makers: bool
    driver: Driver
    declaring: Declaring
    reports: tuple[BackendReport, ...]


@asynccontextmanager
async def running_kernel(settings: Settings, watch: Watch | None = None) -> AsyncIterator[Kernel]:
    """A kernel that serves until the block ends; then its tasks are ended and its workers gone.

    Where another one has its store in PostgreSQL it stands by before, of which `watch` is told.

    Raises:
        StandbyEndedError: It was asked to end while it stood by.
        InvalidFieldError: An address is not one to listen on, its certificate is none, or nobody could log in.
        OSError: An address cannot be bound, or a folder not be made.
        StoreUnavailableError: The store cannot be opened or read, or another kernel has it.
    """
    check_listeners(settings)
    check_metrics(settings)
    descriptors.raise_limit()
    doorway = Doorway(settings.limits.calls)
    server = grpc.aio.server(
        interceptors=(doorway,), options=channel_options(settings.limits, settings.hosts.connections_limit)
    )
    server.add_generic_rpc_handlers((doorway,))
    async with opened_doors(settings, server) as doors:
        await server.start()  # what was kept may take long to be read: health is told meanwhile
        try:
            standing = Standing(settings, doors.addresses, doorway, watch or Watch())
            serving = partial(_serving, settings, doors, server, doorway, standing)
            async with standing.leading(serving) as (built, metrics_address):
                yield Kernel(
                    addresses=doors.addresses,
                    metrics_address=metrics_address,
                    needs_login=settings.auth.required,
                    socket_needs_login=not settings.auth.local_roles,
                    has_key_makers=built.authority.has_key_makers(settings.auth, doors.addresses),
                    driver=built.driver,
                    declaring=built.declaring,
                    reports=built.plugins.reports,
                )
        finally:
            doorway.close()
            await doorway.leave()
            await server.stop(STOP_GRACE_S)


@asynccontextmanager
async def _serving(
    settings: Settings, doors: Doors, server: grpc.aio.Server, doorway: Doorway, standing: Standing
) -> AsyncIterator[tuple["_Built", str]]:
    """A kernel that takes calls until the block ends, and where Prometheus reads."""
    async with (
        _built(settings, doors.certificates, standing.led, standing.ahead) as built,
        exposing(settings, built.driver.metrics.registry, built.authority, followed=standing.stood) as metrics_address,
        observed(settings, built.driver, built.front.calls),
    ):
        driver = built.driver
        built.authority.check_entry(settings.auth, doors.addresses)
        doorway.empty()  # of what a start before this one offered
        entrance = offer_services(settings, built.front, built.authority, doors.tickets, doorway)
        before = await read_kept(driver, built.shelf.lacking)
        async with driver.running():
            restore(driver, before)  # what it holds of blobs is not swept
            del before  # it is as much again
            await built.declaring.make_known()
            async with _beside(built), built.authority.running():
                doorway.open(entrance)
                try:
                    yield built, metrics_address
                finally:
                    if driver.keeper is not None:
                        await driver.keeper.drain()
                    built.front.agents.hosts.leave()
                    driver.close()  # first, so that every stream ends with the end of its task
                    await doorway.leave()
                    await server.stop(STOP_GRACE_S)
                    await built.front.access.empty(CALLS_END_S)  # gRPC does not wait for what it has cut off
        driver.streams.close()


@asynccontextmanager
async def running_front(settings: Settings) -> AsyncIterator[Front]:
    """A kernel without a transport, until the block ends: what its clients would ask is asked in values.

    Raises:
        OSError: A folder cannot be made.
    """
    async with _built(settings, Certificates(settings.tls, used=False), led) as built:
        before = await read_kept(built.driver, built.shelf.lacking)
        async with built.driver.running():
            restore(built.driver, before)
            del before
            await built.declaring.make_known()
            async with _beside(built):
                yield built.front


@dataclass(frozen=True, slots=True)
class _Built:
    """A kernel that does not run yet."""

    driver: Driver
    plugins: Plugins
    meter: DeviceMeter
    front: Front
    shelf: Shelf
    authority: Authority
    declaring: Declaring


@asynccontextmanager
async def _built(
    settings: Settings, certificates: Certificates, leading: Leading, ahead: asyncio.Task[Plugins] | None = None
) -> AsyncIterator[_Built]:
    points = Failpoints(settings.failpoints)
    async with opened(settings.store_place, points.at_store) as store:
        driver = _driver(settings, None if store is None else failing_store(store, points))
        await set_clock(driver.clock, store, settings.store.gap_s)
        if driver.keeper is not None:
            driver.metrics.tell_store(driver.keeper.state)
        make_fail(driver, points)
        driver.adapters.bounds = settings.adapters.within(settings.hosts.memory_bytes)
        blobs = opened_blobs(settings.data_dir / "blobs", driver, settings.blobs, points)
        async with leading(driver), blobs, _built_around(settings, driver, certificates, ahead) as built:
            yield built


@asynccontextmanager
async def _built_around(
    settings: Settings, driver: Driver, certificates: Certificates, ahead: asyncio.Task[Plugins] | None
) -> AsyncIterator[_Built]:
    before = await kept_baselines(driver)
    plugins = found_plugins(settings, driver, before, None if ahead is None else await ahead)
    plugins.opening = driver.supervisor.opening
    await plugins.refresh()
    shelf = found_shelf(settings, driver, plugins)
    await shelf.read(but=await kept_names(driver))
    meter = found_meter(settings, driver, plugins.reports, before)
    await keep_baselines(driver, meter, before)
    authority = await Authority.of(settings, driver, certificates)
    digests = Digests(settings.state_dir / "digests.json", driver.watchers.models.notify, driver.supervisor.opening)
    repository = model_repository(settings, driver, plugins, shelf.declarations)
    with OwnMemory() as memory:
        front = make_front(
            settings,
            driver,
            plugins=plugins,
            shelf=shelf,
            meter=meter,
            memory=memory,
            authority=authority,
            digests=digests,
            repository=repository,
        )
        await front.adopt()
        watched = watched_folder(settings.watched, driver, plugins, shelf.declarations)
        declaring = Declaring(driver, plugins, shelf, watched, repository)
        try:
            yield _Built(driver, plugins, meter, front, shelf, authority, declaring)
        finally:
            await digests.close()
            await shelf.fetches.close()


def _driver(settings: Settings, store: Store | None) -> Driver:
    limits, workers = settings.limits, settings.workers
    return Driver(
        core=core_limits(settings, has_store=store is not None),
        limits=DriverLimits(
            stream_bytes=limits.stream_bytes,
            events_bytes=limits.events_bytes,
            retained_bytes=limits.retained_bytes,
            frame_bytes=limits.frame_limit_bytes,
            output_bytes=limits.output_bytes,
            queries=limits.queries,
            query_timeout_s=workers.query_timeout_s,
            engine=engine_limits(settings),
            times=WorkerTimes(
                start_timeout_s=workers.start_timeout_s,
                load_silence_s=workers.load_silence_s,
                heartbeat_s=workers.heartbeat_s,
                heartbeat_timeout_s=workers.heartbeat_timeout_s,
                step_floor_s=workers.step_floor_s,
                step_ceiling_s=workers.step_ceiling_s,
                stop_timeout_s=workers.stop_timeout_s,
            ),
            keeper=KeeperTimes(
                output_interval_s=settings.store.output_interval_s,
                retry_s=settings.store.retry_s,
                most_output_tokens=limits.max_output_tokens,
                stored_bytes=settings.store.bytes,
                held_tasks=settings.store.held_tasks,
                tenant_share=settings.scheduler.tenant_share,
            ),
            prefixes=prefix_limits(settings, store),
            metrics_names=limits.metrics_names,
        ),
        log_dir=settings.state_dir / "workers",
        store=store,
    )


def _beside(built: _Built) -> AbstractAsyncContextManager[None]:
    """Measure what other programs hold, have models be as declared and warm, and sweep blobs, until the block ends."""
    parts = {
        "device meter": built.meter.run(),
        "declared models": built.declaring.run(),
        "keys of the store": built.front.hosts.keys.run(),
        "other hosts": built.front.agents.hosts.run(),
        "runs of pipelines": built.front.pipelines.run(),
        "evaluations": built.front.evaluations.run(),
        "trainings": built.front.trainings.run(),
        "federations": built.front.federations.run(),
    }
    if (blobs := blobs_of(built.driver.keeper)) is not None:
        parts["sweep of blobs"] = blobs.run()
        parts["sweep of datasets"] = built.front.datasets.run()
    return running_beside(parts)
