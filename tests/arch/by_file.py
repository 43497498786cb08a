"""The tests of a file run in one process, after each other, when several processes share the tests.

pytest-xdist's own way to do so begins a test with which a process ended anew, again and again, and may leave the
process that comes after that one without work.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """The way to share the tests with `--dist loadfile`."""
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


class ByFile(LoadFileScheduling):
    """Goes on behind the test with which a process ended."""

    def schedule(self) -> None:
        """There is a new process; it begins with a test only when it knows the one after it."""
        super().schedule()
        for node in self.nodes if self.collection else ():
            self._reschedule(node)

    def remove_node(self, node: Any) -> str | None:
        """A process has ended; the test that it was at, if it was at one."""
        files = self.assigned_work[node]
        left = [(file, test) for file, tests in files.items() for test, done in tests.items() if not done]
        if left:
            file, ended = left[0]
            files[file][ended] = True
        for file in [file for file, tests in files.items() if all(tests.values())]:
            del files[file]
        super().remove_node(node)
        return left[0][1] if left else None
