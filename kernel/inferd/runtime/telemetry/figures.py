"""Counters and histograms, and the page of them in Prometheus' text format, version 0.0.4.

Prometheus' own library takes some 25 us for each value of a page: read each second, that of eight models took 3 % of a
core. Here what has not changed since it was last read is as it was written then, and counting is an addition.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from inferd.runtime.telemetry.table import Metric

    Gauges = Iterable[tuple[Metric, Mapping[tuple[str, ...], float]]]
    """Metrics that are read when the page is, each with its values by its labels."""

TRIES: Final = 3
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Count:
    """A number that rises. One writer: the kernel's loop; read from any thread.

    Args:
        name: Of its metric.
        labels: Names and values, as they are written.
    """

    __slots__ = ("_begin", "_text", "_told", "value")

    def __init__(self, name: str, labels: str, _: tuple[float, ...] = ()) -> None:
        self.value: float = 0
        self._begin = f"{name}{{{labels}}} " if labels else f"{name} "
        self._told, self._text = -1.0, ""

    def inc(self, amount: float = 1) -> None:
        """So much more."""
        self.value += amount

    def write(self) -> str:
        """Its line."""
        value = self.value
        if value != self._told:
            self._text, self._told = f"{self._begin}{value}\n", value
        return self._text


class Spread:
    """How often values were at most so large. One writer: the kernel's loop; read from any thread.

    Args:
        name: Of its metric.
        labels: Names and values, as they are written.
        bounds: The upper bounds of its buckets, rising.
    """

    __slots__ = ("_begins", "_bounds", "_counts", "_end", "_sum", "_text", "_told")

    def __init__(self, name: str, labels: str, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        before = f"{labels}," if labels else ""
        limits = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._begins = [f'{name}_bucket{{{before}le="{limit}"}} ' for limit in limits]
        behind = f"{{{labels}}}" if labels else ""
        self._end = f"{name}_count{behind} ", f"{name}_sum{behind} "
        self._told, self._text = -1, ""

    def observe(self, value: float) -> None:
        """There was such a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    @property
    def total(self) -> float:
        """Their sum."""
        return self._sum

    def write(self) -> str:
        """Its lines."""
        counts, total = [*accumulate(self._counts[:])], self._sum
        if counts[-1] != self._told:
            lines = [f"{begin}{count}\n" for begin, count in zip(self._begins, counts, strict=True)]
            self._text = f"{''.join(lines)}{self._end[0]}{counts[-1]}\n{self._end[1]}{total}\n"
            self._told = counts[-1]
        return self._text


F = TypeVar("F", Count, Spread)


class Family(Generic[F]):
    """A metric by its labels. One writer: the kernel's loop.

    Args:
        metric: It.
        kind: What stands for each set of labels.
    """

    def __init__(self, metric: Metric, kind: type[F]) -> None:
        self._metric = metric
        self._kind: type[F] = kind
        self._head = head_of(metric)
        self._figures: dict[tuple[str, ...], F] = {}

    def labels(self, *values: str) -> F:
        """That of these labels."""
        if (found := self._figures.get(values)) is None:
            metric = self._metric
            found = self._figures[values] = self._kind(metric.name, written(metric, values), metric.buckets)
        return found

    def forget(self, first: str) -> None:
        """Drop all whose first label has this value."""
        for values in [each for each in self._figures if each[0] == first]:
            del self._figures[values]

    def write(self) -> Iterable[str]:
        """Its lines; read from any thread."""
        yield self._head
        for figure in [*self._figures.values()]:
            yield figure.write()


class Registry:
    """All that is told. One writer: the kernel's loop; the page is made in any thread."""

    def __init__(self) -> None:
        self._families: list[Family[Count] | Family[Spread]] = []
        self._gauges: list[Callable[[], Gauges]] = []

    def count(self, metric: Metric) -> Family[Count]:
        """A metric that is counted up."""
        made = Family(metric, Count)
        self._families.append(made)
        return made

    def spread(self, metric: Metric) -> Family[Spread]:
        """A metric that is told values."""
        made = Family(metric, Spread)
        self._families.append(made)
        return made

    def read(self, gauges: Callable[[], Gauges]) -> None:
        """Have these read with each page."""
        self._gauges.append(gauges)

    def page(self) -> bytes:
        """What Prometheus reads.

        Records are copied while the loop goes on. A collection of garbage in the midst of that may let it go on there,
        and Python says that they have changed: then all is read again.
        """
        for _ in range(TRIES):
            with suppress(RuntimeError):
                return self._page()
        return self._page()

    def _page(self) -> bytes:
        lines = [line for family in [*self._families] for line in family.write()]
        for gauges in [*self._gauges]:
            for metric, values in gauges():
                lines.append(head_of(metric))
                for labels, value in values.items():
                    told = written(metric, labels)
                    lines.append(f"{metric.name}{{{told}}} {value}\n" if told else f"{metric.name} {value}\n")
        return "".join(lines).encode()


def head_of(metric: Metric) -> str:
    """What stands before the values of a metric."""
    help_text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {metric.name} {help_text}\n# TYPE {metric.name} {metric.kind}\n"


def written(metric: Metric, values: tuple[str, ...]) -> str:
    """Labels with their values, without the braces."""
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(metric.labels, values, strict=True))
