"""The kernel's clock: monotonic seconds for policy, and the wall time that people are shown.

What outlives the kernel is stamped with both. Within one boot of the system the monotonic clock goes on from kernel to
kernel, so that no step of the wall clock changes how long anything lasts; after another boot only the wall clock can
tell how much time has passed, and nothing lasts for longer than it would have when it was written.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
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


@dataclass(frozen=True, slots=True)
class Stamp:
    """When something was written, on all clocks; see `Clock.stamp`.

    Attributes:
        boot: The name of the boot.
        instant: On the monotonic clock.
        wall: On the wall clock.
        offset_s: Between the two, as the kernel that wrote it showed it.
    """

    boot: str
    instant: float
    wall: float
    offset_s: float


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
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: Boot | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._boot = this_boot() if boot is None else boot
        self._offset_s = wall() - monotonic()

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
        return Stamp(self._boot.name, self._monotonic(), self._wall(), self._offset_s)

    def shift_s(self, stamp: Stamp) -> float:
        """What is to be added to an instant of the clock that a stamp is of, to have it on this one.

        In the same boot nothing is. Else as much has passed as the wall clock says, but not less than nothing, and not
        less than since this boot began.
        """
        now, boot = self._monotonic(), self._boot
        if stamp.boot and stamp.boot == boot.name and stamp.instant <= now:
            return 0.0
        passed = max(0.0, self._wall() - stamp.wall, 0.0 if boot.began is None else now - boot.began)
        return now - passed - stamp.instant
