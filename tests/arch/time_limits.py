"""Each test has its own time: one that is late fails alone, whatever it waits for.

A signal ends what runs in Python, waits for a lock or sleeps, and again after a while if that was swallowed: by a task
of an event loop, for example. What does not come back from C, with or without the interpreter's lock, ends its process
after `hang_grace_s` more: with `-n`, as `make test` runs, that is a worker, and the run goes on in a new one.
"""

import faulthandler
import os
import signal
from types import FrameType
from typing import Any

import pytest
import pytest_timeout

LONG_S = 60.0
"""How long a test waits for what is to come: far longer than that takes where others have the processors."""
AGAIN_S = 30.0
LONGER_S = {"model": 600, "e2e": 300}  # by the marker of a test that names no time itself: on a machine that is busy
STDERR = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "hang_grace_s", "seconds from a test's timeout to the end of a process that it has not left", default="60"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # before it is captured


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


def pytest_itemcollected(item: pytest.Item) -> None:
    longer = max((time_s for name, time_s in LONGER_S.items() if item.get_closest_marker(name)), default=0)
    if longer and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(longer))


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """As pytest-timeout does with signals, and more."""
    if settings.method != "signal":
        return None

    def fail(_number: int, _frame: FrameType | None) -> None:
        pytest_timeout.timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.cancel_dump_traceback_later()

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN_S)
    last_s = settings.timeout + float(item.config.getini("hang_grace_s"))
    faulthandler.dump_traceback_later(last_s, file=item.config.stash[STDERR], exit=True)
    return True
