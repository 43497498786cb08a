"""The one timer of the driver: it rings when the core has something due."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings at an instant of the kernel's clock, which is the loop's: both are `time.monotonic`. Set by the driver."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float | None) -> None:
        """Ring at this instant instead of any other; None for never."""
        timer, self._at = self._timer, at
        if timer is not None:
            if at is not None and timer.when() <= at:
                return  # it is put off when it goes off: most instants rise with each task
            timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._go_off)

    def _go_off(self) -> None:
        timer, self._timer = self._timer, None
        if self._at is not None and timer is not None and self._at > timer.when():
            self.set(self._at)
        else:
            self._ring()
