"""A kernel that leads: it tells so in its store, and notices when another one does.

Its commits are safe by themselves, see `PostgresStore`. What it tells here is for the rest: that kernels which stand by
know that it lives, and that it takes no calls when it cannot be sure any more that it leads, as after it was stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from inferd.errors import NotLeaderError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager

    from inferd.runtime.driver import Driver
    from inferd.runtime.plugins import Plugins
    from inferd.standby_settings import Standby
    from inferd.store.kernels import KernelEntry, Roll, Seen

RETRY_AFTER_S = 0.5
SETTLE_S = 1.0  # how long a call waits for a kernel that was held up to find out whether it still leads
FACT_BYTES = 380  # of the addresses in an error, which clients take up to 8 KiB of
MICRO = 1_000_000

Leading = Callable[["Driver"], "AbstractAsyncContextManager[Leadership | None]"]
"""What begins an epoch of a kernel until the block ends."""

log = structlog.get_logger()


def steady() -> float:
    """Seconds that go on while this process is stopped, and while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def not_leader(leader: KernelEntry | None, host: str, why: str) -> NotLeaderError:
    """What calls are told that came to the wrong kernel: where the right one is, for clients of this host."""
    places: list[str] = []
    for address in () if leader is None else leader.addresses_for(host):
        if len(",".join([*places, address]).encode()) <= FACT_BYTES:
            places.append(address)
    if leader is None:
        who = "no kernel leads now; ask again"
    elif places:
        who = f"the kernel at {' and '.join(places)} leads"
    else:
        who = "another kernel leads, which told no address that is reached from here (standby.advertise)"
    facts = {"leader": ",".join(places)} if places else {}
    return NotLeaderError(f"{why}: {who}", metadata=facts, retry_after_s=RETRY_AFTER_S)


@dataclass(frozen=True, slots=True)
class Telling:
    """How a kernel tells of itself.

    Attributes:
        roll: Where.
        entry: What.
        times: How often, and how long what it sees there holds.
        thread: Of the roll: a store that is busy is no silence.
        plugins: Those that it looked for while it stood by; None where it did not.
    """

    roll: Roll
    entry: KernelEntry
    times: Standby
    thread: Executor
    plugins: Plugins | None = None


class Leadership:
    """What a kernel that leads tells of itself and sees of the others. One writer: its own task.

    Args:
        telling: How; with its epoch.
        backend: The server's process that has the lock of the store for it.

    Attributes:
        entry: Of this kernel.
        others: The kernels that stand by.
        lost: Set once another kernel leads.
        plugins: Those that it looked for before it led; None for none.
    """

    def __init__(self, telling: Telling, *, backend: int) -> None:
        self.entry = telling.entry
        self.others: tuple[KernelEntry, ...] = ()
        self.lost = asyncio.Event()
        self.plugins = telling.plugins
        self._telling = telling
        self._times = telling.times
        self._backend = backend
        self._sure = steady()
        self._leader: KernelEntry | None = None
        self._away = False
        self._beaten = asyncio.Event()  # set when the beat under way is over
        self._running: asyncio.Task[None] | None = None
        self._gripping: asyncio.Task[None] | None = None

    def refusal(self) -> NotLeaderError | None:
        """Why calls are not taken now; None where they are.

        A kernel that knows of no other one goes on while the database is away: nobody else has it then either.
        """
        if self.lost.is_set():
            return not_leader(self._leader, self.entry.host, "this kernel leads no more")
        if (self.others or not self._away) and steady() - self._sure > self._times.silence_s:
            why = f"this kernel could not tell in its store for {self._times.silence_s:g} s that it leads"
            return not_leader(None, self.entry.host, why)
        return None

    async def settled(self) -> None:
        """Wait until this kernel is sure again, or knows better; for a moment only."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._beaten.wait()

    def begin(self, driver: Driver) -> None:
        """Tell so from now on, until another kernel leads; then this one takes nothing, and what it has ends."""
        log.info("this kernel leads", epoch=self.entry.epoch)
        driver.metrics.tell_leading(self)
        self._running = asyncio.create_task(self._run(driver), name="leadership")

    async def _run(self, driver: Driver) -> None:
        while not self.lost.is_set():
            began = steady()
            await self._beat(driver)
            self._beaten.set()
            self._beaten = asyncio.Event()
            if not self.lost.is_set():
                await asyncio.sleep(max(0.0, began + self._times.beat_s - steady()))
        log.warning(
            "another kernel leads: what this one has ends now", epoch=self.entry.epoch, leader=str(self._leader)
        )
        if driver.keeper is not None:
            driver.keeper.hurry()
        driver.close()

    async def _beat(self, driver: Driver) -> None:
        sent, loop = steady(), asyncio.get_running_loop()
        try:
            sign = partial(self._telling.roll.sign, self.entry, backend=self._backend)
            seen: Seen = await loop.run_in_executor(self._telling.thread, sign)
        except StoreUnavailableError as error:
            if not self._away:
                log.warning("this kernel cannot tell in its store that it leads", why=error.message)
            self._away = True
            return
        if self._away:
            log.info("this kernel tells in its store again that it leads")
        self._away, self.others = False, seen.others
        if seen.epoch != self.entry.epoch:
            self._leader = seen.leader
            self.lost.set()
            return
        self._sure = sent
        if seen.holder != self._backend and (self._gripping is None or self._gripping.done()):
            self._gripping = asyncio.create_task(self._grip(driver), name="lock of the store")

    async def _grip(self, driver: Driver) -> None:
        """Have the lock again at once: nothing may be written for long, and who stands by waits for a moment only."""
        if driver.keeper is not None:
            with suppress(StoreUnavailableError):  # who writes is told
                self._backend = await driver.keeper.read(lambda store: store.grip())

    async def end(self) -> None:
        """Tell nothing any more."""
        tasks = [each for each in (self._running, self._gripping) if each is not None]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def led(driver: Driver, telling: Telling | None = None) -> AsyncIterator[Leadership | None]:
    """Begin an epoch of a kernel, and tell of it where there may be others, until the block and its keeper end.

    Raises:
        StoreUnavailableError: It cannot be begun.
    """
    keeper, clock = driver.keeper, driver.clock
    if keeper is None:
        clock.epoch = int(clock.wall(clock.now()) * MICRO)
        yield None
        return
    leadership: Leadership | None = None
    try:
        told = None if telling is None else telling.entry
        clock.epoch, backend = await keeper.read(lambda store: (store.lead(told), store.grip()))
        if telling is not None:
            own = replace(telling, entry=replace(telling.entry, epoch=clock.epoch))
            leadership = keeper.leadership = Leadership(own, backend=backend)
            leadership.begin(driver)
        yield leadership
    finally:
        await keeper.close()  # until then it leads
        if leadership is not None:
            await leadership.end()
