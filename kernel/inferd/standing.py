"""A kernel beside others with the same store in PostgreSQL: it stands by while another one leads, and follows it.

Whoever has the lock of the store leads. A kernel that finds it taken refuses calls with where the leader is, tells of
itself in the store, and looks there until it may try; see `inferd.core.succession`. It reads nothing of what is kept.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog

from inferd import __version__
from inferd.addresses import UNIX, split_address, split_scheme
from inferd.config import Settings
from inferd.core.succession import Step, Succession
from inferd.errors import InferdError, StoreUnavailableError
from inferd.exposing import exposing
from inferd.runtime.driver import Driver
from inferd.runtime.leading import Leadership, Telling, led, not_leader
from inferd.runtime.metrics import standing_registry
from inferd.runtime.plugins import Plugins, plugins_ahead
from inferd.runtime.store_thread import StoreThread
from inferd.services.doorway import Doorway
from inferd.store.kernels import KernelEntry, Seen
from inferd.store.opening import open_roll
from inferd.store.store import SealError

HOST_CHARACTERS = 64
EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - not listened on here # nosec B104
BEATS = 2  # that a free lock is left to who leads
FAREWELL_S = 1.0  # how long the end of a kernel waits for its store to hear of it

T = TypeVar("T")

log = structlog.get_logger()


class StandbyEndedError(Exception):
    """The kernel was asked to end while it stood by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told of a kernel that stands by, and ends it.

    Attributes:
        told: Called with itself and the leader, None for nobody that is known, when it begins to stand by and when that
            changes.
        ended: Set where it is to end.
        again: Whether it has led before, or stood by: then a database that is away is waited for.
        ahead: Looks for the plugins since before the kernel was built; None where nobody does.
    """

    told: Callable[[KernelEntry, KernelEntry | None], None] = lambda _me, _leader: None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    again: bool = False
    ahead: asyncio.Task[Plugins] | None = None


class Standing:
    """How a kernel stands to others with the same store. One writer: the start of the kernel.

    Args:
        settings: Of the kernel.
        addresses: Where it listens, ports filled in.
        doorway: Refuses calls while it does not lead.
        watch: Who is told.

    Attributes:
        ahead: As of `watch`.
        stood: Whether it has stood by, or led before: then it does not end for what a start ends for.

    Raises:
        StoreUnavailableError: The URL of the store cannot be read.
    """

    def __init__(self, settings: Settings, addresses: tuple[str, ...], doorway: Doorway, watch: Watch) -> None:
        self._settings = settings
        self._times = settings.standby
        self._doorway = doorway
        self._watch = watch
        self.ahead, self.stood = watch.ahead, watch.again
        answer_s = self._times.silence_s - 2 * self._times.beat_s  # so that a silence is noticed before it is over
        self._roll = open_roll(settings.store_place, answer_s=answer_s)
        self._thread = StoreThread("standby")
        self._plugins: Plugins | None = None
        self._hushed = asyncio.Event()
        self._teller: asyncio.Task[None] | None = None
        self._entry = KernelEntry(
            kernel=uuid.uuid4().hex,
            host=socket.gethostname()[:HOST_CHARACTERS],
            pid=os.getpid(),
            version=__version__,
            addresses=advertised(settings, addresses),
        )

    @asynccontextmanager
    async def leading(self, enter: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
        """What is entered once this kernel may lead, until the block ends.

        Raises:
            StandbyEndedError: It was asked to end before.
            StoreUnavailableError: The store cannot be opened, or another kernel has it and this one is not to stand by.
        """
        try:
            async with AsyncExitStack() as stack:
                while True:
                    try:
                        async with self._telling():
                            entered = await stack.enter_async_context(enter())
                    except StoreUnavailableError as error:
                        if not self._may_wait(error):
                            raise
                        await self._stand_by(error)
                    else:
                        break
                yield entered
        finally:
            await self._leave()

    @asynccontextmanager
    async def led(self, driver: Driver) -> AsyncIterator[Leadership | None]:
        """As `inferd.runtime.leading.led`; calls are taken for as long as this kernel is sure that it leads."""
        telling: Telling | None = None
        await self._hush()  # from here on it tells of its epoch
        if self._roll is not None:
            telling = Telling(self._roll, self._entry, self._times, self._thread, self._plugins)
        async with led(driver, telling) as leadership:
            if leadership is not None:
                self._doorway.guard(leadership.refusal, leadership.settled)
            yield leadership

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Tell of this kernel in the block, until it leads.

        It has the lock then, and may have to bring the store up or to seal it for long: who is silent is ended.
        """
        self._hushed = asyncio.Event()
        self._teller = asyncio.create_task(self._tell(), name="word of a kernel that opens its store")
        try:
            yield
        finally:
            await self._hush()

    async def _tell(self) -> None:
        while self._roll is not None and not await self._is_set(self._hushed, within_s=self._times.beat_s):
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._roll.sign, self._entry)
            except StoreUnavailableError as error:  # opening it says so, too, if it lasts
                log.debug("this kernel cannot tell of itself while it opens its store", why=error.message)

    async def _hush(self) -> None:
        """Tell nothing more, and be done with what was being told."""
        self._hushed.set()
        if self._teller is not None:
            await asyncio.gather(self._teller, return_exceptions=True)

    @staticmethod
    async def _is_set(event: asyncio.Event, *, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await event.wait()
        return event.is_set()

    def _may_wait(self, error: StoreUnavailableError) -> bool:
        """Whether what hinders a start is another kernel; or a database that is away, where this one was there."""
        if self._roll is None or not self._times.enabled:
            return False
        another = error.metadata.get("cause") in {"in use", "taken over"}
        return another or (self.stood and error.retry_after_s is not None)

    async def _stand_by(self, error: StoreUnavailableError) -> None:
        """Refuse calls, and look who leads, until this kernel may try."""
        log.info("this kernel stands by", why=error.message)
        self.stood = True
        await self._check_keys()
        lookout = _Lookout(self._entry, self._watch)
        self._doorway.guard(lookout.refusal)
        succession = Succession(BEATS * self._times.beat_s, self._times.silence_s)
        looking = asyncio.create_task(self._look_ahead(), name="plugins of a standby")
        async with _until_end(looking), exposing(self._settings, standing_registry(lambda: lookout.others)):
            while await self._look(succession, lookout) is not Step.TRY:
                if await self._is_set(self._watch.ended, within_s=self._times.look_s):
                    raise StandbyEndedError
        log.info("the store is free: this kernel tries to lead")

    async def _look_ahead(self) -> None:
        """Look for plugins, which takes long where they import much."""
        self._plugins = await plugins_ahead(self._settings)

    async def _check_keys(self) -> None:
        """See that this kernel could open the store: now, and not when it is to lead.

        Raises:
            SealError: It could not.
        """
        if self._roll is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._roll.check_keys)
        except SealError:
            raise
        except StoreUnavailableError as error:
            log.warning("this kernel could not look at the keys of its store", why=error.message)

    async def _look(self, succession: Succession, lookout: "_Lookout") -> Step:
        loop, roll, silence_s = asyncio.get_running_loop(), self._roll, self._times.silence_s
        if roll is None:
            return Step.TRY
        try:
            seen: Seen = await loop.run_in_executor(self._thread, roll.sign, self._entry)
            leader = seen.leader
            age_s = seen.holder_s if seen.holder else None if leader is None else leader.age_s
            step = succession.look(seen.now, holder=seen.holder, age_s=age_s)
            lookout.see(seen)
            if step is Step.END and await loop.run_in_executor(
                self._thread, partial(roll.end_silent, self._entry, silence_s)
            ):
                log.warning("the kernel that led was silent: its epoch is ended", leader=str(leader), age_s=age_s)
                step = Step.TRY
        except StoreUnavailableError as error:
            succession.blind()
            lookout.lose(error)
            return Step.WAIT
        return step

    async def _leave(self) -> None:
        """Tell no more of this kernel; a database that does not answer is not waited for."""
        if self._roll is not None:
            leaving = asyncio.get_running_loop().run_in_executor(self._thread, self._roll.leave, self._entry.kernel)
            await asyncio.wait([leaving], timeout=FAREWELL_S)
        self._thread.shutdown()


class _Lookout:
    """What a kernel that stands by knows of the others. One writer: `Standing`."""

    def __init__(self, me: KernelEntry, watch: Watch) -> None:
        self._me = me
        self._watch = watch
        self._leader: KernelEntry | None = None
        self._told: object = self  # nothing yet
        self._blind = False
        self.others: tuple[KernelEntry, ...] = ()

    def refusal(self) -> InferdError:
        """What calls are told."""
        blind = " and cannot see its store; its log says why" if self._blind else ""
        return not_leader(self._leader, self._me.host, f"this kernel stands by{blind}")

    def see(self, seen: Seen) -> None:
        """So it stands."""
        if self._blind:
            log.info("the store is seen again")
        self._blind, self.others = False, seen.others
        self._leader = seen.leader if seen.holder else None
        key = None if self._leader is None else (self._leader.kernel, self._leader.addresses)
        if key != self._told:
            self._told = key
            self._watch.told(self._me, self._leader)

    def lose(self, error: StoreUnavailableError) -> None:
        """Nothing can be seen."""
        if not self._blind:
            log.warning("this kernel stands by and cannot see its store", why=error.message)
        self._blind, self._leader = True, None


@asynccontextmanager
async def _until_end(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """End a task with the block, if it has not ended before."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def advertised(settings: Settings, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses by which clients reach a kernel: as configured, or where it listens."""
    if settings.standby.advertise:
        return settings.standby.advertise
    return tuple(_reachable(address) for address in addresses)


def _reachable(address: str) -> str:
    """An address with the name of this host in the place of every address."""
    if address.startswith(UNIX):
        return address
    scheme, bare = split_scheme(address)
    host, port = split_address(bare)
    return f"{scheme}{socket.gethostname()}:{port}" if host in EVERYWHERE else address
