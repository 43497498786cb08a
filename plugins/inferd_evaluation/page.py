"""A page of what evaluations have found: one file, which needs nothing from anywhere."""

from collections.abc import Iterator, Sequence
from html import escape

from pydantic import BaseModel

from inferd.plugin import function
from inferd_evaluation.figures import Difference, Figures, Measured, Report
from inferd_evaluation.items import MEMORY_BYTES

PART_CHARACTERS = 100_000  # of the page, in one piece
WIDTH, ROW, LEFT, RIGHT = 640, 26, 130, 90  # of a picture, in pixels
SMALL = 0.05  # a p-value below it is told as unlikely to be chance
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top }
td.n, th.n { text-align: right } pre { white-space: pre-wrap; margin: 0; font-size: .85rem }
svg text { font: 12px system-ui, sans-serif; fill: currentColor } .note { color: #57606a }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } th, td { border-color: #30363d } }
"""
COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#dc2626")


class Sample(BaseModel):
    """A line of the data and what a system gave for it."""

    number: int
    line: str
    answer: str
    scores: dict[str, float] = {}
    error: str = ""


class About(BaseModel):
    """What was evaluated: facts by name, in their order, and some lines of it."""

    name: str
    facts: dict[str, str]
    samples: list[Sample] = []


@function(timeout_s=60, memory_bytes=MEMORY_BYTES, internal=True)
def evaluation_page(
    *, title: str, report: Report, about: list[About], confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Iterator[str]:
    """Make a page of a report: tables, intervals as pictures, differences, and some lines with their answers.

    Args:
        title: Of the page.
        report: What was found.
        about: What was evaluated, in the order of the report's systems.
        confidence: Which part of the resamples an interval has.
        resamples: How many there were.
        seed: Which lines were drawn.
    """
    page = "".join(_page(title, report, about, confidence, f"{resamples} resamples of the lines, seed {seed}"))
    for begin in range(0, len(page), PART_CHARACTERS):
        yield page[begin : begin + PART_CHARACTERS]


def _page(title: str, report: Report, about: list[About], confidence: float, drawn: str) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>"
    for each in about:
        yield _table(("", each.name), [(name, value) for name, value in each.facts.items()])
    yield f"<h2>Figures</h2><p class=note>Intervals have {confidence:.1%} of {escape(drawn)}.</p>"
    yield _figures(report)
    yield _picture(report.systems)
    yield "".join(f"<p class=note>{escape(note)}</p>" for note in report.notes)
    if report.differences:
        first = escape(report.systems[0].name)
        yield f"<h2>Differences from {first}</h2><p class=note>Of pairs: both have answered each line that counts.</p>"
        names = [system.name for system in report.systems]
        head = ("system", "figure", "difference", "from", "to", "p", "lines", "")
        yield _table(head, [_difference(each, names) for each in report.differences], numbers=2)
    for system in report.systems:
        if system.labels:
            rows = [
                (each.label, f"{each.precision:.4f}", f"{each.recall:.4f}", f"{each.f1:.4f}", str(each.support))
                for each in system.labels
            ]
            yield f"<h2>Labels: {escape(system.name)}</h2>"
            yield _table(("label", "precision", "recall", "F1", "lines"), rows, numbers=1)
    for each in about:
        if each.samples:
            yield f"<h2>Lines: {escape(each.name)}</h2>" + _samples(each.samples)


def _figures(report: Report) -> str:
    names = list(dict.fromkeys(metric.name for system in report.systems for metric in system.metrics))
    rows = []
    for name in names:
        row = [name]
        for system in report.systems:
            found = next((metric for metric in system.metrics if metric.name == name), None)
            row.append("" if found is None else f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})")
        rows.append(tuple(row))
    rows.append(("lines", *(str(system.lines) for system in report.systems)))
    return _table(("figure", *(system.name for system in report.systems)), rows, numbers=1)


def _difference(each: Difference, names: list[str]) -> tuple[str, ...]:
    unlikely = "not by chance" if each.p_value < SMALL else "may be chance"
    numbers = (f"{each.value:+.4f}", f"{each.low:+.4f}", f"{each.high:+.4f}", f"{each.p_value:.4f}", str(each.lines))
    return (names[each.system], each.name, *numbers, unlikely)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, numbers: int = 99) -> str:
    """A table whose columns from number `numbers` on are set as numbers."""

    def cells(row: tuple[str, ...], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= numbers else ''}>{escape(text)}</{tag}>" for place, text in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _picture(systems: list[Figures]) -> str:
    """Each figure with its interval, those of one system in one colour; figures that are no parts are scaled."""
    rows: list[tuple[int, Measured]] = []
    for name in dict.fromkeys(metric.name for system in systems for metric in system.metrics):
        rows += [(n, metric) for n, system in enumerate(systems) for metric in system.metrics if metric.name == name]
    drawn = []
    for place, (number, metric) in enumerate(rows):
        most = 100.0 if metric.name == "bleu" else 5.0 if metric.name == "rating" else 1.0
        low, value, high = (
            LEFT + (WIDTH - LEFT - RIGHT) * max(0.0, each) / most for each in (metric.low, metric.value, metric.high)
        )
        middle, colour = place * ROW + ROW / 2, COLOURS[number % len(COLOURS)]
        drawn.append(
            f'<text x="0" y="{middle + 4:g}">{escape(metric.name)}</text>'
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{middle:g}" y2="{middle:g}" stroke="#8b949e" '
            'stroke-opacity=".3"/>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle:g}" y2="{middle:g}" stroke="{colour}" '
            'stroke-width="6" stroke-opacity=".4" stroke-linecap="round"/>'
            f'<circle cx="{value:.1f}" cy="{middle:g}" r="5" fill="{colour}">'
            f"<title>{escape(systems[number].name)}: {metric.value:.4f}</title></circle>"
            f'<text x="{WIDTH - RIGHT + 12}" y="{middle + 4:g}">{metric.value:.4f}</text>'
        )
    height = len(rows) * ROW
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img">{"".join(drawn)}</svg>'


def _samples(samples: list[Sample]) -> str:
    rows = []
    for each in samples:
        scores = ", ".join(f"{name} {value:.3g}" for name, value in each.scores.items())
        cells = f"<td>{each.number}</td><td><pre>{escape(each.line)}</pre></td>"
        cells += f"<td><pre>{escape(each.error or each.answer)}</pre></td><td>{escape(scores)}</td>"
        rows.append(f"<tr>{cells}</tr>")
    head = "<tr><th>line</th><th>data</th><th>answer</th><th>scores</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
