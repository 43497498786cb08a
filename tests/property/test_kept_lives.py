"""Leases over the lives of many kernels and any steps of the clock: none ends early, and none overlaps another.

A world of its own knows the true time, and what holders were told. Kernels are killed and started again at random; what
they had not written is lost, as with a machine that loses its power. `INFERD_EXAMPLES` says how many there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from amounts import examples

from inferd import server
from inferd.config import Settings
from inferd.core import events
from inferd.core.ids import DeviceId, LeaseId, Tenant
from inferd.core.lease import LeaseSpec, LeaseState, MemoryClaim
from inferd.core.resources import DeviceCapacity
from inferd.errors import LeaseEndedError, LeaseNotFoundError, LeaseUnavailableError, StoreUnavailableError
from inferd.runtime.clock import Boot, Clock
from inferd.runtime.driver import Driver
from inferd.runtime.front.leases import Leases
from inferd.runtime.restoring import read_kept, restore
from inferd.store.store import Append, Damaged, Drop, Kind, Name, Put, Record, Write

TENANT, CPU = Tenant("a"), DeviceId("cpu:0")
CAPACITY = 1000
KILLS = examples(90)
STEPS = (3600.0, -3600.0, 3650 * 86_400.0, -3650 * 86_400.0)
LATE_S = 0.25


@dataclass
class Disk:
    """A store of which a kernel that was killed is cut off."""

    records_: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    name: str = "disk"

    def write(self, writes: Sequence[Write]) -> None:
        for write in writes:
            assert not isinstance(write, Append)
            key = (write.kind.value, write.tenant, write.key)
            if isinstance(write, Put):
                self.records_[key] = write.value
            elif isinstance(write, Drop):
                self.records_.pop(key, None)

    def records(self, kind: Kind, damaged: Damaged | None = None, *, unless: Kind | None = None) -> Iterator[Record]:
        del damaged, unless  # there are no tasks
        return iter([Record(t, key, value) for (of, t, key), value in self.records_.items() if of == kind.value])

    def some(self, kind: Kind, names: Sequence[Name], damaged: Damaged | None = None) -> Iterator[Record]:
        del damaged
        return (each for each in self.records(kind) if (each.tenant, each.key) in names)

    def pieces(self, tenant: str, kind: Kind, key: str) -> Iterator[bytes]:
        raise NotImplementedError

    def check(self) -> list[str]:
        return []

    def compact(self) -> None:
        pass

    def size_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class Cable:
    """Between a kernel and its disk; once cut it carries nothing."""

    def __init__(self, disk: Disk) -> None:
        self._disk, self.cut = disk, False

    def write(self, writes: Sequence[Write]) -> None:
        if self.cut:
            raise StoreUnavailableError("the machine has no power")
        self._disk.write(writes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


@dataclass
class Held:
    """What a holder knows of its lease.

    Attributes:
        until: When it ends at the earliest, by true time: its last renewal that was told, and its TTL.
        latest: When it ends at the latest: its last renewal that was asked for, and its TTL.
        token: Its fencing token.
        estimated: Whether the system was started again since: then only the wall clock could tell.
    """

    until: float
    latest: float
    token: int
    ttl_s: float
    estimated: bool = False


class World:
    """The true time, the clocks that are seen of it, the disk, a kernel, and holders of leases."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = Random(seed)
        self.time, self.step_s, self.boots, self.booted = 0.0, 0.0, 1, -5000.0
        self.disk, self.held = Disk(), dict[str, Held]()
        self.highest = self.created = self.kills = 0
        self._settings = Settings(state_dir=folder, data_dir=folder)

    async def start(self) -> None:
        """A kernel begins with what is on the disk."""
        self.cable = Cable(self.disk)
        boot = Boot(f"boot {self.boots}", 0.0)
        clock = Clock(
            monotonic=lambda: self.time - self.booted,
            wall=lambda: 1.8e9 + self.time + self.step_s,
            boot=boot,
            confirmed=lambda: False,
        )
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(server, "Driver", partial(Driver, clock=clock))
            self.driver = server._driver(self._settings, self.cable)  # type: ignore[arg-type] # it is one
        self.driver._alarm.set = lambda _: None  # type: ignore[method-assign] # time passes in `passes` alone
        self.driver.tell_host(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=CAPACITY, cores=1),)))
        bound: Any = None
        self.leases = Leases(self.driver, bound, watchers=bound, keepers=bound)
        restore(self.driver, await read_kept(self.driver))
        self.check()

    async def kill(self, *, reboot: bool) -> None:
        """The kernel is gone, and perhaps the machine with it; time passes, and the clock may be stepped."""
        self.kills += 1
        self.cable.cut = True
        assert self.driver.keeper is not None
        self.driver.keeper.stop()
        await self.driver.keeper.read(lambda _: None)  # what was being written is, or is not
        self.driver.keeper._thread.shutdown()
        self.time += self.random.choice((0.0, 0.125, 2.0, 20.0))  # and no rounding of any sum
        if reboot:
            self.boots, self.booted = self.boots + 1, self.time - self.random.randrange(64) / 64
            for held in self.held.values():
                held.estimated = True
        if self.random.random() < 0.5:
            self.step_s += self.random.choice(STEPS)

    def passes(self, seconds: float) -> None:
        """Time passes while the kernel runs, which rings whenever something is due."""
        until = self.time + seconds
        while (alarm := self.driver.machine.next_alarm()) is not None and alarm + self.booted <= until:
            self.time = max(self.time, alarm + self.booted)
            self.driver._apply(events.Tick())
            self.check()
        self.time = until

    async def act(self) -> None:
        """A holder asks for something, and may be killed or not hear the answer."""
        act = self.random.choice((self.create, self.create, self.renew, self.renew, self.release))
        await act()
        self.check()

    async def create(self) -> None:
        self.created += 1
        name, size_bytes = f"lease-{self.created}", self.random.randrange(1, CAPACITY)
        ttl_s = self.random.choice((1.0, 5.0, 30.0, 300.0))
        claim = MemoryClaim(device_id=CPU, memory_bytes=size_bytes)
        spec = LeaseSpec(lease_id=LeaseId(name), tenant=TENANT, claims=(claim,), ttl_s=ttl_s)
        asked = self.time
        try:
            lease = self.driver.create_lease(spec)
        except LeaseUnavailableError:
            return
        if await self.told(name):
            assert lease.fencing_token > self.highest
            self.highest = lease.fencing_token
            self.held[name] = Held(asked + ttl_s, asked + ttl_s, lease.fencing_token, ttl_s)

    async def renew(self) -> None:
        for name in self.some():
            held, asked = self.held[name], self.time
            try:
                lease = self.driver.keep_alive(LeaseId(name), TENANT)
            except (LeaseEndedError, LeaseNotFoundError):
                self.ended(name)
                continue
            assert lease.fencing_token == held.token
            held.latest = asked + held.ttl_s
            if await self.told(name):
                held.until, held.estimated = asked + held.ttl_s, False

    async def release(self) -> None:
        for name in self.some():
            self.driver.release_lease(LeaseId(name), TENANT)
            del self.held[name]
            await self.told(name)

    def some(self) -> list[str]:
        return self.random.sample(sorted(self.held), min(1, len(self.held)))

    async def told(self, name: str) -> bool:
        """The answer comes, or the kernel is killed before."""
        if self.random.random() < 0.2:
            return False
        await self.leases.settled([LeaseId(name)])
        return True

    def check(self) -> None:
        """Nothing is given twice, nobody's time was cut, and none holds for longer than it may."""
        now = self.time - self.booted
        known = self.driver.machine.leases.known.values()
        active = {lease.spec.lease_id: lease for lease in known if lease.state is LeaseState.ACTIVE}
        account = self.driver.views.devices[CPU]
        assert account.lease_bytes == sum(c.memory_bytes for lease in active.values() for c in lease.spec.claims)  # type: ignore[union-attr] # of memory
        assert account.lease_bytes <= CAPACITY
        for lease in active.values():
            assert now <= lease.expires <= now + lease.ttl_s  # never longer than it was
            if (held := self.held.get(lease.spec.lease_id)) is not None and not held.estimated:
                assert self.time <= held.latest + LATE_S
        for name in [name for name in self.held if name not in active]:
            self.ended(name)

    def ended(self, name: str) -> None:
        """A lease ended by itself; not before its time, as far as that can be known."""
        held = self.held.pop(name)
        if not held.estimated:
            assert self.time >= held.until, f"{name} ended {held.until - self.time} s early"


@pytest.mark.parametrize("seed", range(3))
async def test_no_kill_and_no_step_of_the_clock_cuts_a_lease(seed: int, tmp_path: Path) -> None:
    """Each lease holds for its TTL from what its holder was told last, and no longer; nothing is held twice.

    Tokens rise over all kernels. One that nobody keeps alive is gone in 250 ms.
    """
    world = World(seed, tmp_path)
    await world.start()
    while world.kills < KILLS // 3:
        for _ in range(world.random.randrange(1, 8)):
            await world.act()
            world.passes(world.random.choice((0.0, 1 / 64, 0.25, 3.0)))
        await world.kill(reboot=world.random.random() < 0.25)
        await world.start()
    await world.kill(reboot=False)
