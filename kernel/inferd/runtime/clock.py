"""The kernel's clock: monotonic seconds for policy, and the wall time that people are shown."""

import time


class Clock:
    """Reads the system's clocks. The wall time of an instant is fixed at start, so that steps of it reorder nothing."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return time.monotonic()

    def wall(self, instant: float) -> float:
        """The Unix time of an instant of `now`."""
        return instant + self._offset_s

    def instant(self, wall: float) -> float:
        """The instant of `now` that has a Unix time; negative where that was before the system started."""
        return wall - self._offset_s
