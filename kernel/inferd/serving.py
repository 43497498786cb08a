"""A kernel in the foreground, from its start to the signal that ends it."""

import asyncio
import signal
import sys
from collections.abc import Callable

import structlog

from inferd import logs
from inferd.config import Settings
from inferd.runtime.allocator import give_large_back
from inferd.runtime.collector import spare_collector
from inferd.server import Kernel, running_kernel

log = structlog.get_logger()


async def serve(settings: Settings, *, ready: Callable[[Kernel], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: Of this kernel.
        ready: Called once it serves.

    Raises:
        InvalidFieldError, OSError: As `running_kernel`.
    """
    _set_up_logs()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with running_kernel(settings) as kernel:
        give_large_back()
        spare_collector()
        logs.install()  # from now on what fails may have to do with what clients say
        loop.set_exception_handler(logs.tell_loop)
        ready(kernel)
        await ended.wait()


def _set_up_logs() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=logs.write_exception),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
