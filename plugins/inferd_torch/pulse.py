"""Signs of life of a load that transformers does not tell about."""

import threading
from collections.abc import Callable
from typing import Self

from inferd.plugin import ReportProgress

PERIOD_S = 0.5
MOST = 0.95  # the end is told by who knows it


class Pulse:
    """Reports, from a thread, which part of `expected_bytes` has been taken, until it is left."""

    def __init__(self, report: ReportProgress, taken_bytes: Callable[[], int], *, expected_bytes: int) -> None:
        self._report = report
        self._taken_bytes = taken_bytes
        self._before_bytes = taken_bytes()
        self._expected_bytes = max(expected_bytes, 1)
        self._done = 0.0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._left.wait(PERIOD_S):
            part = (self._taken_bytes() - self._before_bytes) / self._expected_bytes
            self._done = min(max(self._done, part), MOST)
            self._report(self._done)
