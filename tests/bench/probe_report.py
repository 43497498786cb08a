"""What `make probes` has found so far: parts, of one sitting or of several, and the figures of all of them."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

MOST_US = 20.0
MOST_AUC = 0.55

Part = dict[str, Any]


class Report:
    """Parts, each a line of a file where there is one: a run goes on where the one before it stopped.

    A part has the name of its case, its number of `pairs`, how many answers `differ`, and in microseconds what answers
    were `apart_us`, or how long each took of prompts that were `seen_us` and `fresh_us`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.parts: dict[str, list[Part]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))

    def _take(self, part: Part) -> None:
        self.parts.setdefault(part["case"], []).append(part)

    def add(self, part: Part) -> None:
        """One more part, on the disk when this returns."""
        self._take(part)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(part, separators=(",", ":")) + "\n")

    def pairs(self, case: str) -> int:
        """How many pairs of a case there are."""
        return sum(part["pairs"] for part in self.parts.get(case, ()))

    def figure(self, case: str) -> Part:
        """What all parts of a case come to; `within` is whether times are as they should be."""
        parts = self.parts[case]
        told: Part = {"case": case, "pairs": self.pairs(case)}
        if "apart_us" in parts[0]:
            median, low, high = interval([each for part in parts for each in part["apart_us"]])
            told |= {"differ": sum(part["differ"] for part in parts)}
            told |= {"median_us": round(median, 1), "low_us": round(low, 1), "high_us": round(high, 1)}
            told["within"] = max(-low, high) <= MOST_US
        else:  # each part by itself: sittings are not equally fast
            area = sum(part["pairs"] * area_under(part["seen_us"], part["fresh_us"]) for part in parts) / told["pairs"]
            told["auc"] = round(max(area, 1 - area), 4)
            told["within"] = told["auc"] <= MOST_AUC or not parts[0]["hidden"]
        return told


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the ends of its 95 % interval: by order, whatever the distribution."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    low = max(0, math.floor(len(values) / 2 - half))
    high = min(len(values) - 1, math.ceil(len(values) / 2 + half))
    return statistics.median(ordered), ordered[low], ordered[high]


def area_under(less: list[float], more: list[float]) -> float:
    """How often a value of `more` lies above one of `less`; of equal ones half of them (Mann and Whitney)."""
    ordered = sorted([(value, 0) for value in less] + [(value, 1) for value in more])
    ranks, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        ranks += (at + 1 + end) / 2 * sum(kind for _, kind in ordered[at:end])
        at = end
    return (ranks - len(more) * (len(more) + 1) / 2) / (len(less) * len(more))
