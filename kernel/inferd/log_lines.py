"""How the log of a kernel is written: for people or as JSON, and from which level on, by the name of who speaks.

Lines of structlog and of the standard library's logging go the same way: a name is that of the module, so that levels
are those of `logging`. Of an exception its places are written and not its words; see `inferd.logs`.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from inferd import logs
from inferd.telemetry_settings import Logs

if TYPE_CHECKING:
    import asyncio

    from structlog.typing import EventDict, Processor

OWN = "inferd"
LIBRARIES = logging.WARNING


class LogLines:
    """The log of this process. One writer: the main thread.

    Args:
        chosen: Its settings; they count at once.
    """

    def __init__(self, chosen: Logs) -> None:
        self._named: tuple[str, ...] = ()
        handler = _handler(json=chosen.format == "json")
        logging.basicConfig(level=LIBRARIES, handlers=[handler], force=True)
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                *_usual(json=chosen.format == "json"),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        self.set_levels(chosen)

    def set_levels(self, chosen: Logs) -> None:
        """From now on write from these levels on."""
        for name in self._named:
            logging.getLogger(name).setLevel(logging.NOTSET)
        wanted = {OWN: chosen.level, **chosen.levels}
        self._named = tuple(wanted)
        for name, level in wanted.items():
            logging.getLogger(name).setLevel(level.upper())

    @staticmethod
    def write(what: str, error: BaseException | None) -> None:
        """Write what nobody handles."""
        if not isinstance(error, SystemExit):
            logging.getLogger(OWN).error(what, exc_info=error)

    def tell_loop(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handles what an event loop has nobody else to tell of; its own handler prints objects with their contents."""
        self.write(*logs.said_by_loop(context))


def _usual(*, json: bool) -> list[Processor]:
    stamp = "iso" if json else "%Y-%m-%d %H:%M:%S"
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(stamp, utc=json),
    ]


def _handler(*, json: bool) -> logging.Handler:
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if json:
        last += [_tell_places, structlog.processors.JSONRenderer(default=str)]
    else:
        last.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=logs.write_exception))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=_usual(json=json)))
    return handler


def _tell_places(_: Any, __: str, event: EventDict) -> EventDict:
    """The places of an exception in its stead."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["exception"] = logs.describe(error)
    event.pop("stack_info", None)
    return event


def set_up_logs() -> None:
    """Have logs of this process written to stderr, for people."""
    LogLines(Logs())
