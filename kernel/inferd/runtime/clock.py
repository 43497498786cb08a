"""The kernel's clock: monotonic seconds for policy, and the wall time that people are shown.

What outlives the kernel is stamped with both. Within one boot of the system the monotonic clock goes on from kernel to
kernel, so that no step of the wall clock changes how long anything lasts. After another boot only the wall clock can
tell how much time has passed, and it may be wrong by years: what must not end early, a lease or what a client may still
read, ages by what has passed for certain alone. That is what a clock says that was confirmed then and now, by the
system's time service or as the clock of the store's server; else the time since this boot began.
"""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMEX_BYTES, TIME_ERROR = 512, 5  # more than the structure has; the state of a clock that is not synchronised
OFFSETS = Path("/proc/self/timens_offsets")  # time_namespaces(7): the monotonic clock of a container may be another one


@dataclass(frozen=True, slots=True)
class Boot:
    """A run of the system, in which the monotonic clock goes on.

    Attributes:
        name: Equal for no other boot; "" where it is not known: it then equals none, not even itself.
        began: When it began, on its monotonic clock; None where that is not known.
    """

    name: str
    began: float | None = None


class Stamp(NamedTuple):
    """When something was written, on all clocks; see `Clock.stamp`.

    Attributes:
        boot: The name of the boot.
        instant: On the monotonic clock.
        wall: On the wall clock.
        offset_s: Between the two, as the kernel that wrote it showed it.
        sure: Whether the wall clock was confirmed.
    """

    boot: str
    instant: float
    wall: float
    offset_s: float
    sure: bool = False


def is_synchronised() -> bool:
    """Whether a time service keeps the system's wall clock; adjtimex(2)."""
    try:
        state: int = _adjtimex()(ctypes.create_string_buffer(TIMEX_BYTES))  # all zero: it is read only
    except (OSError, AttributeError):
        return False
    return 0 <= state < TIME_ERROR


@cache
def _adjtimex() -> Any:
    """Found once: that takes ten times as long as asking, which each write of a task does."""
    return ctypes.CDLL(None).adjtimex


def this_boot() -> Boot:
    """The boot that this process runs in."""
    with suppress(OSError, ValueError):
        name, began = BOOT_ID.read_text().strip(), 0.0
        if OFFSETS.exists():
            offsets = {clock: int(seconds) for clock, seconds, _ in map(str.split, OFFSETS.read_text().splitlines())}
            if any(offsets.values()):
                name, began = f"{name} {offsets}", float(offsets.get("monotonic", 0))
        return Boot(name, began)
    return Boot("")


class Clock:
    """Reads the system's clocks. The wall time of an instant is fixed at start, so that steps of it reorder nothing.

    Args:
        monotonic: Seconds that never fall, and go on with the next kernel of the same boot.
        wall: Unix time, which may be stepped.
        boot: The boot in which they run; None for that of the system.
        confirmed: Whether the wall clock is right for certain.

    Attributes:
        gap_s: A wall clock that is not, and says that more has passed since another boot, is not believed.
        epoch: That this kernel began: it rises from kernel to kernel, so that what an older one says is refused; 0
            until there is one.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: Boot | None = None,
        confirmed: Callable[[], bool] = is_synchronised,
        gap_s: float = 86_400.0,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._boot = this_boot() if boot is None else boot
        self._confirmed = confirmed
        self.gap_s = gap_s
        self.epoch = 0
        self._offset_s = wall() - monotonic()

    def follow(self, wall: float) -> None:
        """Take the Unix time of now, and so that of all instants, from elsewhere: all that write a store have one."""
        self._offset_s = offset_s = wall - self._monotonic()
        self._wall, self._confirmed = lambda: self._monotonic() + offset_s, lambda: True

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        return self._monotonic()

    def wall(self, instant: float) -> float:
        """The Unix time of an instant of `now`."""
        return instant + self._offset_s

    def instant(self, wall: float) -> float:
        """The instant of `now` that has a Unix time; negative where that was before the system started."""
        return wall - self._offset_s

    def stamp(self) -> Stamp:
        """Now, for a kernel after this one; its wall time is that of this moment, whatever people are shown."""
        return Stamp(self._boot.name, self._monotonic(), self._wall(), self._offset_s, self._confirmed())

    def shift_s(self, stamp: Stamp, *, least: bool = False) -> float:
        """What is to be added to an instant of the clock that a stamp is of, to have it on this one.

        In the same boot nothing is. Else as much has passed as the wall clock says, unless that is more than `gap_s`,
        and not less than since this boot began.

        Args:
            stamp: It.
            least: Whether only what has passed for certain counts.
        """
        now, boot = self._monotonic(), self._boot
        if stamp.boot and stamp.boot == boot.name and stamp.instant <= now:
            return 0.0
        return now - self._passed_s(stamp, least=least) - stamp.instant

    def _passed_s(self, stamp: Stamp, *, least: bool) -> float:
        told_s = max(0.0, self._wall() - stamp.wall)
        if stamp.sure and self._confirmed():
            return told_s
        up_s = 0.0 if self._boot.began is None else self._monotonic() - self._boot.began
        if least or told_s > self.gap_s:
            return min(told_s, up_s)  # the boot may be that of another machine, and older than the stamp
        return max(told_s, up_s)
