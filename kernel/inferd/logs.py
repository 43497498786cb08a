"""What the kernel and its workers write of failures: what failed and where, never with which values.

The words of an exception, and the values of variables, may be what a task was given or what a model said. A client is
told the words of its own errors; a log, which others read, has the places in the code instead.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # workers read this module and have no event loop
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    Write = Callable[[str, BaseException | None], None]
    ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def describe(error: BaseException) -> str:
    """Where an exception and those that led to it were raised, each as a traceback without its words."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n".join("".join(traceback.format_tb(one.__traceback__)) + _summary(one) for one in reversed(chain))


def _summary(error: BaseException) -> str:
    """One line, which stands for the whole where there is room for one: the type, and where it was raised."""
    name, frames = type(error).__qualname__, traceback.extract_tb(error.__traceback__)
    return f"{name} in {frames[-1].name} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else name


class Formatter(logging.Formatter):
    """Formats records of the standard library's logging."""

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - the base's name
        """The places of an exception."""
        return "" if ei[1] is None else describe(ei[1])


def write_exception(stream: TextIO, info: ExceptionInfo) -> None:
    """Formats exceptions for structlog."""
    if info[1] is not None:
        stream.write(f"\n{describe(info[1])}")


def install(level: int = logging.WARNING, *, write: Write | None = None) -> None:
    """Have all that this process says of failures go to stderr in this way, whoever says it.

    Args:
        level: From which on.
        write: Writes what nobody handles, where logs are set up already; None where they are not.
    """
    if write is None:
        write, handler = _write, logging.StreamHandler(sys.stderr)
        handler.setFormatter(Formatter(FORMAT))
        logging.basicConfig(level=level, handlers=[handler], force=True)
    tell = write
    sys.excepthook = lambda _, error, __: tell("uncaught", error)
    sys.unraisablehook = lambda unraisable: tell("ignored", unraisable.exc_value)
    threading.excepthook = lambda args: tell("uncaught in a thread", args.exc_value)


def tell_loop(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handles what an event loop has nobody else to tell of; its own handler prints objects with their contents."""
    _write(*said_by_loop(context))


def said_by_loop(context: dict[str, Any]) -> tuple[str, BaseException | None]:
    """What an event loop tells, and the exception that it tells of."""
    return str(context.get("message", "defect in the event loop")), context.get("exception")


def _write(what: str, error: BaseException | None) -> None:
    if not isinstance(error, SystemExit):
        sys.stderr.write(f"{what}\n" if error is None else f"{what}:\n{describe(error)}\n")
        sys.stderr.flush()
