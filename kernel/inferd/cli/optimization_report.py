"""What `OptimizeModel` found, as a table, as bars for a terminal, and as a file: SVG, HTML or JSON."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Final

from inferd.cli.amounts import size
from inferd.cli.plain import plain
from inferd_api.v1.optimize_pb2 import (
    OPTIMIZATION_TARGET_LATENCY,
    OPTIMIZATION_TARGET_MEMORY,
    TRIAL_STATE_MEASURED,
    TrialState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.duration_pb2 import Duration

    from inferd_api.v1.optimize_pb2 import OptimizationReport, Trial

COLUMNS: Final = (
    "TRIAL",
    "STATE",
    "SETTINGS",
    "TOKENS/S",
    "FIRST",
    "TOKEN",
    "ANSWER",
    "MEMORY",
    "LOSS",
    "AGREES",
    "WHY",
)
BAR: Final = 40  # characters of the longest one
WIDTH, HEIGHT, EDGE = 720, 400, 70  # of a drawing, in pixels
DOT = 5
KINDS: Final = (".json", ".svg", ".html")
NAMES = {
    OPTIMIZATION_TARGET_LATENCY: "time of an answer",
    OPTIMIZATION_TARGET_MEMORY: "resident memory",
}


def words(trial: Trial) -> str:
    """What is otherwise in a trial."""
    return " ".join(f"{name}={value}" for name, value in sorted(trial.settings.items())) or "as it is"


def state(trial: Trial) -> str:
    """Where a trial stands."""
    said = TrialState.Name(trial.state).removeprefix("TRIAL_STATE_").lower().replace("_", " ")
    return f"{said}, again" if trial.final else said


def row(trial: Trial) -> tuple[str, ...]:
    """A trial in the columns of the table."""
    m = trial.measurement
    timed = bool(m.rounds)
    return (
        str(trial.number),
        state(trial),
        words(trial),
        f"{m.tokens_per_second:.1f}" if timed else "",
        _milliseconds(m.first_token_duration) if timed else "",
        _milliseconds(m.token_duration) if timed else "",
        _milliseconds(m.answer_duration) if timed else "",
        size(m.memory_bytes) if m.memory_bytes else "",
        _loss(trial) if trial.HasField("measurement") else "",
        f"{m.agreement:.1%}" if trial.HasField("measurement") else "",
        trial.reason or trial.error.message or ("disturbed by other tasks" if m.disturbed else ""),
    )


def conclusion(report: OptimizationReport) -> list[str]:
    """What was found, in sentences."""
    best, original = report.best.measurement, report.original.measurement
    said = [report.ended_early] if report.ended_early else []
    if not report.settings:
        return [*said, f"nothing is better than the model as it is: {value(report, report.original)}"]
    was = f"{value(report, report.best)} instead of {value(report, report.original)}"
    return [
        *said,
        f"{words(report.best)}: {was}, {report.gain:.2f} times as good",
        (
            f"quality: perplexity {best.perplexity:.3f} instead of {original.perplexity:.3f} ({_loss(report.best)}),"
            f" the same likeliest token at {best.agreement:.1%} of {report.text_tokens} tokens"
        ),
    ]


def value(report: OptimizationReport, trial: Trial) -> str:
    """What a trial reached of the target."""
    m = trial.measurement
    if report.target == OPTIMIZATION_TARGET_LATENCY:
        return f"{_milliseconds(m.answer_duration)} for an answer"
    if report.target == OPTIMIZATION_TARGET_MEMORY:
        return size(m.memory_bytes)
    return f"{m.tokens_per_second:.1f} tokens/s"


def bars(report: OptimizationReport, *, mark: str = "#") -> list[str]:
    """A line for each trial that was measured, the best first, its bar as long as it is good."""
    ranked = sorted(_measured(report), key=lambda trial: -goodness(report, trial))
    most = max((goodness(report, trial) for trial in ranked), default=1.0)
    names = {trial.number: words(trial) for trial in ranked}
    room = max(map(len, names.values()), default=0)
    lines = []
    for trial in ranked:
        length = max(1, round(BAR * goodness(report, trial) / most))
        chosen = " <- best" if trial.number == report.best.number else ""
        lines.append(
            f"{trial.number:>3} {names[trial.number]:<{room}} {mark * length:<{BAR}} {value(report, trial)}{chosen}"
        )
    return lines


def goodness(report: OptimizationReport, trial: Trial) -> float:
    """How well a trial serves the target: more is better."""
    m = trial.measurement
    if report.target == OPTIMIZATION_TARGET_LATENCY:
        return 1e9 / max(1, m.answer_duration.ToNanoseconds())
    if report.target == OPTIMIZATION_TARGET_MEMORY:
        return 1e9 / max(1, m.memory_bytes)
    return m.tokens_per_second


def written(report: OptimizationReport, name: str, ending: str) -> str:
    """A report as the text of a file.

    Args:
        report: It.
        name: Of the model.
        ending: One of `KINDS`.
    """
    if ending == ".json":
        return json.dumps(plain(report), indent=2) + "\n"
    return drawing(report, name) if ending == ".svg" else page(report, name)


def drawing(report: OptimizationReport, name: str) -> str:
    """A drawing (SVG): what each trial costs in quality, to the right, and what it reaches, upward."""
    trials = _measured(report)
    losses = [100 * trial.measurement.loss for trial in trials]
    reached = [_amount(report, trial) for trial in trials]
    across, up = _scale(losses), _scale(reached)
    what = NAMES.get(report.target, "tokens/s")
    title = escape(f"{name}: {what} and cost in quality")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="20" text-anchor="middle" font-size="15">{title}</text>',
        f'<path d="M{EDGE} {EDGE / 2}V{HEIGHT - EDGE / 2}H{WIDTH - EDGE / 2}" fill="none" stroke="black"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">perplexity against the model as it is, %</text>',
    ]
    for at in (*across, sum(across) / 2):
        x = _place(at, across, EDGE, WIDTH - EDGE)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - EDGE / 2 + 15:.0f}" text-anchor="middle">{at:+.2f}</text>')
    for at in (*up, sum(up) / 2):
        y = _place(at, up, HEIGHT - EDGE, EDGE)
        parts.append(f'<text x="{EDGE - 6}" y="{y:.1f}" text-anchor="end">{escape(_told(report, at))}</text>')
    for trial, loss, amount in zip(trials, losses, reached, strict=True):
        x, y = _place(loss, across, EDGE, WIDTH - EDGE), _place(amount, up, HEIGHT - EDGE, EDGE)
        chosen = trial.number == report.best.number
        about = escape(f"{trial.number}: {words(trial)}, {value(report, trial)}, {trial.measurement.loss:+.2%}")
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT}" fill="{"crimson" if chosen else "steelblue"}">'
            f'<title>{about}</title></circle><text x="{x + DOT + 2:.1f}" y="{y + 4:.1f}">{trial.number}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def page(report: OptimizationReport, name: str) -> str:
    """A page (HTML) with the conclusion, the drawing and the table; it names no other file."""
    heads = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    rows = "\n".join(
        f"<tr{' class=best' if trial.number == report.best.number else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row(trial))
        + "</tr>"
        for trial in report.trials
    )
    said = "\n".join(f"<p>{escape(line)}</p>" for line in conclusion(report))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>\n'
        "<style>body{font-family:sans-serif;max-width:75em;margin:2em auto}table{border-collapse:collapse}"
        "td,th{padding:.2em .6em;text-align:left;border-bottom:1px solid #ccc}.best{font-weight:bold}</style></head>\n"
        f"<body><h1>{escape(name)}</h1>\n{said}\n{drawing(report, name)}"
        f"<table><tr>{heads}</tr>\n{rows}\n</table></body></html>\n"
    )


def _measured(report: OptimizationReport) -> Sequence[Trial]:
    """The trials that were measured, each of settings that were measured again once: the last time."""
    found = {words(trial): trial for trial in report.trials if trial.state == TRIAL_STATE_MEASURED}
    return [*found.values()]


def _loss(trial: Trial) -> str:
    m = trial.measurement
    return f"{m.loss:+.2%}" + (f" ±{m.loss_error:.2%}" if m.loss_error else "")


def _milliseconds(span: Duration) -> str:
    return f"{span.ToNanoseconds() / 1e6:.1f} ms"


def _amount(report: OptimizationReport, trial: Trial) -> float:
    m = trial.measurement
    if report.target == OPTIMIZATION_TARGET_LATENCY:
        return m.answer_duration.ToNanoseconds() / 1e6
    return m.memory_bytes if report.target == OPTIMIZATION_TARGET_MEMORY else m.tokens_per_second


def _told(report: OptimizationReport, amount: float) -> str:
    if report.target == OPTIMIZATION_TARGET_LATENCY:
        return f"{amount:.0f} ms"
    return size(amount) if report.target == OPTIMIZATION_TARGET_MEMORY else f"{amount:.0f}"


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest of some values; never nothing."""
    least, most = min(values, default=0.0), max(values, default=1.0)
    return (least, most) if most - least > 1e-9 else (least - 0.5, most + 0.5)  # noqa: PLR2004 - as good as nothing


def _place(value: float, scale: tuple[float, float], first: float, last: float) -> float:
    return first + (value - scale[0]) / (scale[1] - scale[0]) * (last - first)
