"""The table of a comparison, in docs/performance.md between two marks, one for each instruction set."""

import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from catalogue import Entry
from workload import LONG, Case

NONE = "-"


@dataclass(slots=True)
class Sitting:
    """What was measured one after the other on one machine.

    Attributes:
        processor: Its name and what it has.
        isa: The instruction set that all were held to.
        date: Of its beginning.
        shape: Of the model; "" for SmolLM2.
        rates: By entry and case, one of each round, in tokens a second.
        limits: What the machine allows, by bits of the weights (None: as stored) and case.
        limits_told: How those were found.
        missing: Why an entry is not there.
    """

    processor: str
    isa: str
    date: str
    cases: list[Case]
    entries: list[Entry]
    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    limits: dict[tuple[int | None, str], float] = field(default_factory=dict)
    limits_told: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    shape: str = ""

    @property
    def mark(self) -> str:
        """By which its table is found again: another one for long contexts, and for each shape."""
        long = "long" * all(case in LONG for case in self.cases)
        return " ".join(word for word in ("peers", self.isa, self.shape, long) if word)

    def median(self, entry: Entry, case: Case) -> float | None:
        """Of the rounds; None where there are none."""
        rates = self.rates.get((entry.name, case.name))
        return statistics.median(rates) if rates else None


def write(path: Path, sitting: Sitting) -> None:
    """Put the table in the place of the one of the same instruction set, or at the end."""
    begin, end = f"<!-- {sitting.mark} -->", f"<!-- /{sitting.mark} -->"
    block = f"{begin}\n{render(sitting)}{end}"
    text = path.read_text()
    old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = old.sub(lambda _: block, text) if old.search(text) else f"{text.rstrip()}\n\n{block}\n"
    path.write_text(text)


def render(sitting: Sitting) -> str:
    """The table and what it must be read with."""
    head = ["output tok/s (prefill: prompt tok/s)", *(case.name for case in sitting.cases)]
    measured = [entry for entry in sitting.entries if entry.name not in sitting.missing]
    lines = [[entry.name, *(_cell(sitting, entry, case) for case in sitting.cases)] for entry in measured]
    lines += _conclusions(sitting, measured)
    most = max((len(rates) for rates in sitting.rates.values()), default=0)
    rounds = f"{most} interleaved round{'s' * (most != 1)}; medians, with the least and the most"
    what = f", random weights, {sitting.shape.upper()}" if sitting.shape else ""
    text = f"### {sitting.isa}{what}: {sitting.processor}, {sitting.date}\n\n{rounds}. {sitting.limits_told}\n\n"
    text += "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---", *["---:"] * len(sitting.cases)], *lines])
    if sitting.missing:
        text += "\nNot to be had here:\n\n" + "".join(f"- {name}: {why}\n" for name, why in sitting.missing.items())
    return text


def _cell(sitting: Sitting, entry: Entry, case: Case) -> str:
    rates = sitting.rates.get((entry.name, case.name), [])
    if not rates:
        return NONE
    middle, least, most = (f"{rate:,.0f}" for rate in (statistics.median(rates), min(rates), max(rates)))
    return middle if least == most else f"{middle} ({least} to {most})"


def _conclusions(sitting: Sitting, measured: list[Entry]) -> list[list[str]]:
    """What is served over the best peer, and as a fraction of what the machine allows."""
    ratios = ["**served over the best peer**"]
    for case in sitting.cases:
        served = [sitting.median(entry, case) or 0.0 for entry in measured if entry.served]
        peers = [sitting.median(entry, case) or 0.0 for entry in measured if not entry.ours]
        some = max(served, default=0.0) and max(peers, default=0.0)
        ratios.append(f"**{max(served) / max(peers):.2f}**" if some else NONE)
    lines = [ratios]
    for entry in (entry for entry in measured if entry.served):
        name = f"{entry.bits or 4}-bit weights"
        limits = [sitting.limits.get((entry.bits, case.name)) for case in sitting.cases]
        lines.append([f"limit of the machine, {name}", *(f"{limit:,.0f}" if limit else NONE for limit in limits)])
        shares = []
        for case, limit in zip(sitting.cases, limits, strict=True):
            rate = sitting.median(entry, case)
            shares.append(f"{rate / limit:.2f}" if rate and limit else NONE)
        lines.append([f"served, fraction of it, {name}", *shares])
    return lines
