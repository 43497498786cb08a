"""What a test that fails leaves behind is not told of the next one.

Its frames hold what it had open until they are forgotten; sockets and tasks are then told as unclosed wherever a
collection finds them, which has a second test fail for nothing.
"""

import gc
import sys
from collections.abc import Generator

import pytest

FAILED = pytest.StashKey[bool]()
LAST = ("last_exc", "last_type", "last_value", "last_traceback")  # what pytest keeps for debuggers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    done = yield
    if item.stash.get(FAILED, False) and not item.config.getoption("usepdb"):
        forget()
    return done


def forget() -> None:
    """Have all go that only a failed test held, without a word: that it failed is told."""
    for name in LAST:
        if hasattr(sys, name):
            delattr(sys, name)
    told, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = told
