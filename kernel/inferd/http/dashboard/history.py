"""What a kernel did over the last day, in as many bytes from its first second on as at its last."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TIERS: Final = ((1, 600), (10, 720), (60, 1440))
"""How long a point is, in seconds, and how many there are: ten minutes, two hours and a day."""
SPANS: Final = {str(step_s * count): step_s * count for step_s, count in TIERS}
"""The spans that there are, as they are asked for."""
GAUGES: Final = ("tokens_per_second", "running", "queued", "memory_fraction")
TIMES: Final = ("first_token", "whole")
"""Times of ended tasks, of which parts are told: from their acceptance to their first token, and to their end."""
BINS: Final = 48
SHORTEST_S: Final = 0.001
RATIO: Final = 1.3
"""Of the ends of neighbouring bins: a part that is told is off by 14 % at most; the last bin ends at five minutes."""
MOST: Final = (1 << 16) - 1
PARTS: Final = (0.5, 0.95)
EMPTY: Final = -1


class _Tier:
    """Points of one length, the newest in place of the oldest."""

    def __init__(self, step_s: int, count: int) -> None:
        self.step_s = step_s
        self.count = count
        self._stamps = array("q", [EMPTY]) * count
        self._seconds = array("I", [0]) * count
        self._sums = array("d", [0.0]) * (count * len(GAUGES))
        self._bins = array("H", [0]) * (count * len(TIMES) * BINS)

    @property
    def size_bytes(self) -> int:
        """What it holds."""
        return sum(len(each) * each.itemsize for each in (self._stamps, self._seconds, self._sums, self._bins))

    def add(self, second: int, gauges: Sequence[float], times: Sequence[Sequence[int]]) -> None:
        """A second has passed; `times` are numbers of bins."""
        stamp = second // self.step_s
        at = stamp % self.count
        if self._stamps[at] != stamp:
            self._stamps[at], self._seconds[at] = stamp, 0
            for index in range(at * len(GAUGES), (at + 1) * len(GAUGES)):
                self._sums[index] = 0.0
            size = len(TIMES) * BINS
            self._bins[at * size : (at + 1) * size] = array("H", [0]) * size
        self._seconds[at] += 1
        for index, value in enumerate(gauges):
            self._sums[at * len(GAUGES) + index] += value
        for kind, bins in enumerate(times):
            first = (at * len(TIMES) + kind) * BINS
            for number in bins:
                self._bins[first + number] = min(MOST, self._bins[first + number] + 1)

    def points(self, now: int) -> list[list[float | None]]:
        """Those of the time that it covers up to `now`, oldest first."""
        last = now // self.step_s
        return [
            self.point(at)
            for stamp in range(max(0, last - self.count + 1), last + 1)
            if self._stamps[at := stamp % self.count] == stamp
        ]

    def point(self, at: int) -> list[float | None]:
        """The one at a place: when it began, the mean of each gauge, and the parts of each time."""
        seconds = self._seconds[at]
        sums = self._sums[at * len(GAUGES) : (at + 1) * len(GAUGES)]
        told: list[float | None] = [float(self._stamps[at] * self.step_s)]
        told += [round(each / seconds, 4) for each in sums]
        for kind in range(len(TIMES)):
            first = (at * len(TIMES) + kind) * BINS
            told += [_part(self._bins[first : first + BINS], part) for part in PARTS]
        return told


class History:
    """A day, second by second, then ten by ten and minute by minute. One writer: the feed that it is of."""

    def __init__(self) -> None:
        self._tiers = {step_s * count: _Tier(step_s, count) for step_s, count in TIERS}

    @property
    def size_bytes(self) -> int:
        """What it holds; never changes."""
        return sum(tier.size_bytes for tier in self._tiers.values())

    def add(self, second: int, gauges: Mapping[str, float], times: Mapping[str, Iterable[float]]) -> list[float | None]:
        """A second has passed; its point.

        Args:
            second: Which, since 1970.
            gauges: By the names of `GAUGES`.
            times: In seconds, by the names of `TIMES`, of the tasks that ended in it.
        """
        values = [gauges[name] for name in GAUGES]
        bins = [[_bin(each) for each in times[name]] for name in TIMES]
        for tier in self._tiers.values():
            tier.add(second, values, bins)
        finest = self._tiers[min(self._tiers)]
        return finest.point(second // finest.step_s % finest.count)

    def told(self, span_s: int, now: int) -> dict[str, Any] | None:
        """The points of a span for JSON; None for a span that there is none of."""
        tier = self._tiers.get(span_s)
        if tier is None:
            return None
        names = ["t", *GAUGES, *(f"{name}_p{round(part * 100)}_s" for name in TIMES for part in PARTS)]
        return {"span_s": span_s, "step_s": tier.step_s, "now": now, "names": names, "points": tier.points(now)}


def _bin(seconds: float) -> int:
    if not seconds > SHORTEST_S:
        return 0
    return min(BINS - 1, int(math.log(seconds / SHORTEST_S, RATIO)))


def _part(bins: Sequence[int], part: float) -> float | None:
    """The time that this part of all does not exceed, in the middle of its bin; None where there are none."""
    total = sum(bins)
    if not total:
        return None
    seen = 0
    for number, count in enumerate(bins):
        seen += count
        if seen >= part * total:
            return round(float(SHORTEST_S * RATIO ** (number + 0.5)), 4)
    return None
