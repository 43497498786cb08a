"""A kernel in the foreground, from its start to the signal that ends it."""

import asyncio
import signal
import sys
from collections.abc import Callable

import structlog

from inferd import logs
from inferd.config import Settings
from inferd.plugin.cores import forbid_cores
from inferd.runtime.allocator import give_large_back
from inferd.runtime.collector import spare_collector
from inferd.runtime.driver import Driver
from inferd.server import Kernel, running_kernel

log = structlog.get_logger()


async def serve(settings: Settings, *, ready: Callable[[Kernel], None]) -> None:
    """Serve until SIGTERM, which lets what runs come to its end for `drain_s`, or until SIGINT or a second SIGTERM.

    Args:
        settings: Of this kernel.
        ready: Called once it serves.

    Raises:
        InvalidFieldError, OSError: As `running_kernel`.
    """
    _set_up_logs()
    if not settings.core_dumps:
        forbid_cores()
    loop = asyncio.get_running_loop()
    ends = _Ends()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ends.signalled, number)
    async with running_kernel(settings) as kernel:
        give_large_back()
        spare_collector()
        logs.install()  # from now on what fails may have to do with what clients say
        loop.set_exception_handler(logs.tell_loop)
        if (keeper := kernel.driver.keeper) is not None:
            ends.hurry = keeper.hurry
        ready(kernel)
        await ends.asked.wait()
        if not ends.at_once.is_set():
            await _drain(kernel.driver, settings.drain_s, ends.at_once)


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


def _set_up_logs() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=logs.write_exception),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
