"""`inferd optimize`: settings of a model that serve a target better on the kernel's host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from inferd.cli.kernel import connected
from inferd.cli.optimization_report import COLUMNS, KINDS, bars, conclusion, row, state, value, words, written
from inferd.cli.options import EMPTY
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd_api.v1.optimize_pb2 import TRIAL_STATE_RUNNING, OptimizationReport, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_client import Client


def read_part(text: str, option: str) -> float:
    """A part as "1%" or "0.01".

    Raises:
        typer.BadParameter: It is none.
    """
    number = text.strip().removesuffix("%")
    try:
        found = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        message = EMPTY if not text else f'{text!r} is no part; write it like "1%" or "0.01"'
        raise typer.BadParameter(message, param_hint=option) from None
    return found


def optimize(
    output: Output,
    address: str,
    name: str,
    *,
    text: Path,
    wanted: Mapping[str, Any],
    report_to: Path | None,
    apply: bool,
) -> None:
    """Try settings, tell what was found, write it to a file, and roll it out if that is asked for.

    Raises:
        CommandError: The text or the file cannot be read or written, or the kernel refuses.
    """
    if report_to is not None and report_to.suffix not in KINDS:
        message = f"{report_to} ends on {report_to.suffix!r}; a report is one of {', '.join(KINDS)}"
        raise typer.BadParameter(message, param_hint="--report")
    read = _read_text(text)
    with connected(address) as client:
        report = _follow(output, client, name, read, wanted)
        if report_to is not None:
            report_to.write_text(written(report, name, report_to.suffix), encoding="utf-8")
        applied = _apply(output, client, name, report) if apply and report.settings else 0
    if output.json:
        output.document({**plain(report), "applied_version": applied})
        return
    output.table(COLUMNS, map(row, report.trials), gives_way="WHY", empty="nothing was tried")
    output.text("")
    for line in [*bars(report), "", *conclusion(report)]:
        output.text(line)
    if report_to is not None:
        output.note(f"the report is in {report_to}")
    if applied:
        output.text(f"version {applied} of {name} serves with that")
    elif report.settings:
        output.text(f"to have it: inferd models set {name} {words(report.best)}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{path} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#x}"
        raise CommandError(message, reason="USAGE") from None


def _follow(output: Output, client: Client, name: str, text: str, wanted: Mapping[str, Any]) -> OptimizationReport:
    report = OptimizationReport()
    with output.status(f"looking at {name}") as say:
        trials = 0
        for told in client.optimize_model(name, text, **wanted):
            match told.WhichOneof("kind"):
                case "plan":
                    trials = told.plan.trials
                    knobs = ", ".join(f"{knob.setting} ({', '.join(knob.values)})" for knob in told.plan.knobs)
                    output.note(
                        f"varies {knobs}; at most {trials} trials, each loaded beside as {told.plan.trial_model}"
                    )
                case "trial":
                    _tell_trial(output, say, told.trial, trials)
                case "report":
                    report = told.report
    return report


def _tell_trial(output: Output, say: Callable[[str], None], trial: Trial, trials: int) -> None:
    if trial.state == TRIAL_STATE_RUNNING:
        say(f"trial {trial.number} of at most {trials}: {words(trial)}")
        return
    m = trial.measurement
    why = trial.reason or trial.error.message
    rate = f", {m.tokens_per_second:.1f} tokens/s" if m.rounds else ""
    cost = f", perplexity {m.loss:+.2%}" if trial.HasField("measurement") else ""
    output.note(f"{trial.number}/{trials} {words(trial)}: {state(trial)}{rate}{cost}{f': {why}' if why else ''}")


def _apply(output: Output, client: Client, name: str, report: OptimizationReport) -> int:
    with output.status(f"rolling out {name} with {words(report.best)}, {value(report, report.best)}"):
        return client.update_model(name, settings=dict(report.settings)).version
