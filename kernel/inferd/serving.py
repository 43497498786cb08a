"""A kernel in the foreground, from its start to the signal that ends it; it stands by while another one leads."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import structlog

from inferd import logs
from inferd.allocator import give_large_back
from inferd.config import Settings
from inferd.errors import words_of
from inferd.log_lines import LogLines
from inferd.notifying import Notices
from inferd.plugin.cores import forbid_cores
from inferd.runtime.collector import spare_collector
from inferd.runtime.declaring import Declaring
from inferd.runtime.driver import Driver
from inferd.runtime.plugins import Plugins
from inferd.server import Kernel, running_kernel
from inferd.standing import StandbyEndedError, Watch
from inferd.starts import STARTING_OBJECTS, end_start
from inferd.store.kernels import KernelEntry

log = structlog.get_logger()


async def serve(
    settings: Settings,
    *,
    ready: Callable[[Kernel], None],
    stands: Callable[[KernelEntry, KernelEntry | None], None],
    ahead: asyncio.Task[Plugins] | None = None,
) -> None:
    """Serve until SIGTERM, which lets what runs come to its end for `drain_s`, or until SIGINT or a second SIGTERM.

    Args:
        settings: Of this kernel.
        ready: Called each time that it begins to serve.
        stands: Called with itself and who leads, when it stands by and when that changes.
        ahead: Looks for plugins already.

    Raises:
        InvalidFieldError, OSError: As `running_kernel`.
    """
    lines, notices = LogLines(settings.logs), Notices()
    if not settings.core_dumps:
        forbid_cores()
    loop = asyncio.get_running_loop()
    ends = _Ends()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ends.signalled, number)
    again, hung_up = False, asyncio.Event()

    def told(me: KernelEntry, leader: KernelEntry | None) -> None:
        if gc.get_threshold()[0] == STARTING_OBJECTS:  # it may stand by for months
            end_start()
        notices.ready(f"stands by: {'no kernel leads now' if leader is None else f'leader is {leader}'}")
        stands(me, leader)

    async with notices.beating():
        while not ends.asked.is_set():
            if not os.isatty(0):  # a terminal that is closed sends it, too, and then it ends the kernel
                loop.add_signal_handler(signal.SIGHUP, hung_up.set)  # what is to be read anew is so once it leads
            watch = Watch(told=told, ended=ends.asked, again=again, ahead=ahead)
            with suppress(StandbyEndedError):
                async with running_kernel(settings, watch) as kernel:
                    give_large_back()
                    spare_collector()
                    logs.install(write=lines.write)  # from now on what fails may have to do with what clients say
                    loop.set_exception_handler(lines.tell_loop)
                    ready(kernel)
                    notices.ready(f"listens on {' and '.join(kernel.addresses)}")
                    await _serve(kernel, settings, ends, hung_up, Reading(kernel.declaring, lines, notices))
            again = True


async def _serve(kernel: Kernel, settings: Settings, ends: "_Ends", hung_up: asyncio.Event, reading: "Reading") -> None:
    """Have a kernel serve until it is to end, or another one leads."""
    leadership, notices = None, reading.notices
    if (keeper := kernel.driver.keeper) is not None:
        ends.hurry, leadership = keeper.hurry, keeper.leadership
    if not os.isatty(0):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reading.signalled)
    if hung_up.is_set():
        hung_up.clear()
        reading.signalled()
    waits = [asyncio.create_task(each.wait()) for each in (ends.asked, leadership and leadership.lost) if each]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await reading.end()
    if ends.asked.is_set():
        notices.stopping(0.0 if ends.at_once.is_set() else settings.drain_s)
    else:
        notices.status("another kernel leads")
    if ends.asked.is_set() and not ends.at_once.is_set():
        await _drain(kernel.driver, settings.drain_s, ends.at_once)


class Reading:
    """Reads the configuration anew, once for each SIGHUP or for several that come together: models, levels of logs.

    Args:
        declaring: Of the kernel.
        lines: Whose levels are changed.
        notices: Of this program, which are told of it.
    """

    def __init__(self, declaring: Declaring, lines: LogLines | None = None, notices: Notices | None = None) -> None:
        self._declaring = declaring
        self._lines = lines
        self.notices = Notices({}) if notices is None else notices
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def signalled(self) -> None:
        """SIGHUP has come."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read(), name="configuration")

    async def _read(self) -> None:
        while self._again:
            self._again = False
            self.notices.reloading()
            self.notices.ready(await self._read_once())

    async def _read_once(self) -> str:
        """Read it; how that went, for people."""
        try:
            given = await asyncio.to_thread(Settings)
        except (ValueError, OSError) as error:  # pydantic's, TOML's and its own are ValueErrors
            log.warning("the configuration cannot be read: all stays as it is", why=words_of(error))
            return "serves; the configuration cannot be read anew, and all stays as it was"
        if self._lines is not None:
            self._lines.set_levels(given.logs)
        await self._declaring.read_again(given.models)
        faults = len(self._declaring.declarations.faults)
        log.info("declared models and levels of logs were read again; the rest is as at the start", faults=faults)
        return f"serves; the configuration was read anew, with {faults} faults"

    async def done(self) -> None:
        """Wait until what was asked for is read."""
        if self._task is not None:
            await self._task

    async def end(self) -> None:
        """Leave what is being read."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _Ends:
    """What was asked by signals: that the kernel ends, or that it does so at once; then its store is told, too."""

    def __init__(self) -> None:
        self.asked, self.at_once = asyncio.Event(), asyncio.Event()
        self.hurry: Callable[[], None] = lambda: None

    def signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGINT or self.asked.is_set():
            self.at_once.set()
            self.hurry()
        self.asked.set()


async def _drain(driver: Driver, drain_s: float, at_once: asyncio.Event) -> None:
    """Let what runs come to its end, for as long as it may, and unless the end is to come at once."""
    driver.drain(drain_s)
    if running := driver.views.running:
        log.info(
            "the kernel ends: it takes nothing new, and ends what runs at the latest in drain_s, or at a second signal",
            running=running,
            drain_s=drain_s,
        )
    waits = [asyncio.create_task(driver.drained()), asyncio.create_task(at_once.wait())]
    try:
        await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if running := driver.views.running:
        log.warning("tasks still run: kept ones go on with the next kernel, others end now", running=running)
