"""Hosts as they stand, and what operators want of them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inferd.core.events import DrainHost, HostFound, HostLeft, HostLost, ResumeHost
from inferd.core.host import LOCAL, LOCAL_HOST, UNSEEN, Host, HostChange, HostState, host_of, shown_host
from inferd.core.host_events import CordonHost, OrderHosts
from inferd.core.ids import HostId, InstanceId
from inferd.core.index import Page
from inferd.errors import InvalidFieldError
from inferd.runtime.kept_records import UNREADABLE
from inferd.runtime.launcher import no_log
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from inferd.core.accounts import Account
    from inferd.core.ids import ModelName
    from inferd.core.model import Instance, Model
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.bounds import SharedBound
    from inferd.runtime.front.caller import Caller
    from inferd.store.store import Store

LEAST_GAP_S = 0.1
LOG_GAP_S = 0.5  # between two looks at a log
LOG_PART_BYTES = 64 << 10
HOSTS_PER_S = 5_000  # that are looked at for one who watches all
HOSTS_AT_ONCE = 256  # before others have their turn
MOST_REASON = 200  # letters
REMOVED = "REMOVED"  # is kept of a host whose key still holds, with when that was


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A host at one instant.

    Attributes:
        host: As the core has it; of one that is gone, as it was.
        devices: What each has, and who holds it.
        models: Those that have instances there, by name.
        places: Tasks that its instances can run at once.
        tasks: Tasks that they run.
        leases: Leases that hold something of it.
        silent_s: Since when nothing was heard of its agent; None where there is none.
        order: What operators want of it, CORDON or DRAIN, also while it is away; None for nothing.
        order_reason: Why, as they said.
    """

    host: Host
    devices: Sequence[Account]
    models: Sequence[ModelName]
    places: int
    tasks: int
    leases: int
    silent_s: float | None
    order: HostChange | None = None
    order_reason: str = ""

    @property
    def drained(self) -> bool:
        """Whether it drains, and nothing is left of it."""
        return self.host.state is HostState.DRAINING and not self.host.instances and not self.leases


class Standings:
    """Reads hosts, and tells the core what operators want of them.

    Args:
        driver: Of the kernel.
        watchers: Bounds the streams that watch hosts.
    """

    def __init__(self, driver: Driver, watchers: SharedBound) -> None:
        self._driver = driver
        self._watchers = watchers
        self._changing = asyncio.Lock()
        self._reasons: dict[HostId, str] = {}  # of orders

    async def adopt(self, joined: Mapping[HostId, float | None]) -> None:
        """What operators wanted before this kernel was started, it holds hosts to; of all that are not there it knows.

        Those that were removed, and have not come back since, it does not know.

        Args:
            joined: Hosts that have a key, with when that was last used, in Unix time; None for never.

        Raises:
            StoreUnavailableError: It cannot be read, or not be written.
        """
        found, removed = dict[HostId, tuple[HostChange, str]](), dict[HostId, float]()
        if self._driver.keeper is not None:
            found, removed = await self._driver.keeper.read(_read_orders)
            back = {name for name, at in removed.items() if name not in joined or (joined[name] or at) > at}
            removed = {name: at for name, at in removed.items() if name not in back}
            if back:
                await self._driver.keeper.keep_records([Drop(NO_TENANT, Kind.HOST, name) for name in sorted(back)])
        if found:
            kept = {host_id: order for host_id, (order, _) in found.items()}
            self._reasons = {host_id: reason for host_id, (_, reason) in found.items() if reason}
            self._driver.tell_host(OrderHosts(kept))
            if (own := kept.get(LOCAL_HOST)) is not None:
                self._driver.tell_host((DrainHost if own is HostChange.DRAIN else CordonHost)(LOCAL_HOST))
        for host_id in sorted({*found, *joined} - {LOCAL_HOST, *removed}):
            with suppress(InvalidFieldError):  # of a later kernel, by whose rules it is a name
                self._driver.tell_host(HostFound(host_id))
                self._driver.tell_host(HostLost(host_id, UNSEEN))

    # Reading.

    def read(self, name: str) -> Standing:
        """The host of this name.

        Raises:
            InvalidFieldError: There is none; the nearest name is suggested.
        """
        return self._read(self._driver.views.host(host_of_name(name)))

    def page(self, *, after: str | None, size: int) -> Page[Standing]:
        """Hosts by id, the kernel's own first, behind the id `after`."""
        page = self._driver.views.hosts(after=after, size=size)
        return Page([self._read(host) for host in page.records], page.more)

    def knows(self, name: str) -> bool:
        """Whether there is such a host."""
        return host_of_name(name) in self._driver.machine.hosts.known

    def instance(self, instance_id: InstanceId) -> tuple[Model, Instance] | None:
        """An instance with its model; None where it is gone."""
        found = self._driver.views.find_instance(instance_id)
        return None if found is None else (self._driver.views.model(found.model), found)

    def _read(self, host: Host) -> Standing:
        views, launcher = self._driver.views, self._driver.supervisor.launchers.get(host.host_id)
        found = [i for each in host.instances if (i := views.find_instance(each)) is not None]
        return Standing(
            host=host,
            devices=[views.devices[each] for each in host.devices],
            models=sorted({instance.model for instance in found}),
            places=sum(instance.facts.max_tasks for instance in found if instance.facts is not None),
            tasks=sum(len(instance.running) for instance in found),
            leases=views.leases_on(host.devices) if any(views.devices[d].leased for d in host.devices) else 0,
            silent_s=None if launcher is None else launcher.silent_s(),
            order=self._driver.machine.hosts.orders.get(host.host_id),
            order_reason=self._reasons.get(host.host_id, ""),
        )

    async def watch(
        self, caller: Caller, interval_s: float, *, name: str = "", until_drained: bool = False
    ) -> AsyncGenerator[list[Standing]]:
        """A host, or with no name all: first as they stand, then those that have changed, and those that compute.

        One alone is told after each interval, too: what its instances hold, and since when it is silent, changes
        without a word.

        A host that is gone ends the watch of it; of all, that is told by a list without it, which may be empty. With
        `until_drained` it ends once nothing is left of a host.

        Raises:
            InvalidFieldError: There is no such host.
            LimitExceededError: As many watch as may, or the tenant has its share.
            ShuttingDownError: The kernel is shutting down.
        """
        changes = self._driver.watchers.hosts
        told = dict[HostId, object]()
        if name:
            self._driver.views.host(host_of_name(name))
        with self._watchers.place(caller.tenant):
            while True:
                seen = changes.version
                standings = await self._standing(name)
                marks = {each.host.host_id: _mark(each) for each in standings}
                fresh = [each for each in standings if name or told.get(each.host.host_id) != marks[each.host.host_id]]
                gone, told = bool(told.keys() - marks.keys()), marks
                if fresh or (gone and not name):
                    yield fresh
                if name and (not standings or (until_drained and standings[0].host.state is not HostState.DRAINING)):
                    return
                if until_drained and standings[0].drained:
                    return
                gap_s = max(LEAST_GAP_S, len(standings) / HOSTS_PER_S)
                async with self._driver.closing.cut_short():
                    await asyncio.sleep(gap_s)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, interval_s - gap_s)):
                            await changes.wait(seen)

    async def _standing(self, name: str) -> list[Standing]:
        known = self._driver.machine.hosts.known
        wanted, found = [host_of_name(name)] if name else sorted(known), list[Standing]()
        for number, each in enumerate(wanted, start=1):
            if (host := known.get(each)) is not None:
                found.append(self._read(host))
            if number % HOSTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    # What operators want.

    async def cordon(self, name: str, reason: str = "") -> Standing:
        """Nothing new comes to a host; what is there stays. Of one that is away, once it is back.

        Raises:
            InvalidFieldError: There is no such host, it is in no state for that, or the reason is too long.
            StoreUnavailableError: It cannot be kept.
        """
        return await self._order(CordonHost(host_of_name(name)), HostChange.CORDON, reason)

    async def drain(self, name: str, reason: str = "") -> Standing:
        """A host gets nothing new, and its instances and tasks go elsewhere. Of one that is away, once it is back.

        Raises:
            As `cordon`.
        """
        return await self._order(DrainHost(host_of_name(name)), HostChange.DRAIN, reason)

    async def resume(self, name: str) -> Standing:
        """A host takes instances again.

        Raises:
            As `cordon`.
        """
        return await self._order(ResumeHost(host_of_name(name)), None, "")

    async def _order(
        self, event: CordonHost | DrainHost | ResumeHost, order: HostChange | None, reason: str
    ) -> Standing:
        """Tell the core, and keep it: what cannot be kept is told all the same, and told of as an error."""
        if len(reason) > MOST_REASON or not (reason.isprintable() or not reason):
            message = f"reason has {len(reason)} letters; it may have {MOST_REASON} at most, all of which can be shown"
            raise InvalidFieldError(message, field="reason")
        async with self._changing:
            keeper, host_id = self._driver.keeper, event.host_id
            host = self._driver.views.host(host_id)
            if keeper is not None:
                keeper.check()
            changes = self._driver.machine.hosts.orders.get(host_id) is not order
            self._driver.tell_host(event)
            if order is None:
                self._reasons.pop(host_id, None)
            elif changes:  # given again it stays that of who gave it first
                self._reasons[host_id] = reason
            if keeper is not None:
                await keeper.keep_records([_kept(host_id, order, self._reasons.get(host_id, ""))])
        return self._read(host)

    async def remove(
        self,
        name: str,
        *,
        force: bool,
        revoke: Callable[[], Awaitable[None]] | None = None,
        told: Callable[[HostId], None] = lambda _: None,
    ) -> None:
        """Know a host no longer; with `force` though something is there: its tasks go on elsewhere, its leases end.

        Before that `revoke` is called, once nothing hinders it; else `told`.

        Raises:
            InvalidFieldError: It is the kernel's own, there is none, or something is left of it.
            StoreUnavailableError: That cannot be kept.
        """
        host_id = host_of_name(name)
        if host_id == LOCAL_HOST:
            raise InvalidFieldError(
                "the kernel's own host cannot be removed; drain it, or end the kernel", field="host_id"
            )
        async with self._changing:
            standing, keeper = self.read(name), self._driver.keeper
            if not force and standing.host.state is not HostState.LOST and not standing.drained:
                raise InvalidFieldError(
                    f"host {name!r} is {standing.host.state.name} with {len(standing.host.instances)} instances,"
                    f" {standing.tasks} tasks and {standing.leases} leases; drain it (`inferd hosts drain {name}`), or"
                    " remove it with force: its tasks go on elsewhere, and its leases end",
                    field="host_id",
                )
            if revoke is not None:
                await revoke()
            else:
                told(host_id)
            self._driver.tell_host(HostLeft(host_id))
            self._reasons.pop(host_id, None)
            if keeper is not None:
                removed = f"{REMOVED}\n{time.time()}".encode()  # on the clock of the keyring
                row = Drop(NO_TENANT, Kind.HOST, name) if revoke else Put(NO_TENANT, Kind.HOST, name, removed)
                await keeper.keep_records([row])

    async def read_log(
        self, instance_id: str, caller: Caller, *, tail_bytes: int, follow: bool
    ) -> AsyncGenerator[bytes]:
        """The log of an instance's worker from so many bytes before its end on; with `follow` until that has ended.

        Raises:
            InvalidFieldError: There is none, or its host cannot give it.
            LimitExceededError: As many watch as may, or the tenant has its share.
            ShuttingDownError: The kernel is shutting down.
        """
        name, views = InstanceId(instance_id), self._driver.views
        instance = views.find_instance(name)
        supervisor = self._driver.supervisor
        host_id, path = (
            supervisor.ended.get(name, (LOCAL_HOST, "")) if instance is None else (host_of(instance.device_id), "")
        )
        if (launcher := supervisor.launchers.get(host_id)) is None:
            where = f"; it is in {path}" if path else ""
            raise no_log(name, f"host {host_id!r}, where it was, is not attached{where}")
        _, size_bytes = await launcher.read_log(name, 0, 0)
        offset_bytes = max(0, size_bytes - tail_bytes)
        with self._watchers.place(caller.tenant):
            while True:
                living = views.find_instance(name) is not None
                part, size_bytes = await launcher.read_log(name, offset_bytes, LOG_PART_BYTES)
                offset_bytes = min(offset_bytes, size_bytes) + len(part)
                if part:
                    yield part
                elif not (follow and living):
                    return
                else:
                    async with self._driver.closing.cut_short():
                        await asyncio.sleep(LOG_GAP_S)


def host_of_name(name: str) -> HostId:
    """The host that is called so; the kernel's own for "" and "local"."""
    return LOCAL_HOST if name == LOCAL else HostId(name)


def _mark(standing: Standing) -> object:
    """What differs once another thing is to be told of a host."""
    host = standing.host
    held = tuple((each.free_bytes, each.lease_bytes, each.foreign_bytes) for each in standing.devices)
    order = standing.order, standing.order_reason
    return host.state, host.since, host.facts, held, tuple(standing.models), standing.places, standing.tasks, order


def _kept(host_id: HostId, order: HostChange | None, reason: str) -> Put | Drop:
    """How an order is kept: its name, and in a second line why."""
    key = shown_host(host_id)
    if order is None:
        return Drop(NO_TENANT, Kind.HOST, key)
    return Put(NO_TENANT, Kind.HOST, key, "\n".join(filter(None, (order.name, reason))).encode())


def _read_orders(store: Store) -> tuple[dict[HostId, tuple[HostChange, str]], dict[HostId, float]]:
    """What is wanted of hosts, and when others were removed."""
    found, removed = dict[HostId, tuple[HostChange, str]](), dict[HostId, float]()
    for record in store.records(Kind.HOST, None):
        with suppress(*UNREADABLE):  # of a later kernel: a host that takes instances is no worse than before
            name, _, reason = record.value.decode().partition("\n")
            if name == REMOVED:
                removed[HostId(record.key)] = float(reason)
            else:
                found[host_of_name(record.key)] = HostChange[name], reason
    return found, removed
