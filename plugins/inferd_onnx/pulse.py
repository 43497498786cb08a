"""Signs of life of a load that the runtime does not tell about."""

import os
import threading
import time
from math import exp
from pathlib import Path
from typing import Self

from inferd.plugin import ReportProgress

PERIOD_S = 0.5
READING, REWRITING = 0.7, 0.25  # parts of a load: memory is taken; then the processor works, for nobody knows how long
REWRITING_S = 60.0  # of the processor, in which two thirds of its part go by


class Pulse:
    """Reports, from a thread, how far a load has come, until it is left.

    It rises with the memory that is taken and, ever more slowly, with the time of the processor: what neither takes
    memory nor computes hangs.
    """

    def __init__(self, report: ReportProgress, *, expected_bytes: int) -> None:
        self._report = report
        self._expected_bytes = max(expected_bytes, 1)
        self._before_bytes = _resident_bytes()
        self._before_s = time.process_time()
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
            taken = min((_resident_bytes() - self._before_bytes) / self._expected_bytes, 1.0)
            worked = 1 - exp((self._before_s - time.process_time()) / REWRITING_S)
            self._done = max(self._done, READING * taken + REWRITING * worked)
            self._report(self._done)


def _resident_bytes() -> int:
    """See proc(5)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
