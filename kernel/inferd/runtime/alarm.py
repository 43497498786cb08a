"""The one timer of the driver: it rings when the core has something due."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings at an instant of the kernel's clock, which is the loop's: both are `time.monotonic`. Set by the driver."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float | None) -> None:
        """Ring at this instant instead of any other; None for never."""
        timer = self._timer
        if timer is not None:
            if at is not None and timer.when() == at and not timer.cancelled():
                return
            timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._rings)

    def _rings(self) -> None:
        self._timer = None
        self._ring()
