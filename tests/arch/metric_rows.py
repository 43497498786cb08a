"""The tables of `docs/metrics.md`, written of what a kernel tells: `python tests/arch/metric_rows.py --write`."""

import sys
from pathlib import Path

from inferd.runtime.telemetry.table import METRICS, Metric

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
BEGIN, END = "<!-- of the table in the source: begin -->\n", "<!-- end -->\n"


def row(metric: Metric) -> str:
    """A line of the table."""
    labels = " ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |\n"


def table() -> str:
    """The whole table."""
    head = "| name | type | unit | labels | what it tells |\n|---|---|---|---|---|\n"
    return head + "".join(map(row, METRICS))


def written(page: str) -> str:
    """A page with the table as it is to be."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return before + BEGIN + table() + END + behind


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
