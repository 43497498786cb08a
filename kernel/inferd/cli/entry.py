"""Where the program begins: Ctrl-C ends it quietly even while the modules of the commands are still loaded."""

import os
import signal
from typing import Any

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


def run() -> None:
    """Entry of the program."""
    begun = signal.getsignal(signal.SIGINT)
    waits = begun is signal.default_int_handler  # else whoever started it wants Ctrl-C to be ignored
    if waits:
        signal.signal(signal.SIGINT, _end)  # an exception inside of an import would be told with its traceback
    from inferd.cli.main import run as run_command  # noqa: PLC0415 - this takes the time

    if waits:
        signal.signal(signal.SIGINT, begun)
    run_command()


def _end(*_: Any) -> None:
    os._exit(INTERRUPTED)  # nothing is open yet, and nothing is to be flushed
