"""What may be asked of the host."""

import asyncio
import os
import platform
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from inferd import __version__
from inferd.core.accounts import Account
from inferd.core.ids import DeviceId, Tenant
from inferd.core.model import Instance, Model
from inferd.core.priority import Priority
from inferd.errors import StoreUnavailableError
from inferd.plugin.backend import DeviceInfo
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.backups import Progress, back_up
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import Bound, SharedBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.standing import Standings
from inferd.runtime.own_memory import OwnMemory
from inferd.runtime.plugins import Plugins
from inferd.runtime.shredding import Shredding
from inferd.runtime.store_keys import StoreKeys
from inferd.store.kernels import KernelEntry

LEAST_GAP_S = 0.1
BACKUP_GAP_S = 0.5  # between two messages of a backup

DeviceRow = tuple[DeviceInfo, Account | None, str]
LoadRow = tuple[Tenant, Priority, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """The host at one instant.

    Attributes:
        name: Of the machine.
        version: Of inferd.
        system: Its operating system and the release of that.
        pid: The kernel's process id.
        started: When the kernel was started, on its clock.
        memory_bytes: The kernel's resident memory.
        devices: By id: what backends tell, who holds what, and why a device cannot be measured now.
        loads: Tasks that wait and that run, by tenant and class, of tenants that whoever asks has.
        queued: Tasks that wait.
        running: Tasks that run.
        tokens_per_s: Output of all tasks over the last seconds.
        leases: Those that are held or wait.
        warnings: What whoever runs the kernel has to look at.
        epoch: That the kernel leads.
        standbys: The kernels that stand by.
    """

    name: str
    version: str
    system: str
    pid: int
    started: float
    memory_bytes: int
    devices: Sequence[DeviceRow]
    loads: Sequence[LoadRow]
    queued: int
    running: int
    tokens_per_s: float
    leases: int
    warnings: Sequence[str]
    epoch: int = 0
    standbys: Sequence[KernelEntry] = ()


class Hosts:
    """Tells of the host.

    Args:
        driver: Of the kernel.
        plugins: Of this host.
        unmeasured: Why devices cannot be measured at the moment.
        memory: Of this process.
        warnings: What whoever runs the kernel has to look at now.
        watchers: Bounds the streams that watch the host.
        backups: Bounds the backups that are under way.
        backup_step_s: How long one holds up the store at a time.
        reseal_rows: How many values are sealed anew at a time.

    Attributes:
        clock: The kernel's.
        keys: That seal what it keeps.
        standings: All hosts as they stand, and what operators want of them.
        shredding: Has all of a tenant gone.
    """

    def __init__(
        self,
        driver: Driver,
        plugins: Plugins,
        *,
        unmeasured: Mapping[DeviceId, str],
        memory: OwnMemory,
        warnings: Callable[[], Sequence[str]],
        watchers: SharedBound,
        backups: Bound,
        backup_step_s: float,
        reseal_rows: int,
    ) -> None:
        self.standings = Standings(driver, watchers)
        self.keys = StoreKeys(driver.keeper, reseal_rows)
        self.shredding = Shredding(driver)
        self.clock = driver.clock
        self._driver = driver
        self._plugins = plugins
        self._unmeasured = unmeasured
        self._memory = memory
        self._warnings = warnings
        self._watchers = watchers
        self._backups = backups
        self._backup_step_s = backup_step_s
        self._started = driver.clock.now()
        self._name = platform.node()
        self._system = f"{platform.system()} {platform.release()}"

    def read(self, *, has: Callable[[str], bool]) -> HostReport:
        """The host as it stands now, with the loads of the tenants that the caller `has` for that."""
        views = self._driver.views
        census, accounts = views.census, views.devices
        leadership = None if self._driver.keeper is None else self._driver.keeper.leadership
        devices = {d.device_id: d for r in self._plugins.reports if r.state is BackendState.READY for d in r.devices}
        return HostReport(
            name=self._name,
            version=__version__,
            system=self._system,
            pid=os.getpid(),
            started=self._started,
            memory_bytes=self._memory.read_bytes(),
            devices=[
                (devices[name], accounts.get(DeviceId(name)), self._unmeasured.get(DeviceId(name), ""))
                for name in sorted(devices)
            ],
            loads=[(*who, *counts) for who, counts in sorted(census.loads.items()) if has(who[0])],
            queued=census.all.living - census.all.running,
            running=census.all.running,
            tokens_per_s=self._driver.tokens_per_s(),
            leases=views.living_leases,
            warnings=self._warnings(),
            epoch=self._driver.clock.epoch,
            standbys=() if leadership is None else leadership.others,
        )

    async def watch(
        self, caller: Caller, interval_s: float, *, has: Callable[[str], bool]
    ) -> AsyncGenerator[tuple[HostReport, list[tuple[Model, Instance]]], None]:
        """The host with its instances: now, when one of them or a host changes, and after each interval.

        Never ends by itself. Changes that come within `LEAST_GAP_S` of a report are told with the next one. Memory and
        speeds change without a word: they are told with the rest.

        Args:
            caller: Of whose tenant's share it is.
            interval_s: Longest time between two reports, no less than `LEAST_GAP_S`.
            has: Tells of which tenants loads are told, as for `read`.

        Raises:
            LimitExceededError: As many watch as may, or the tenant has its share.
            ShuttingDownError: The kernel is shutting down.
        """
        changes = self._driver.watchers.hosts
        with self._watchers.place(caller.tenant):
            while True:
                seen = changes.version
                yield self.read(has=has), list(self._driver.views.instances())
                async with self._driver.closing.cut_short():
                    await asyncio.sleep(LEAST_GAP_S)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(interval_s - LEAST_GAP_S):
                            await changes.wait(seen)

    async def backends(self) -> Sequence[BackendReport]:
        """The plugins that are installed now."""
        await self._plugins.refresh()
        return self._plugins.reports

    async def back_up(self, path: str, *, replaces: bool) -> AsyncGenerator[Progress, None]:
        """Copy all that is kept into a file; tells now and then how far that is, and last what was made.

        Args:
            path: Of the file, absolute.
            replaces: Whether an older backup there is to give way.

        Raises:
            InvalidFieldError: The file may not be there.
            LimitExceededError: As many backups are under way as may be.
            StoreUnavailableError: Nothing is kept, or the store cannot be read, or the file not be written.
            ShuttingDownError: The kernel is shutting down.
        """
        keeper = self._driver.keeper
        if keeper is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, store.url is memory:; there is nothing to back up",
                metadata={"cause": "no store"},
            )
        with self._backups.place():
            told = self.clock.now()
            async with (
                self._driver.closing.cut_short(),
                aclosing(back_up(keeper, path, replaces=replaces, step_s=self._backup_step_s)) as steps,
            ):
                async for progress in steps:
                    if progress.made is not None or self.clock.now() - told >= BACKUP_GAP_S:
                        told = self.clock.now()
                        yield progress
