"""Instants as they are kept: Unix time for people, and a stamp by which the next kernel has them on its own clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from inferd.runtime.clock import Stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.runtime.clock import Clock
    from inferd.store.store import Store


async def set_clock(clock: Clock, store: Store | None, gap_s: float) -> None:
    """Let a clock go by that of the store's server: the kernel before this one may have run on another host.

    Raises:
        StoreUnavailableError: The server cannot be asked.
    """
    clock.gap_s = gap_s
    if store is not None and (wall := await asyncio.to_thread(store.unix_time)) is not None:
        clock.follow(wall)


def write_stamp(clock: Clock) -> list[str | float | bool]:
    """Now, on all clocks."""
    stamp = clock.stamp()
    return [stamp.boot, stamp.instant, stamp.wall, stamp.offset_s, stamp.sure]


def read_shift(written: Mapping[str, Any], clock: Clock, *, least: bool = False) -> float:
    """What is to be added to what `clock` makes of the Unix times of a record; 0 where it has no stamp.

    With `least`, by what has passed for certain alone.
    """
    if "stamp" not in written:
        return 0.0
    stamp = Stamp(*written["stamp"])
    return clock.shift_s(stamp, least=least) + clock.wall(0.0) - stamp.offset_s


def is_estimated(written: Mapping[str, Any], clock: Clock) -> bool:
    """Whether only the wall clock tells when the instants of a record are; it may be stepped until the next time."""
    return "stamp" not in written or clock.shift_s(Stamp(*written["stamp"])) != 0


def wall_of(instant: float | None, clock: Clock) -> float | None:
    """An instant as it is kept."""
    return None if instant is None else clock.wall(instant)


def instant_of(wall: float | None, clock: Clock, shift_s: float) -> float | None:
    """An instant on this clock, as it was kept."""
    return None if wall is None else clock.instant(wall) + shift_s
